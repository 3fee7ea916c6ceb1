"""The command line. It selects and prints; knowledge lives in the packages below."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from radscale import __version__
from radscale.errors import InputError

app = typer.Typer(
    name="radscale",
    help="How much of our own data does it take to beat the open chest X-ray models, with which objective, and what "
    "will more data bring?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A log file is not 80 columns wide.
console = Console(width=None if sys.stdout.isatty() else 120)

ExperimentArgument = Annotated[str, typer.Argument(help="Experiment YAML, or a recipe: phantom, smoke, images, paper.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder.  [default: runs/NAME]", show_default=False)]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes.  [default: by cores]", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key: --set analysis.num_bootstrap=2000", show_default=False),
]


def _study(experiment: str, out: Path | None, overrides: list[str] | None = None) -> Any:
    from radscale.experiment import load_experiment
    from radscale.experiment.study import Study

    return Study(load_experiment(experiment, _parse_overrides(overrides or [])), out)


def _parse_overrides(items: list[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for item in items:
        key, found, text = item.partition("=")
        if not found:
            raise InputError(f"--set {item}: write KEY=VALUE, e.g. --set analysis.num_bootstrap=2000")
        inner = values
        *path, last = key.split(".")
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = yaml.safe_load(text)
    return values


@app.command()
def demo(out: OutOption = None, workers: WorkersOption = None) -> None:
    """Run the `phantom` recipe end to end: a synthetic hospital, a whole study, one report. Minutes on a laptop."""
    run("phantom", out=out, workers=workers)


@app.command()
def plan(experiment: ExperimentArgument, out: OutOption = None, overrides: SetOption = None) -> None:
    """List every run that would be made, with its cost. Nothing is started."""
    from radscale.experiment.costs import print_plan

    study = _study(experiment, out, overrides)
    print_plan(study, console)


@app.command()
def run(
    experiment: ExperimentArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    only: Annotated[str | None, typer.Option("--only", help="Stop after this stage, e.g. datasets or pretraining.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace outputs made with other settings.")] = False,
    overrides: SetOption = None,
) -> None:
    """Do the experiment. Kill it at any moment and run it again: only what is missing is done."""
    from radscale.experiment.study import default_workers

    started = time.monotonic()
    study = _study(experiment, out, overrides)
    summary = study.run(console, num_workers=workers or default_workers(), rebuild=rebuild, only=only)
    _print_times(study, time.monotonic() - started)
    if not summary.ok:
        for outcome in ("failed", "busy"):
            for name in summary.names(outcome):
                console.print(f"[red]{outcome}[/] {name}: {summary.reasons[name]}", highlight=False, soft_wrap=True)
        console.print(f"{len(summary.names('skipped'))} steps were skipped because of that", highlight=False)
        raise typer.Exit(1)
    if only is None:
        console.print(f"report: {study.report()}", highlight=False, soft_wrap=True)


def _print_times(study: Any, wall_seconds: float) -> None:
    table = Table(title=f"{study.settings.title}: time per stage (sums over steps, which run side by side)")
    for column in ("stage", "steps", "seconds", "peak memory GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in study.stage_times():
        table.add_row(row.stage, str(row.num_steps), f"{row.seconds:.1f}", f"{row.peak_memory_gb:.2f}")
    table.add_section()
    table.add_row("this run, wall clock", "", f"{wall_seconds:.1f}", "")
    console.print(table)


@app.command()
def status(experiment: ExperimentArgument, out: OutOption = None, overrides: SetOption = None) -> None:
    """Say what is done, running, failed, stale (and why) or still missing."""
    from radscale.execution.runner import describe_progress

    study = _study(experiment, out, overrides)
    states = study.states()
    table = Table(title=f"{study.settings.name} in {study.store.root}")
    for column in ("step", "status", "why"):
        table.add_column(column, overflow="fold")
    colours = {"done": "green", "running": "cyan", "failed": "bold red", "stale": "yellow", "interrupted": "yellow"}
    for name, state in states.items():
        reason = "; ".join(filter(None, [state.reason, *state.changes[:4], describe_progress(state.progress)]))
        colour = colours.get(state.status, "dim")
        table.add_row(name, f"[{colour}]{state.status}[/]", reason)
    console.print(table)
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state.status] = counts.get(state.status, 0) + 1
    console.print(", ".join(f"{count} {name}" for name, count in counts.items()), highlight=False)


@app.command()
def report(experiment: ExperimentArgument, out: OutOption = None, overrides: SetOption = None) -> None:
    """Write the answer page (one HTML file), figures (SVG, PDF) and tables (CSV, LaTeX) from finished results."""
    study = _study(experiment, out, overrides)
    console.print(f"report: {study.report()}", highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        console.print(__version__, highlight=False)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    sys.exit(_run(lambda: app(args=arguments, standalone_mode=True)))


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except InputError as error:
        Console(stderr=True).print(f"radscale: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; run the same command again to go on", highlight=False)
        return 130
    return 0


if __name__ == "__main__":
    main()
