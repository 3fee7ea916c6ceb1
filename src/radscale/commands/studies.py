"""Whole studies: from an experiment file to the answer page."""

import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from radscale.commands.shared import ExperimentArgument, OutOption, SetOption, WorkersOption, console, load_study

app = typer.Typer()

STAGE_NAMES = (
    "phantom, datasets, extraction, agreement, open_weights, budget, pretraining, probing, analysis, pictures, similarity"
)


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

    study = load_study(experiment, out, overrides)
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
    study = load_study(experiment, out, overrides)
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

    study = load_study(experiment, out, overrides)
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
    study = load_study(experiment, out, overrides)
    console.print(f"report: {study.report()}", highlight=False, soft_wrap=True)
