"""What several commands share: options, progress, folders, settings."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from radscale.errors import InputError

# A log file is not 80 columns wide.
console = Console(width=None if sys.stdout.isatty() else 120)
ExperimentArgument = Annotated[str, typer.Argument(help="Experiment YAML, or a recipe: phantom, smoke, images, paper.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder.  \\[default: runs/NAME]", show_default=False)]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes.  \\[default: by cores]", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="medimageinsight, rad-dino, dinov2, or an encoder of your own as FILE.py:FUNCTION.  \\[default: by the files]",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key: --set analysis.num_bootstrap=2000", show_default=False),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML with further settings.", show_default=False)]
NewOut = Annotated[Path, typer.Option("--out", help="New folder.")]


def load_study(experiment: str, out: Path | None, overrides: list[str] | None = None) -> Any:
    from radscale.experiment import load_experiment
    from radscale.experiment.study import Study

    return Study(load_experiment(experiment, _parse_overrides(overrides or [])), out)


def _parse_overrides(items: list[str]) -> dict[str, Any]:
    from radscale.experiment.yaml_lines import parse_value

    values: dict[Any, Any] = {}
    for item in items:
        key, found, text = item.partition("=")
        if not (found and key):
            raise InputError(f"--set {item}: write KEY=VALUE, e.g. --set analysis.num_bootstrap=2000")
        inner = values
        *path, last = key.split(".")
        for part in path:
            inner = inner.setdefault(_key(part), {})
            if not isinstance(inner, dict):
                raise InputError(f"--set {item}: '{part}' has a value of its own in another --set; give one of the two")
        inner[_key(last)] = parse_value(text, f"--set {item}")
    return values


def _key(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def show_progress(title: str) -> Any:
    """A bar with ETA on a terminal, a line now and then elsewhere."""
    from radscale.execution.display import OneBar

    return OneBar(console, title)


def show_progress_beside(title: str) -> Any:
    """The same on standard error, where standard output is the result."""
    from radscale.execution.display import OneBar

    return OneBar(Console(stderr=True), title)


def new_folder(path: Path, *, resumes: bool = False) -> Path:
    """Outputs are written beside their place and renamed when they are whole; what a killed command left is removed."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not an empty folder; choose a new one")
    partial = path.with_name(path.name + ".partial")
    if not resumes:
        remove_folder(partial)
    return partial


def remove_folder(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def make_settings(cls: type, values: dict[str, Any], file: Path | None) -> Any:
    """Settings from --config FILE (YAML) with the command line on top."""
    from radscale.experiment.build import build

    return build(cls, {**read_settings(file), **{key: value for key, value in values.items() if value is not None}}, "settings")


def read_settings(file: Path | None) -> dict[str, Any]:
    from radscale.experiment.yaml_lines import read_yaml

    return read_yaml(file)[0] if file is not None else {}


def print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        console.print(f"{key.replace('_', ' ')}: {value}", highlight=False, soft_wrap=True)


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows with equal keys as a table, numbers with three digits."""
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def show_table(table: Any, format: str | None, out: Path | None) -> None:
    from radscale.analysis.text_tables import FORMATS, SUFFIXES

    chosen = format or (SUFFIXES.get(out.suffix, "table") if out is not None else "table")
    if chosen not in FORMATS:
        raise InputError(f"--format {chosen}: choose among {', '.join(FORMATS)}")
    if out is not None:
        if chosen == "table":
            raise InputError(f"--out {out}: give --format csv, latex or markdown, or a name ending in .csv, .tex or .md")
        try:
            out.write_text(table.render(chosen), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}; choose a file in a folder that exists") from None
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
        return
    if chosen != "table":
        typer.echo(table.render(chosen), nl=False)
        return
    shown = Table(title=table.title)
    for column in table.columns:
        shown.add_column(column.title, justify=column.align, no_wrap=True)
    for rows in (table.rows, table.footer_rows):
        for row in rows:
            shown.add_row(*(Text(text, style="bold" if bold else "") for text, bold in table.cells(row)))
        shown.add_section()
    # A number that is cut off is worse than a line that is too long.
    width = console.measure(shown, options=console.options.update(max_width=1000)).maximum
    Console(width=max(width, console.width)).print(shown)
    for note in table.notes:
        console.print(note, highlight=False, markup=False)


def labels_of(dataset: Path, labels: Path | None) -> Path:
    """Given labels, else extracted ones, else those that came with the images."""
    if labels is not None:
        return labels
    return dataset / "extraction" if (dataset / "extraction" / "labels.parquet").exists() else dataset


def complain(line: str, code: int) -> int:
    Console(stderr=True).print(f"radscale: {line}", style="red", highlight=False, soft_wrap=True, markup=False)
    return code
