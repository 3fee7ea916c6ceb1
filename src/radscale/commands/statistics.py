"""Statistics of any scores: comparisons, subgroups, scaling laws, what more data brings."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from radscale.commands.shared import WorkersOption, console, show_progress_beside, show_table
from radscale.errors import InputError

app = typer.Typer()

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
    with show_progress_beside("compare") as progress:
        settings = replace(settings, progress=progress)
        if a is not None and b is not None:
            found = compare_arms(table, a, b, settings)
        else:
            found = compare_all_arms(table, arm, settings)
    show_table(found, format, out)
    if figure is not None:
        from radscale.html_report.figures import forest_figure

        # Pooled replicates are no test: they are left to the table.
        rows = [*found.rows, *({**row, "is_average": True} for row in found.footer_rows if row["task"] == MEAN)]
        drawn = forest_figure(
            [{**row, "arm": f"{a} minus {b}"} for row in rows],
            xlabel=f"difference in {METRIC_NAMES[metric]}, points",
            sides=(f"{b} better", f"{a} better"),
        )
        save_figure(drawn, figure)


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
    with show_progress_beside("stratify") as progress:
        found = stratify_table(
            table,
            variables,
            metadata=metadata,
            arms=arm,
            reference=reference,
            against_rest=rest,
            settings=replace(settings, progress=progress),
        )
    show_table(found, format, out)
    if figure is not None:
        from radscale.html_report.figures import subgroup_figure

        scored = [row for row in found.rows if "auprc" in row]
        rows = [{**row, "low": row["auprc_low"], "high": row["auprc_high"]} for row in scored]
        save_figure(subgroup_figure(rows, open_weights=[reference] if reference else []), figure)


def save_figure(figure: Any, path: Path) -> None:
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
    show_table(fit_table(fitted, table, target=target, beats=beats, level=level), format, out)
    compared = comparison_table(fitted, level)
    if compared is not None and out is None:
        show_table(compared, format, None)
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
    show_table(data_plan_table(plans, more, min_gain, with_costs=cost_per_sample is not None), format, out)
    if figure is not None:
        from radscale.html_report.figures import data_plan_figure, save_figure

        if len({(plan.evaluation, plan.arm) for plan in plans}) > 1:
            raise InputError("--figure shows one arm of one evaluation; choose with --arm and --evaluation")
        rows = [{**vars(plan), "saturated": plan.saturated, "is_average": plan.is_average} for plan in plans if not plan.note]
        save_figure(data_plan_figure(rows), figure)
        console.print(f"wrote {figure}", highlight=False, soft_wrap=True)
