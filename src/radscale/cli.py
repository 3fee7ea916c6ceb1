"""The command line. It selects and prints; knowledge lives in the packages below."""

import errno
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from radscale import __version__
from radscale.errors import InputError, OtherProcessError

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
STAGE_NAMES = (
    "phantom, datasets, extraction, agreement, open_weights, budget, pretraining, probing, analysis, pictures, similarity"
)
EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run it again."""
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


def _study(experiment: str, out: Path | None, overrides: list[str] | None = None) -> Any:
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


@app.command()
def demo(out: OutOption = None, workers: WorkersOption = None) -> None:
    """Run the `phantom` recipe end to end: a synthetic hospital, a whole study, one report. Minutes on a laptop."""
    run("phantom", out=out, workers=workers)


@app.command()
def plan(
    experiment: ExperimentArgument,
    out: OutOption = None,
    overrides: SetOption = None,
    gpu_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Propose the sizes and replicates that fit into so many device hours.", show_default=False),
    ] = None,
) -> None:
    """List every run that would be made, with its cost; or propose what fits into a budget. Nothing is started."""
    from radscale.experiment.costs import print_plan, print_proposal

    study = _study(experiment, out, overrides)
    if gpu_hours is not None:
        print_proposal(study, gpu_hours, console)
        return
    print_plan(study, console)


@app.command()
def run(
    experiment: ExperimentArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    only: Annotated[
        str | None, typer.Option("--only", help=f"Do this stage and what it needs, no report: {STAGE_NAMES}.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace outputs made with other settings.")] = False,
    overrides: SetOption = None,
) -> None:
    """Do the experiment on this machine. Kill it at any moment and run it again: only what is missing is done.

    Steps run side by side in --workers processes; a second run of the same experiment shares the work.
    """
    from radscale.experiment.study import default_workers

    started = time.monotonic()
    study = _study(experiment, out, overrides)
    summary = study.run(console, num_workers=workers or default_workers(), rebuild=rebuild, only=only)
    _print_times(study, time.monotonic() - started)
    if not summary.ok:
        for name in summary.names("failed"):
            console.print(f"[red]failed[/] {name}: {escape(summary.reasons[name])}", highlight=False, soft_wrap=True)
        console.print(f"{len(summary.names('skipped'))} steps were skipped because of that", highlight=False)
    if only is None and summary.outcomes["analysis"] in ("done", "kept"):
        console.print(f"report: {study.report()}", highlight=False, soft_wrap=True)
    if not summary.ok:
        raise typer.Exit(1)


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
    colours = {
        "done": "green",
        "running": "cyan",
        "failed": "bold red",
        "stale": "yellow",
        "interrupted": "yellow",
        "incomplete": "yellow",
    }
    for name, state in states.items():
        reason = "; ".join(filter(None, [state.reason, *state.changes[:4], describe_progress(state.progress)]))
        colour = colours.get(state.status, "dim")
        table.add_row(name, f"[{colour}]{state.status}[/]", escape(reason))
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


def _progress(title: str) -> Any:
    """A bar with ETA on a terminal, a line now and then elsewhere."""
    from radscale.execution.display import OneBar

    return OneBar(console, title)


def _progress_beside(title: str) -> Any:
    """The same on standard error, where standard output is the result."""
    from radscale.execution.display import OneBar

    return OneBar(Console(stderr=True), title)


def _new_folder(path: Path, *, resumes: bool = False) -> Path:
    """Outputs are written beside their place and renamed when they are whole; what a killed command left is removed."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not an empty folder; choose a new one")
    partial = path.with_name(path.name + ".partial")
    if not resumes:
        _remove(partial)
    return partial


def _settings(cls: type, values: dict[str, Any], file: Path | None) -> Any:
    """Settings from --config FILE (YAML) with the command line on top."""
    from radscale.experiment.build import build

    return build(
        cls, {**_read_settings(file), **{key: value for key, value in values.items() if value is not None}}, "settings"
    )


def _read_settings(file: Path | None) -> dict[str, Any]:
    from radscale.experiment.yaml_lines import read_yaml

    return read_yaml(file)[0] if file is not None else {}


def _print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        console.print(f"{key.replace('_', ' ')}: {value}", highlight=False, soft_wrap=True)


ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML with further settings.", show_default=False)]
NewOut = Annotated[Path, typer.Option("--out", help="New folder.")]


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder for the archive.")],
    hospital: Annotated[str, typer.Option(help="own or public: other scanners, people and habits.")] = "own",
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
    workers: WorkersOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a synthetic hospital: DICOM files, reports, and the truth beside them."""
    from radscale.experiment.study import default_workers
    from radscale.phantom import PhantomConfig, generate_archive

    settings = _settings(PhantomConfig, {"hospital": hospital, "num_patients": patients, "seed": seed}, config)
    partial = _new_folder(out)
    with _progress("phantom") as progress:
        facts = generate_archive(settings, partial, num_workers=workers or default_workers(), progress=progress)
    partial.rename(out)
    _print_facts(facts)


@app.command()
def ingest(
    archive: Annotated[
        str,
        typer.Argument(
            help="Folder, tar, zip or DICOMDIR of DICOM files with reports.csv; https://... of a PACS (DICOMweb); or a folder "
            "of images with a table."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder; with --add the dataset.")],
    kind: Annotated[str | None, typer.Option(help="dicom or images.  \\[default: dicom]", show_default=False)] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="A published data set as it comes: vindr-cxr, vindr-cxr-kaggle, ranzcr-clip, nih, chexpert, mimic-cxr-jpg, "
            "padchest, openi, siim, or auto.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Shorter side in pixels.")] = 518,
    table: Annotated[str | None, typer.Option(help="images: the table with one row per image.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="images: COLUMN=binary|categorical|multiple.", show_default=False)
    ] = None,
    reports: Annotated[
        str | None,
        typer.Option(
            help="dicom: reports below ARCHIVE: .csv, .parquet, .jsonl, or a folder of .txt and .hl7 files.  "
            "\\[default: reports.csv; of a PACS none]",
            show_default=False,
        ),
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="PACS: of the series to read.  \\[default: CR,DX]", show_default=False)
    ] = None,
    dates: Annotated[
        str | None, typer.Option(help="PACS: of the studies to read, YYYYMMDD-YYYYMMDD.  \\[default: all]", show_default=False)
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Add the files that the dataset does not have yet.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="Decode only this share of the files, such as 3/16, beside other jobs; then the same command without it.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="local, or ray: decode on the cluster of RAY_ADDRESS.")] = "local",
    secret: Annotated[
        Path | None, typer.Option(help="Key of the pseudonyms.  \\[default: OUT.secret]", show_default=False)
    ] = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
) -> None:
    """Turn an archive into a de-identified dataset: manifest, shards, splits, nested subsets. Loses nothing silently.

    Kill it at any moment and run it again: it goes on where it was. Every file that is not in the dataset is a row of
    exclusions.parquet with its reason. A PACS asks for RADSCALE_PACS_USER and RADSCALE_PACS_PASSWORD, or RADSCALE_PACS_TOKEN,
    of the environment, or ~/.netrc.
    """
    from radscale.datasets import IngestConfig, Part, load_or_create_secret
    from radscale.datasets import ingest as run_ingest
    from radscale.experiment.study import default_workers

    pairs = dict(item.partition("=")[::2] for item in labels or [])
    given = {
        "kind": kind or ("dicom" if layout is None else "images"),
        "layout": layout,
        "image_size_px": size,
        "table": table,
        "labels": pairs or None,
        "reports": reports,
        "pacs_modalities": modalities,
        "pacs_dates": dates,
    }
    settings = _settings(IngestConfig, given, config)
    key_file = secret or out.with_name(out.name + ".secret")
    if add and not key_file.is_file():
        raise InputError(f"{key_file}: no such key; give the one that {out} was made with as --secret")
    if backend not in ("local", "ray"):
        raise InputError(f"--backend {backend}: give local or ray")
    share = Part.parse(part) if part is not None else None
    key = load_or_create_secret(key_file)
    num_workers = workers or (0 if backend == "ray" else default_workers())
    with _progress("ingest") as progress:
        facts = run_ingest(
            settings,
            archive,
            out,
            secret=key,
            num_workers=num_workers,
            add=add,
            part=share,
            backend=backend,  # type: ignore[arg-type]
            progress=progress,
        )
    _print_facts(facts)


@app.command()
def verify(dataset: Annotated[Path, typer.Argument(help="Dataset folder.")]) -> None:
    """Check a dataset: bytes against their hashes, splits by patient, nesting, and that inputs add up."""
    from radscale.datasets import verify_dataset

    with _progress("verify") as progress:
        problems = verify_dataset(dataset, progress)
    for problem in problems:
        console.print(f"[red]{problem}[/]", highlight=False)
    if problems:
        raise typer.Exit(1)
    console.print("everything holds", highlight=False)


@app.command()
def card(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for card.html, card.md and croissant.json.")],
    licence: Annotated[str, typer.Option(help="Of the dataset, as it shall stand on the card.")] = "",
    images: Annotated[
        int,
        typer.Option(min=0, help="So many random images of each view. They are patients': look before you share."),
    ] = 0,
) -> None:
    """What is in a dataset, how it came about, and how it was de-identified: a card to show, and Croissant metadata."""
    import json

    from radscale.datasets import Dataset
    from radscale.datasets.card import contact_sheet_rows, describe_dataset
    from radscale.datasets.card_page import card_html, card_markdown
    from radscale.datasets.croissant import croissant

    partial = _new_folder(out)
    found, data = describe_dataset(dataset, licence=licence), Dataset(dataset)
    pictures = {view: data.read_images(rows) for view, rows in contact_sheet_rows(data, images).items()}
    partial.mkdir(parents=True)
    (partial / "card.html").write_text(card_html(found, pictures), encoding="utf-8")
    (partial / "card.md").write_text(card_markdown(found), encoding="utf-8")
    (partial / "croissant.json").write_text(json.dumps(croissant(dataset, found), indent=1) + "\n", encoding="utf-8")
    partial.rename(out)
    console.print(f"{out}/card.html, card.md, croissant.json", highlight=False, soft_wrap=True)


@app.command()
def outliers(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for quality.parquet and outliers.html.", show_default=False)
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Look among these (.parquet of `radscale embed`) instead of pixels.", show_default=False),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(help="Set aside by this quality.parquet, made before.", show_default=False)
    ] = None,
    set_aside_above: Annotated[
        float | None, typer.Option(help="Take images with a higher score out of the dataset.", show_default=False)
    ] = None,
    set_aside_duplicates: Annotated[
        bool, typer.Option("--set-aside-duplicates", help="Take out all of a group of near duplicates but its first image.")
    ] = False,
    put_back: Annotated[bool, typer.Option("--put-back", help="Take back all that was set aside.")] = False,
    config: ConfigOption = None,
) -> None:
    """Which images look unlike all others, and which are one image under two names; take them out, or back.

    Look at outliers.html first: it shows what a threshold takes out. Shards are not rewritten, and nothing is lost.
    """
    from radscale.datasets import outliers as run

    given = sum([out is not None, quality is not None, put_back])
    if given != 1:
        raise InputError("give one of --out (to assess), --quality (to set aside), --put-back")
    if quality is None and (set_aside_above is not None or set_aside_duplicates):
        raise InputError("--set-aside-above and --set-aside-duplicates need --quality FILE: assess first, look, then decide")
    if put_back:
        _print_facts(run.put_back(dataset))
    elif quality is not None:
        _print_facts(run.set_aside_by(dataset, quality, above=set_aside_above, duplicates=set_aside_duplicates))
    else:
        assert out is not None
        partial = _new_folder(out)
        settings = _settings(run.QualityConfig, {}, config)
        with _progress("outliers") as progress:
            facts = run.find_outliers(settings, dataset, partial, embeddings=embeddings, progress=progress)
        partial.rename(out)
        _print_facts(facts)
        console.print(f"look at it: {out}/outliers.html", highlight=False, soft_wrap=True)


@app.command()
def extract(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option(help="\\[default: DATASET/extraction]", show_default=False)] = None,
) -> None:
    """Reports to findings, lines and tubes, by rules."""
    from radscale.extraction import run_extraction

    with _progress("extract") as progress:
        facts = run_extraction(dataset, out or dataset / "extraction", progress=progress)
    _print_facts(facts)


def _labels_of(dataset: Path, labels: Path | None) -> Path:
    """Given labels, else extracted ones, else those that came with the images."""
    if labels is not None:
        return labels
    return dataset / "extraction" if (dataset / "extraction" / "labels.parquet").exists() else dataset


@app.command()
def pretrain(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    objective: Annotated[str, typer.Option(help="clip, unicl or dinov2.")],
    out: NewOut,
    init: Annotated[
        Path | None, typer.Option(help="Weights to continue: checkpoint or open weights.", show_default=False)
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Instead: random weights of `architecture` in --config.")
    ] = False,
    model: ModelOption = None,
    size: Annotated[int | None, typer.Option(help="Images of the nested subset.  \\[default: all]", show_default=False)] = None,
    replicate: Annotated[int, typer.Option(min=0, help="Which random subset.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Budget in epochs of the subset.", show_default=False)] = None,
    gpu_seconds: Annotated[float | None, typer.Option(help="Budget in device seconds.", show_default=False)] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table.  \\[default: DATASET/extraction]", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="YAML with further settings; `preset: medimageinsight` or `preset: rad-dino` takes a whole recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(
            "--recipe",
            help="dinov2: recipe files of DINOv2, ssl_default_config.yaml first, then yours. They bring the budget, too.",
            show_default=False,
        ),
    ] = None,
    recipe_gpus: Annotated[int, typer.Option(min=1, help="GPUs that --recipe is written for: it states the batch of one.")] = 1,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices of this machine.  \\[default: the launcher's, or 1]", show_default=False)
    ] = None,
    num_nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines.  \\[default: the launcher's, or 1]", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="End before that much wall clock, state saved, exit code 75.", show_default=False),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the state of an earlier session.")] = False,
) -> None:
    """Continue an encoder on a nested subset, or train one from scratch. Killed and run again, it goes on where it was.

    Exit codes: 0 done; 75 ended early by SIGTERM, SIGUSR1 or --max-seconds: run it again; 130 Ctrl-C; 2 one line says why.
    """
    from radscale.datasets import Dataset
    from radscale.experiment.build import build
    from radscale.experiment.design import merge, with_preset
    from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
    from radscale.pretraining.dinov2_recipe import settings_from_dinov2_yaml
    from radscale.training import RunStopped, start_fabric

    if recipe and objective != "dinov2":
        raise InputError(f"--recipe is of DINOv2, the objective is {objective}; leave --recipe out, or use --objective dinov2")
    if (epochs is None) == (gpu_seconds is None) and (epochs or not recipe):
        raise InputError("give the budget: either --epochs or --gpu-seconds")
    if (init is None) == (not from_scratch):
        raise InputError("give the start: either --init WEIGHTS to continue, or --from-scratch for random weights")
    num_images = size or Dataset(dataset).num_train
    given: dict[str, Any] = {"objective": objective, "subset_size": size, "replicate": replicate}
    if epochs is not None:
        given["budget"] = ComputeBudget.samples_seen(epochs * num_images)
    elif gpu_seconds is not None:
        given["budget"] = ComputeBudget.gpu_seconds(gpu_seconds)
    written = with_preset(_read_settings(config))
    if recipe:
        written = merge(settings_from_dinov2_yaml(*recipe, num_gpus=recipe_gpus), written)
    settings = build(
        PretrainingConfig, {**written, **{key: value for key, value in given.items() if value is not None}}, "settings"
    )
    partial = _new_folder(out, resumes=True)
    fabric = start_fabric(precision=settings.precision, devices=devices, num_nodes=num_nodes)
    first = fabric.is_global_zero
    try:
        with _progress("pretrain") if first else nullcontext() as progress:
            facts = run_pretraining(
                settings,
                dataset=dataset,
                labels=_labels_of(dataset, labels),
                init=init,
                init_name=model,
                out=partial / "out",
                work=partial / "work",
                progress=progress,
                say=lambda line: console.print(f"[yellow]note[/] {escape(line)}", highlight=False, soft_wrap=True),
                fabric=fabric,
                earlier_state="discard" if restart else "resume",
                max_seconds=max_seconds,
            )
    except RunStopped as stopped:
        if first:
            line = f"stopped by {stopped.reason} after step {stopped.step:,} of {stopped.total_steps:,}"
            _complain(f"{line}; its state is saved: run the same command again to go on", EXIT_REQUEUE)
        raise typer.Exit(128 + signal.SIGINT if stopped.by_the_user else EXIT_REQUEUE) from None
    if first:
        (partial / "out").rename(out)
        _remove(partial)
        _print_facts(facts)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@app.command()
def probe(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: NewOut,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="findings, tubes, vindr_cxr, nih, ranzcr_tubes, ranzcr_placement, all, or task names.", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table.  \\[default: DATASET/extraction]", show_default=False)
    ] = None,
    layers_study: Annotated[
        bool, typer.Option("--layers-study", help="Which layer carries what: probes on each layer alone and without it.")
    ] = False,
    label_fractions: Annotated[
        str | None,
        typer.Option(help="Also with fewer labels: shares of the training images, as 0.01,0.1,1.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train a probe on the frozen encoder and write the prediction table of the test patients."""
    from radscale.probing import TASK_SETS, ProbeConfig, run_probing
    from radscale.probing.targets import describe_task

    def print_plan(plans: Any, excluded: Any) -> None:
        for plan in plans:
            for name in plan.tasks:
                console.print(describe_task(plan, name), highlight=False, soft_wrap=True)
        for row in excluded:
            console.print(f"[yellow]not evaluated[/] {row['task']}: {row['reason']}", highlight=False, soft_wrap=True)

    chosen = task or ["all"]
    tasks = chosen[0] if len(chosen) == 1 and chosen[0] in (*TASK_SETS, "all") else chosen
    given = {"tasks": tasks, "layer_study": layers_study or None, "label_fractions": _shares(label_fractions)}
    settings = _settings(ProbeConfig, given, config)
    partial = _new_folder(out, resumes=True)
    with _progress("probe") as progress:
        facts = run_probing(
            settings,
            encoder=(model, encoder) if model else encoder,
            dataset=dataset,
            labels=_labels_of(dataset, labels),
            out=partial / "out",
            work=partial / "work",
            progress=progress,
            on_plan=print_plan,
        )
    (partial / "out").rename(out)
    _remove(partial)
    for result in facts["task_sets"].values():
        for name, scores in result["tasks"].items():
            console.print(f"{name}: {scores}", highlight=False, soft_wrap=True)
        for study in ("layers", "layer_shares", "label_efficiency"):
            if study in result:
                _print_rows(study.replace("_", " "), result[study])


def _shares(text: str | None) -> list[float] | None:
    """Numbers separated by commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--label-fractions {text}: not numbers separated by commas; write it as 0.01,0.1,1") from None


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows with equal keys as a table, numbers with three digits."""
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


@app.command()
def masks(
    source: Annotated[
        Path, typer.Argument(help="RANZCR-CLiP, a folder with devices.csv and mask files, or a phantom archive.")
    ],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made from the same source.")],
    out: Annotated[Path, typer.Option("--out", help="Mask table: a new .parquet file.")],
    secret: Annotated[
        Path | None, typer.Option(help="Key of the dataset's pseudonyms.  \\[default: DATASET.secret]", show_default=False)
    ] = None,
    line_width: Annotated[
        float, typer.Option(help="Width of drawn lines as a share of the image's shorter side (0.01: 5 of 518 px).")
    ] = 0.01,
    skip_outside: Annotated[bool, typer.Option("--skip-outside", help="Leave out lines that leave their image.")] = False,
) -> None:
    """Turn marked lines, tubes or regions into the mask table of a dataset, for `segment`."""
    from radscale.datasets import Dataset, load_or_create_secret
    from radscale.datasets.mask_sources import convert_masks

    if out.exists():
        raise InputError(f"{out}: exists; choose a new file")
    if not out.parent.is_dir():
        raise InputError(f"{out}: {out.parent} is no folder; make it first")
    key = secret or dataset.with_name(dataset.name + ".secret")
    if not key.exists():
        raise InputError(f"{key}: no such key; give the one that the dataset was made with: --secret FILE")
    with _progress("masks") as progress:
        facts = convert_masks(
            source,
            Dataset(dataset),
            out,
            secret=load_or_create_secret(key),
            line_width_share=line_width,
            skip_outside=skip_outside,
            progress=progress,
        )
    _print_facts(facts)


@app.command()
def segment(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: NewOut,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", help="Mask table, see `radscale masks`. With --heads it may be left out.", show_default=False),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(
            help="Train nothing: apply the heads of an earlier `segment` (its folder), write the masks that they find, and "
            "with --masks their metrics. The encoder must be the same.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="With --heads: images of test, validation, train or all. Heads know their own training images.")
    ] = "test",
    task: Annotated[list[str] | None, typer.Option(help="Tasks.  \\[default: all of the masks]", show_default=False)] = None,
    model: ModelOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_workers: Annotated[int, typer.Option(min=0, help="Threads that read images and measure masks.")] = 2,
    config: ConfigOption = None,
) -> None:
    """Train a linear head on the frozen encoder; write metrics per test image, their summary, overlays and the heads.

    Kill it at any moment and repeat the command: it goes on. With --heads, apply trained heads to other images.
    """
    from radscale.segmentation import SegmentationConfig, apply_heads, run_segmentation

    if masks is None and heads is None:
        raise InputError(
            "--masks: not given; give a mask table (see `radscale masks`) to train heads, or apply some with --heads"
        )
    if heads is None and split != "test":
        raise InputError(f"--split {split}: chooses images for --heads; a training is always measured on test images")
    if split not in ("test", "validation", "train", "all"):
        raise InputError(f"--split {split}: choose test, validation, train or all")
    settings = _settings(SegmentationConfig, {"tasks": task}, config)
    partial = _new_folder(out, resumes=heads is None)
    chosen = (model, encoder) if model else encoder
    with _progress("segment") as progress:
        if heads is not None:
            facts = apply_heads(
                settings,
                heads=heads,
                encoder=chosen,
                dataset=dataset,
                masks=masks,
                split=split,
                out=partial / "out",
                device=device,
                num_workers=num_workers,
                progress=progress,
            )
        elif masks is not None:
            facts = run_segmentation(
                settings,
                encoder=chosen,
                dataset=dataset,
                masks=masks,
                out=partial / "out",
                work=partial / "work",
                device=device,
                num_workers=num_workers,
                progress=progress,
            )
    (partial / "out").rename(out)
    _remove(partial)
    if heads is not None:
        found = ", ".join(f"{name} in {counts['num_found']:,}" for name, counts in facts["tasks"].items())
        console.print(f"{facts['num_images']:,} images; found {found}: {out}/masks.parquet", highlight=False, soft_wrap=True)
    if "summary" in facts:
        _print_segmentation(facts)


def _print_segmentation(facts: dict[str, Any]) -> None:
    values = {(row["task"], row["rule"], row["metric"]): row for row in facts["summary"]}
    trained = (
        f"{facts['num_train']:,} training images, {facts['num_test']:,} test" if "num_train" in facts else facts["num_images"]
    )
    table = Table(title=f"{facts['arm']}: {trained} images")
    table.add_column("task")
    shown = (
        ("Hausdorff\npx", "any", "hausdorff_px"),
        ("present\nonly", "present", "hausdorff_px"),
        ("Dice\n", "any", "dice"),
        ("present\nonly", "present", "dice"),
        ("clDice\n", "any", "cldice"),
        ("both\ndrawn", "count", "both_drawn"),
        ("missed\n", "count", "missed"),
        ("false\nalarms", "count", "false_alarms"),
        ("both\nempty", "count", "both_empty"),
    )
    for title, _, _ in shown:
        table.add_column(title, justify="right")
    for task in (*facts["tasks"], "average"):
        cells = []
        for _, rule, metric in shown:
            row = values.get((task, rule, metric))
            digits = 3 if metric in ("dice", "cldice") else 1
            if row is None:
                cells.append("")
                continue
            # The headline's deviation only: the table must fit a page.
            known = row["seed_deviation"] == row["seed_deviation"] and rule == "any" and metric != "cldice"
            deviation = f" ± {row['seed_deviation']:.{digits}f}" if known else ""
            cells.append(f"{row['value']:.{digits}f}{deviation}")
        table.add_row(task, *cells)
    console.print(table)
    for row in facts.get("excluded_tasks", ()):
        console.print(f"[yellow]not evaluated[/] {row['task']}: {row['reason']}", highlight=False, soft_wrap=True)
    console.print(
        "Means over images with a mask on either side, or the reader's (present only); ± over seeds. All metrics: summary.csv",
        highlight=False,
        soft_wrap=True,
    )


FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="table, csv, latex or markdown.  [default: by --out, else table]", show_default=False),
]
TableOutOption = Annotated[
    Path | None, typer.Option("--out", help="Write to this file (.csv, .tex, .md) instead of the screen.", show_default=False)
]
ScoreTables = Annotated[
    list[Path],
    typer.Argument(
        help="Prediction tables, or a simple CSV: sample_id, target, a score column per arm; optional task, patient_id, seed."
    ),
]


FigureOption = Annotated[Path | None, typer.Option("--figure", help="Draw it: .svg, .pdf or .png.", show_default=False)]


def _show_table(table: Any, format: str | None, out: Path | None) -> None:
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


@app.command()
def compare(
    table: ScoreTables,
    a: Annotated[str | None, typer.Option("--a", help="Arm: a column, or ARM or ARM@SIZE of a prediction table.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="Likewise; a minus b is reported.")] = None,
    all_arms: Annotated[bool, typer.Option("--all", help="All arms side by side, the best and its equals bold.")] = False,
    arm: Annotated[list[str] | None, typer.Option(help="With --all: only these arms.", show_default=False)] = None,
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap samples; Holm over 20 tasks needs 799.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    by_patient: Annotated[bool, typer.Option("--by-patient", help="Draw patients instead of images.")] = False,
    resample_seeds: Annotated[bool, typer.Option("--resample-seeds", help="Draw each arm's runs too.")] = False,
    metric: Annotated[str, typer.Option(help="auprc or auroc.")] = "auprc",
    checks: Annotated[str, typer.Option(help="Other tests beside it: delong,permutation,wilcoxon.", show_default=False)] = "",
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.", show_default=False)] = None,
    figure: FigureOption = None,
    format: FormatOption = None,
    out: TableOutOption = None,
    workers: WorkersOption = None,
) -> None:
    """Is arm a better than arm b? Paired bootstrap over the test set, per task and over tasks (paper, A.8).

    A simple CSV is enough: `sample_id,target,model_a,model_b` with one row per image; add `task` for several tasks (one row
    per image and task), `patient_id` for --by-patient, `seed` for several seeds. Any finite scores will do; only order counts.
    """
    from radscale.analysis.compare import MEAN, METRIC_NAMES, CompareSettings, compare_all_arms, compare_arms
    from radscale.html_report.style import check_figure_path

    settings = CompareSettings(
        num_replicates=replicates,
        seed=seed,
        by_patient=by_patient,
        resample_seeds=resample_seeds,
        metric=metric,
        checks=[name.strip() for name in checks.split(",") if name.strip()],
        tasks=task,
        num_workers=workers,
    )
    if all_arms == (a is not None or b is not None) or (a is None) != (b is None):
        raise InputError("name two arms with --a and --b, or take --all")
    if arm and not all_arms:
        raise InputError("--arm chooses among --all; name two arms with --a and --b")
    if figure is not None:
        if all_arms:
            raise InputError("--figure draws the differences of two arms; name them with --a and --b")
        check_figure_path(figure)
    with _progress_beside("compare") as progress:
        settings = replace(settings, progress=progress)
        if a is not None and b is not None:
            found = compare_arms(table, a, b, settings)
        else:
            found = compare_all_arms(table, arm, settings)
    _show_table(found, format, out)
    if figure is not None:
        from radscale.html_report.figures import forest_figure

        # Pooled replicates are no test: they are left to the table.
        rows = [*found.rows, *({**row, "is_average": True} for row in found.footer_rows if row["task"] == MEAN)]
        drawn = forest_figure(
            [{**row, "arm": f"{a} minus {b}"} for row in rows],
            xlabel=f"difference in {METRIC_NAMES[metric]}, points",
            sides=(f"{b} better", f"{a} better"),
        )
        _save_figure(drawn, figure)


@app.command()
def stratify(
    table: ScoreTables,
    by: Annotated[str, typer.Option(help="Columns, e.g. sex,age,manufacturer; age (in years) is cut into decades.")],
    metadata: Annotated[
        Path | None,
        typer.Option(help="Dataset, manifest or CSV with sample_id and these columns.  [default: TABLE]", show_default=False),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms.", show_default=False)] = None,
    reference: Annotated[
        str | None, typer.Option(help="Arm to subtract in each stratum, e.g. the open weights.", show_default=False)
    ] = None,
    rest: Annotated[bool, typer.Option("--rest", help="Also compare each stratum with the rest.")] = False,
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap samples.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    by_patient: Annotated[bool, typer.Option("--by-patient", help="Draw patients instead of images.")] = False,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.", show_default=False)] = None,
    figure: FigureOption = None,
    format: FormatOption = None,
    out: TableOutOption = None,
    workers: WorkersOption = None,
) -> None:
    """Scores within subgroups (paper, A.9), with what tells a gap in skill from a gap in prevalence."""
    from radscale.analysis.compare import CompareSettings, stratify_table
    from radscale.html_report.style import check_figure_path

    settings = CompareSettings(num_replicates=replicates, seed=seed, by_patient=by_patient, tasks=task, num_workers=workers)
    variables = [name.strip() for name in by.split(",") if name.strip()]
    if not variables:
        raise InputError("--by is empty; name columns, e.g. --by sex,age")
    if figure is not None:
        check_figure_path(figure)
    with _progress_beside("stratify") as progress:
        found = stratify_table(
            table,
            variables,
            metadata=metadata,
            arms=arm,
            reference=reference,
            against_rest=rest,
            settings=replace(settings, progress=progress),
        )
    _show_table(found, format, out)
    if figure is not None:
        from radscale.html_report.figures import subgroup_figure

        scored = [row for row in found.rows if "auprc" in row]
        rows = [{**row, "low": row["auprc_low"], "high": row["auprc_high"]} for row in scored]
        _save_figure(subgroup_figure(rows, open_weights=[reference] if reference else []), figure)


def _save_figure(figure: Any, path: Path) -> None:
    from radscale.html_report.style import save_figure

    save_figure(figure, path)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)


ResultsArgument = Annotated[
    Path,
    typer.Argument(
        help="CSV or Parquet, one row per score: subset_size and a score; optional arm, task, evaluation, replicate, seed. "
        "Size 0 is open weights. A study's results.csv is one."
    ),
]
ScoreOption = Annotated[
    str | None, typer.Option("--score", help="Score column.  \\[default: score, auprc or loss]", show_default=False)
]
FormNameOption = Annotated[
    str,
    typer.Option(
        "--form",
        help="power, log_linear, logit_linear, saturating, power_offset, m3, logistic, m4, bnsl, constant, or auto: several, "
        "weighed by how well each predicts the largest sizes from the smaller ones.",
    ),
]
ArmsOption = Annotated[list[str] | None, typer.Option("--arm", help="Only these arms.", show_default=False)]
TasksOption = Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.", show_default=False)]
EvaluationOption = Annotated[str | None, typer.Option("--evaluation", help="Only this evaluation.", show_default=False)]
LowerOption = Annotated[bool, typer.Option("--lower-is-better", help="The score is a loss.")]


@app.command()
def fit(
    results: ResultsArgument,
    target: Annotated[float | None, typer.Option(help="Score to reach, e.g. 0.54.", show_default=False)] = None,
    beats: Annotated[str | None, typer.Option(help="Open-weights arm (size 0) to beat.", show_default=False)] = None,
    form: FormNameOption = "power",
    score: ScoreOption = None,
    arm: ArmsOption = None,
    task: TasksOption = None,
    evaluation: EvaluationOption = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    lower_is_better: LowerOption = False,
    figure: FigureOption = None,
    format: FormatOption = None,
    out: TableOutOption = None,
) -> None:
    """Fit a scaling law per arm and task: parameters, intervals, the images needed for a target, arms against each other.

    Two columns are enough: `subset_size,score`. Rows of one arm, size and replicate are seeds of one encoder and are averaged:
    the encoder is the unit. Without a replicate column every row is an encoder.
    """
    from radscale.analysis.fit_tables import comparison_table, fit_curves, fit_table
    from radscale.analysis.results_table import read_results

    table = read_results(results, score).select(arms=arm, tasks=task, evaluation=evaluation)
    fitted = fit_curves(table, form, larger_is_better=not lower_is_better)
    _show_table(fit_table(fitted, table, target=target, beats=beats, level=level), format, out)
    compared = comparison_table(fitted, level)
    if compared is not None and out is None:
        _show_table(compared, format, None)
    if figure is not None:
        _draw_curves(fitted, table, beats, figure, level)


def _draw_curves(fitted: Any, table: Any, beats: str | None, path: Path, level: float) -> None:
    from radscale.analysis.fit_tables import reference_rows, scaling_rows
    from radscale.html_report.figures import save_figure, scaling_figure, scaling_grid

    tasks = list(dict.fromkeys((item.curve.evaluation, item.curve.task) for item in fitted))
    panels: list[dict[str, Any]] = []
    for key in tasks:
        chosen = [item for item in fitted if (item.curve.evaluation, item.curve.task) == key]
        title = " / ".join(part for part in key if part)
        references = reference_rows(chosen[0], table, beats, level)
        panels.append({"title": title, **scaling_rows(chosen, level), "references": references})
    if len(panels) == 1:
        drawn = scaling_figure(panels[0]["points"], panels[0]["curves"], panels[0]["references"], title=panels[0]["title"])
    else:
        drawn = scaling_grid(panels)
    save_figure(drawn, path)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command("plan-data")
def plan_data(
    results: ResultsArgument,
    more: Annotated[float, typer.Option("--more", help="Additional images, e.g. 100000.")],
    form: FormNameOption = "auto",
    min_gain: Annotated[float, typer.Option(help="Gain worth having, in units of the score.")] = 0.005,
    cost_per_sample: Annotated[float | None, typer.Option(help="Of one more image.", show_default=False)] = None,
    score: ScoreOption = None,
    arm: ArmsOption = None,
    task: TasksOption = None,
    evaluation: EvaluationOption = None,
    lower_is_better: LowerOption = False,
    figure: FigureOption = None,
    format: FormatOption = None,
    out: TableOutOption = None,
) -> None:
    """What the next images bring, task by task, with intervals and cost: where more data pays, where tasks are saturated."""
    from radscale.analysis.data_plan import plan_data as plan_tasks
    from radscale.analysis.fit_tables import data_plan_table
    from radscale.analysis.results_table import read_results, with_averages

    table = read_results(results, score).select(arms=arm, tasks=task, evaluation=evaluation)
    plans = plan_tasks(
        with_averages(table),
        more,
        form=form,
        min_gain=min_gain,
        cost_per_sample=cost_per_sample,
        larger_is_better=not lower_is_better,
    )
    _show_table(data_plan_table(plans, more, min_gain, with_costs=cost_per_sample is not None), format, out)
    if figure is not None:
        from radscale.html_report.figures import data_plan_figure, save_figure

        if len({(plan.evaluation, plan.arm) for plan in plans}) > 1:
            raise InputError("--figure shows one arm of one evaluation; choose with --arm and --evaluation")
        rows = [{**vars(plan), "saturated": plan.saturated, "is_average": plan.is_average} for plan in plans if not plan.note]
        save_figure(data_plan_figure(rows), figure)
        console.print(f"wrote {figure}", highlight=False, soft_wrap=True)


@app.command()
def similarity(
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER", help="One or more: \\[LABEL=]PATH\\[:MODEL], a checkpoint or open weights with their model."
        ),
    ],
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="PNG, JPEG, TIFF or DICOM; or a folder of marked devices, to score them (docs/similarity.md)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Image: picture to write (PNG, SVG or PDF).  \\[default: similarity.png]  Folder: new folder of scores.  "
            "\\[default: similarity]",
            show_default=False,
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            help="Query point: shares of the image from the left and from the top.  \\[default: 0.5,0.35]", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="medimageinsight, rad-dino or dinov2, for encoders without :MODEL.", show_default=False),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=28, help="Side of the encoders' input in pixels.  \\[default: theirs]", show_default=False)
    ] = None,
    maps: Annotated[Path | None, typer.Option("--maps", help="Also write the maps (.npz).", show_default=False)] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Draw the order of a map's patches, not their values.")] = False,
    grid: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="Folder: bring maps to this many rows and columns, to compare encoders.  \\[default: theirs]",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Folder: score the first images only.  \\[default: all]", show_default=False)
    ] = None,
) -> None:
    """Cosine similarity of every patch with one patch, in four layers (paper, Figure 1); or how far devices can be followed.

    An image gives the picture. A folder with masks and tips gives the curve-continuity score of every device in it:
    a phantom archive, RANZCR-CLiP, or devices.csv beside images and masks.
    """
    from radscale.experiment import patch_similarity

    if image.is_dir():
        if point is not None or maps is not None or stretch:
            raise InputError("--point, --maps and --stretch belong to one image; in a folder each device is queried at its tip")
        folder = out or Path("similarity")
        partial = _new_folder(folder)
        images = patch_similarity.read_marked(image)[:limit]
        loaded = patch_similarity.load_encoders(encoders, model, size)
        with _progress("similarity") as progress:
            scores, left_out = patch_similarity.score_devices(loaded, images, progress, grid=grid)
        table = patch_similarity.summarise_scores(scores)
        patch_similarity.save_scores(scores, table, partial)
        partial.rename(folder)
        _show_table(table, None, None)
        for line in left_out:
            console.print(f"[yellow]left out[/] {escape(line)}", highlight=False, soft_wrap=True)
        console.print(f"wrote {folder}", highlight=False, soft_wrap=True)
        return
    if limit is not None or grid is not None:
        raise InputError("--limit and --grid belong to a folder of marked devices; give one, or leave them out")
    out = out or Path("similarity.png")
    place = _parse_point(point or "0.5,0.35")
    loaded = patch_similarity.load_encoders(encoders, model, size)
    patch_similarity.save_similarity(loaded, image, place, out, maps_file=maps, stretch=stretch)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


@app.command()
def convert(
    weights: Annotated[Path, typer.Argument(help="Open weights or a checkpoint: file or folder.")],
    to: Annotated[str, typer.Option("--to", help="radscale, huggingface, dinov2 or medimageinsight.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    model: ModelOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read it back; compare tensors and outputs.")] = False,
    image_size_px: Annotated[
        int | None, typer.Option(min=14, help="Input size in pixels, instead of the publisher's.", show_default=False)
    ] = None,
) -> None:
    """Open weights to our checkpoint, to a Hugging Face folder or to the publisher's layout, bit for bit."""
    from radscale.training import conversion
    from radscale.training.open_weights import load_dino_head, load_encoder

    encoder = load_encoder(str(weights)) if model is None else load_encoder(model, weights)
    if image_size_px is not None:
        encoder.preprocessing = replace(encoder.preprocessing, image_size_px=image_size_px)
    head = load_dino_head(weights)
    result = conversion.convert(encoder, head, to, out)
    console.print(f"wrote {out}: {', '.join(result.files)}", highlight=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if verify:
        check = conversion.verify(encoder, head, to, out)
        text = "" if check.text_difference is None else f", text embeddings {check.text_difference:.1e}"
        console.print(
            f"verified: {check.num_tensors - check.num_different} of {check.num_tensors} tensors equal bit for bit, largest "
            f"relative difference of maps and image embedding {check.image_difference:.1e}{text}",
            highlight=False,
            soft_wrap=True,
        )
        if not check.ok:
            raise InputError(f"{out}: reads back otherwise than {weights}; do not use it")


def _parse_point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--point {text}: give two numbers, e.g. 0.5,0.3") from None
    if not (0 <= x < 1 and 0 <= y < 1):
        raise InputError(f"--point {text}: both must be from 0 to below 1")
    return y, x


@app.command()
def embed(
    encoder: Annotated[Path, typer.Argument(help="Checkpoint or open weights: file or folder.")],
    images: Annotated[
        Path, typer.Argument(help="Folder (PNG, JPEG, TIFF, DICOM), dataset, list of paths (.txt, .csv) or one image.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New .parquet, .safetensors, or .csv (scores of --labels only).")],
    model: ModelOption = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="embedding, mean (of patches), patches, maps; several with commas.  \\[default: embedding; .csv: none]",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='Zero-shot scores: "Pneumonia,Pleural Effusion", or a file, one a line.', show_default=False),
    ] = None,
    view: Annotated[str, typer.Option(help="In the label texts: auto, AP, PA, lateral, frontal, none.")] = "auto",
    prompt: Annotated[str | None, typer.Option(help="Label text.  \\[default: x-ray chest {view} {label}]")] = None,
    split: Annotated[str | None, typer.Option(help="Of a dataset: train, validation, test.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Images in one pass.")] = 32,
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that read images.  \\[default: 2, GPU: up to 16]", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = "32-true",
    dtype: Annotated[str, typer.Option(help="Of patches and maps on disk: float16 or float32.")] = "float16",
    parts: Annotated[bool, typer.Option("--parts", help="Make OUT a folder of parts instead of one file.")] = False,
) -> None:
    """Embeddings or patch features of many images, and zero-shot scores. Killed and run again, it goes on where it was.

    Images that cannot be used are listed in STEM.exclusions.parquet. docs/embedding.md tells how to read the files.
    """
    from radscale.probing import EmbeddingConfig, run_embedding
    from radscale.probing.zero_shot import read_labels

    wanted = features if features is not None else ("" if out.suffix == ".csv" and labels else "embedding")
    given = {
        "features": tuple(name.strip() for name in wanted.split(",") if name.strip()),
        "labels": tuple(read_labels(labels)) if labels is not None else (),
        "prompt": prompt,
        "view": view,
        "batch_size": batch_size,
        "precision": precision,
        "dtype": dtype,
    }
    config = EmbeddingConfig(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    with _progress("embed") as progress:
        facts = run_embedding(
            config,
            encoder=(model, encoder) if model else encoder,
            images=images,
            out=out,
            split=split,
            parts=parts,
            device=device,
            num_workers=num_workers,
            progress=progress,
        )
    excluded = ", ".join(f"{count} {reason}" for reason, count in facts["excluded"].items())
    line = f"{facts['images']} images, {sum(facts['excluded'].values())} excluded"
    line += f" ({excluded}; see {facts['exclusions']})" if excluded else ""
    line += (
        f"; {facts['images_per_second']:.1f} images/s, the encoder waited for images {facts['waiting_share']:.0%} of the time"
    )
    line += f"; {facts['resumed']} were there from an earlier run" if facts["resumed"] else ""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def bench(
    part: Annotated[str | None, typer.Argument(help="What to measure; none: list the parts.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write .json or .md.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it run?")] = False,
    repeat: Annotated[int | None, typer.Option(min=1, help="Rounds.  [default: by part]", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the made data.")] = 0,
    dataset: Annotated[
        Path | None, typer.Option(help="loader: read your own.  [default: made images]", show_default=False)
    ] = None,
) -> None:
    """Our speed beside peers', side by side in one run. Peers that are not installed are named and left out."""
    from radscale.benchmarks import PARTS, Options, run_part, tables

    if part is None:
        for name, summary in PARTS.items():
            console.print(f"{name}: {summary}", highlight=False, soft_wrap=True)
        return
    if out is not None:
        tables.check_out(out)
    with _progress("bench") as progress:
        results = run_part(part, Options(quick, repeat, seed, dataset), progress)
    for result in results:
        shown = Table(title=f"{result.title}, per {result.unit}")
        for column in tables.COLUMNS:
            shown.add_column(column, justify="left" if column == "who" else "right")
        for row in tables.rows(result):
            shown.add_row(*row)
        console.print(shown)
        for line in tables.notes(result):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(tables.machine(), highlight=False, soft_wrap=True, markup=False)
    if out is not None:
        tables.write(out, part, results)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        console.print(__version__, highlight=False)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    warnings.showwarning = _show_warning
    sys.exit(_run(lambda: app(args=arguments, standalone_mode=True)))


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which click would turn into "Aborted!"."""


def _stop(number: int, frame: object) -> None:
    # A second signal while workers are being ended finds the default: it ends at once, and still loses nothing.
    signal.signal(number, signal.SIG_DFL)
    raise _Stopped(number)


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except OtherProcessError:
        return 2
    except InputError as error:
        return _complain(str(error), 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        from radscale.execution.runner import describe_error

        return _complain(describe_error(error), 2)
    except _Stopped as stop:
        return _complain("stopped; what is done stays done: run the same command again to go on", 128 + stop.args[0])
    return 0


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """What we say ourselves is a line for a person, without the place in the code; of others as Python shows it."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
        Console(stderr=True).print(f"note: {message}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _complain(line: str, code: int) -> int:
    Console(stderr=True).print(f"radscale: {line}", style="red", highlight=False, soft_wrap=True, markup=False)
    return code


if __name__ == "__main__":
    main()
