"""Tables in, statistics out: what `compare` and `stratify` do with files that anybody may have made."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from radscale.analysis.bootstrap import METRICS, ArmReplicates, Difference, TaskScores, bold_arms, bootstrap_arms
from radscale.analysis.score_table import ScoreTable, open_scores, read_table
from radscale.analysis.significance import delong, permutation_test, wilcoxon_over_tasks
from radscale.analysis.stratification import SMALL_POSITIVES, StratumScore, age_group, stratify
from radscale.analysis.text_tables import Column, TextTable, p_value, plain, points, share, signed_points, yes_no
from radscale.errors import InputError

CHECKS = ("delong", "permutation", "wilcoxon")
MAX_STRATA = 50
METRIC_NAMES = {"auprc": "AUPRC", "auroc": "AUROC"}
DIFFERENCE_TESTS = ("p_value", "p_holm", "significant")
MEAN, POOLED = "mean over tasks", "pooled (spread between tasks)"


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """How arms are compared."""

    num_replicates: int = 500
    seed: int = 0
    by_patient: bool = False
    """Draw whole patients instead of images."""
    resample_seeds: bool = False
    """Draw runs too: encoders where an arm has several, else seeds of the probe."""
    metric: str = "auprc"
    checks: Sequence[str] = ()
    """Of `CHECKS`."""
    tasks: Sequence[str] | None = None
    """None: all that the arms share."""
    num_workers: int | None = None
    progress: Callable[[int, int, str], None] | None = None
    """Called with (done, all, what)."""

    def __post_init__(self) -> None:
        for what, given, known in (("metric", [self.metric], METRICS), ("check", self.checks, CHECKS)):
            for name in given:
                if name not in known:
                    raise InputError(f"{what} '{name}'; choose among {', '.join(known)}")


@dataclass
class _Facts:
    """What is noted of each task while its scores are in memory."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def watch(
        self, tasks: Iterator[TaskScores], settings: CompareSettings, arms: Sequence[str], num_tasks: int
    ) -> Iterator[TaskScores]:
        for task in tasks:
            if settings.progress is not None:
                settings.progress(len(self.rows), num_tasks, task.task)
            targets = np.asarray(task.targets)
            row: dict[str, Any] = {"num_samples": targets.size, "num_positives": int(targets.sum())}
            groups = task.patient_keys if settings.by_patient else None
            # One class only is refused by the bootstrap, with a message; checks would fail before it.
            if 0 < row["num_positives"] < targets.size and len(arms) == 2:
                a, b = (task.scores[arm] for arm in arms)
                if "delong" in settings.checks:
                    found = delong(targets, a, b, groups)
                    row |= {"delong_difference": found.auroc_a - found.auroc_b, "delong_p": found.p_value}
                if "permutation" in settings.checks:
                    row["permutation_p"] = permutation_test(targets, a, b, groups, seed=settings.seed, name=task.task)
            self.rows[task.task] = row
            yield task


def _replicates(
    tables: Sequence[Path], arms: Sequence[str] | None, settings: CompareSettings
) -> tuple[ArmReplicates, _Facts, list[str]]:
    """Replicates of the chosen metric, facts of the tasks, and notes."""
    table = open_scores(tables)
    names = list(arms) if arms is not None else table.arms
    if len(set(names)) < 2:
        raise InputError(f"one arm, {names[0]}; two different ones are needed, the table has {', '.join(table.arms)}")
    facts = _Facts()
    found = bootstrap_arms(
        facts.watch(table.task_scores(names, settings.tasks), settings, names, len(settings.tasks or table.tasks)),
        num_replicates=settings.num_replicates,
        seed=settings.seed,
        by_patient=settings.by_patient,
        resample_seeds=settings.resample_seeds,
        num_workers=settings.num_workers,
    )[settings.metric]
    left_out = [task for task in settings.tasks or table.tasks if task not in facts.rows]
    notes = [f"not scored by all arms and left out: {', '.join(left_out)}"] if left_out else []
    drawn = "patients" if settings.by_patient else "images"
    second = ", and runs of each arm" if settings.resample_seeds else ""
    return (
        found,
        facts,
        [f"{settings.num_replicates} bootstrap replicates of {drawn}, within classes{second}; 95 % intervals", *notes],
    )


def compare_arms(tables: Sequence[Path], a: str, b: str, settings: CompareSettings | None = None) -> TextTable:
    """Paired bootstrap of two arms (paper, A.8), task by task, as a table.

    Args:
        tables: Parquet or CSV files: prediction tables (docs/data_format.md, section 4) or a column of scores per arm.
        a: arm, or `arm@size` where an arm has several subset sizes.
        b: likewise.
        settings: None takes the defaults, which are the paper's.

    Raises:
        InputError: a table that cannot be used, an arm that is not there, arms scored on different samples.
    """
    settings = settings or CompareSettings()
    replicates, facts, notes = _replicates(tables, [a, b], settings)
    result = replicates.difference(a, b)
    metric = METRIC_NAMES[settings.metric]

    def row(name: str, difference: Difference, task: str | None, **more: Any) -> dict[str, Any]:
        sides = {"a": replicates.estimate(a, task).observed, "b": replicates.estimate(b, task).observed}
        return {"task": name, **more, **sides, **_difference_columns(difference), "significant": difference.significant}

    rows = [row(task, found, task, **facts.rows[task]) for task, found in result.per_task.items()]
    footer = [row(MEAN, result.macro, None), row(POOLED, result.pooled, None)] if len(rows) > 1 else []
    columns = [
        Column("task", "task", plain, "left"),
        Column("positives", "num_positives"),
        Column(a, "a", points),
        Column(b, "b", points),
        Column("difference", "difference", signed_points),
        Column("95 % interval", ("low", "high"), signed_points),
        Column("p", "p_value", p_value),
        Column("p (Holm)", "p_holm", p_value),
        Column("significant", "significant", yes_no),
    ]
    if "delong" in settings.checks:
        columns += [Column("AUROC difference", "delong_difference", signed_points), Column("p (DeLong)", "delong_p", p_value)]
        notes.append("DeLong: test of equal AUROC" + (", placements summed within patients" if settings.by_patient else ""))
    if "permutation" in settings.checks:
        columns.append(Column("p (exchange)", "permutation_p", p_value))
        unit = "patient" if settings.by_patient else "image"
        notes.append(f"exchange: test of equal AUPRC, ranks of the two arms exchanged {unit} by {unit} 1000 times")
    if "wilcoxon" in settings.checks:
        p = wilcoxon_over_tasks([row["difference"] for row in rows])
        notes.append("Wilcoxon's signed ranks over tasks: " + ("needs two tasks or more" if math.isnan(p) else f"p = {p:.3g}"))
    notes.append("differences are those on the test set itself; significant means that the interval excludes 0")
    if footer:
        notes.append(
            "mean over tasks: its interval is the uncertainty of the average over these tasks; pooled: replicates of all tasks "
            "in one heap (the paper's micro), whose interval is mostly the spread between tasks and no test"
        )
    csv_columns = [
        *["task", "num_samples", "num_positives", "a", "b", "difference", "bootstrap_mean", "low", "high"],
        *DIFFERENCE_TESTS,
    ]
    csv_columns += [c for c in ("delong_difference", "delong_p", "permutation_p") if c.partition("_")[0] in settings.checks]
    return TextTable(f"{metric} in points, {a} minus {b}", columns, rows, csv_columns, footer, [*notes, *result.notes])


def _difference_columns(found: Difference | None, prefix: str = "") -> dict[str, Any]:
    if found is None:
        return {}
    values = {
        "difference": found.observed,
        "bootstrap_mean": found.mean,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "p_holm": found.p_holm,
    }
    return {prefix + key: value for key, value in values.items()}


def compare_all_arms(tables: Sequence[Path], arms: Sequence[str] | None, settings: CompareSettings | None = None) -> TextTable:
    """Scores of several arms; bold is the best and every arm not significantly different from it (the paper's tables).

    Args:
        tables: as in `compare_arms`.
        arms: None takes all.
        settings: as in `compare_arms`; checks are of pairs and refused here.
    """
    settings = settings or CompareSettings()
    if settings.checks:
        raise InputError("checks compare two arms; name them with --a and --b")
    replicates, facts, notes = _replicates(tables, arms, settings)
    names = list(next(iter(replicates.drawn.values())))
    rows: list[dict[str, Any]] = []
    footer: list[dict[str, Any]] = []
    machine: list[dict[str, Any]] = []
    for task in [*replicates.drawn, None]:
        best, differences = replicates.best_arms(names, task)
        bold = bold_arms(differences)
        estimates = {arm: replicates.estimate(arm, task) for arm in names}
        row = {
            "task": task or MEAN,
            "bold": bold,
            **{arm: estimates[arm].observed for arm in names},
            **facts.rows.get(task or "", {}),
        }
        (footer if task is None else rows).append(row)
        machine += [
            {
                **{key: value for key, value in row.items() if key in ("task", "num_samples", "num_positives")},
                "arm": arm,
                "score": estimates[arm].observed,
                "low": estimates[arm].low,
                "high": estimates[arm].high,
                "best": arm == best,
                "bold": arm in bold,
                **_difference_columns(differences[arm], "to_best_"),
            }
            for arm in names
        ]
    columns = [Column("task", "task", plain, "left"), Column("positives", "num_positives")]
    columns += [Column(arm, arm, points) for arm in names]
    notes.append("bold: the best arm, and every arm whose paired difference from it is not significant (interval includes 0)")
    keys = (
        "task num_samples num_positives arm score low high best bold to_best_difference to_best_bootstrap_mean to_best_low "
        "to_best_high to_best_p_value"
    )
    table = TextTable(
        f"{METRIC_NAMES[settings.metric]} in points", columns, rows, keys.split(), footer if len(rows) > 1 else [], notes
    )
    return LongTable(**vars(table), machine_rows=machine if len(rows) > 1 else machine[: len(names)])


@dataclass
class LongTable(TextTable):
    """Arms stand side by side for a reader, and below each other in CSV."""

    machine_rows: list[dict[str, Any]] = field(default_factory=list)

    def _csv(self) -> str:
        return TextTable(self.title, [], self.machine_rows, self.csv_columns).render("csv")


def stratify_table(
    tables: Sequence[Path],
    by: Sequence[str],
    *,
    metadata: Path | None = None,
    arms: Sequence[str] | None = None,
    reference: str | None = None,
    against_rest: bool = False,
    settings: CompareSettings | None = None,
) -> TextTable:
    """Scores within subgroups (paper, A.9), as a table.

    Args:
        tables: as in `compare_arms`.
        by: columns of `metadata` or of the tables; `age` (or `age_years`) is cut into decades.
        metadata: manifest, its dataset folder, or a CSV with `sample_id` and the columns.
        arms: None takes all.
        reference: arm to subtract within each stratum, usually the open weights.
        against_rest: also compare each stratum with the rest.
        settings: checks and `resample_seeds` do not apply.

    Raises:
        InputError: unknown columns or arms, samples without metadata, too many values in a column.
    """
    settings = settings or CompareSettings()
    table = open_scores(tables)
    path = metadata / "manifest.parquet" if metadata is not None and metadata.is_dir() else metadata
    source = table if path is None else open_metadata(path)
    chosen = {variable: _column_of(variable, source.columns, source.name) for variable in by}
    names = list(arms) if arms is not None else [arm for arm in table.arms if arm not in chosen.values()]
    if reference is not None and reference not in names:
        names.append(reference)
    tasks = list(table.task_scores(names, settings.tasks))
    keys, columns = source.sample_columns(list(dict.fromkeys(chosen.values())))
    order = np.argsort(keys)
    places = []
    for task in tasks:
        assert task.sample_keys is not None
        found = np.searchsorted(keys[order], task.sample_keys).clip(max=keys.size - 1)
        missing = int((keys[order][found] != task.sample_keys).sum())
        if missing:
            raise InputError(
                f"{source.name}: {missing} of {task.sample_keys.size} samples of task '{task.task}' have no row there"
            )
        places.append(order[found])
    rows: list[dict[str, Any]] = []
    notes = []
    for variable, column in chosen.items():
        values = _strata(variable, columns[column])
        scores = stratify(
            tasks,
            [values[place] for place in places],
            reference=reference,
            against_rest=against_rest,
            num_replicates=settings.num_replicates,
            seed=settings.seed,
            by_patient=settings.by_patient,
            num_workers=settings.num_workers,
            progress=settings.progress,
        )
        rows += [_stratum_row(variable, score) for score in scores]
    if any(row["small"] for row in rows):
        notes.append(f"small: fewer than {SMALL_POSITIVES} positives per task; read the interval, not the number")
    shown = [
        Column("", "variable", plain, "left"),
        Column("stratum", "stratum", plain, "left"),
        Column("arm", "arm", plain, "left"),
        Column("images", "num_samples"),
        Column("patients", "num_patients"),
        Column("positives", "num_positives"),
        Column("prevalence", "prevalence", share),
        Column("AUPRC", "auprc", points),
        Column("95 % interval", ("auprc_low", "auprc_high"), points),
        Column("standardised", "standardised_auprc", points),
        Column("AUROC", "auroc", points),
    ]
    if reference is not None:
        shown += [Column(f"minus {reference}", "to_reference_difference", signed_points)]
        shown += [Column("95 % interval", ("to_reference_low", "to_reference_high"), signed_points)]
    if against_rest:
        shown += [Column("minus rest", "to_rest_difference", signed_points)]
        shown += [Column("95 % interval", ("to_rest_low", "to_rest_high"), signed_points)]
        notes.append("minus rest: standardised AUPRC of the stratum minus that of all other images")
    shown.append(Column("remark", "remark", plain, "left"))
    drawn = "patients" if settings.by_patient else "images"
    notes = [
        f"means over tasks; {settings.num_replicates} bootstrap replicates of {drawn} within the stratum; 95 % intervals",
        "AUPRC rises with prevalence: compare strata by the standardised AUPRC, which weighs negatives so that each task has "
        "the prevalence of the whole test set, or by AUROC",
        *notes,
    ]
    csv_columns = [
        *["variable", "stratum", "arm", "num_samples", "num_patients", "num_positives", "num_tasks", "prevalence"],
        *(f"{score}{end}" for score in ("auprc", "standardised_auprc", "auroc") for end in ("", "_low", "_high")),
        *(
            f"to_{to}_{key}"
            for to in ("reference", "rest")
            for key in ("difference", "bootstrap_mean", "low", "high", "p_value")
        ),
        *["small", "remark"],
    ]
    return TextTable("Subgroups, scores in points", shown, rows, csv_columns, notes=notes)


def open_metadata(path: Path) -> ScoreTable:
    """A table with `sample_id` and facts of samples.

    Raises:
        InputError: no such file, not a table, no `sample_id`.
    """
    source = read_table(path)
    if "sample_id" not in source.schema.names:
        raise InputError(f"{path.name}: no column 'sample_id'; found {', '.join(source.schema.names[:20])}")
    return ScoreTable(path.name, (source,), long=False)


def _column_of(variable: str, columns: Sequence[str], name: str) -> str:
    for column in (variable, "age_years") if variable in ("age", "age_group") else (variable,):
        if column in columns:
            return column
    raise InputError(f"{name}: no column '{variable}'; found {', '.join(list(columns)[:20])} (see --metadata)")


def _strata(variable: str, values: Sequence[object]) -> np.ndarray:
    """(m,) str, "" where unknown; ages in decades."""
    if variable in ("age", "age_years"):
        try:
            found = ["" if value in (None, "") else age_group(float(str(value))) or "" for value in values]
        except ValueError:
            raise InputError(f"column '{variable}' holds text; ages are numbers of years") from None
    else:
        found = ["" if value is None else str(value).strip() for value in values]
    distinct = set(found)
    if len(distinct) > MAX_STRATA:
        raise InputError(f"column '{variable}' has {len(distinct)} values; at most {MAX_STRATA} strata, group them first")
    return np.array(found, dtype=np.str_)


def _stratum_row(variable: str, score: StratumScore) -> dict[str, Any]:
    estimates: dict[str, Any] = {}
    for name in ("auprc", "standardised_auprc", "auroc"):
        found = getattr(score, name)
        if found is not None:
            estimates |= {name: found.observed, f"{name}_low": found.low, f"{name}_high": found.high}
    if score.auprc is None:
        remark = "not scored: " + "; ".join(f"{task}: {reason}" for task, reason in score.left_out.items())
    else:
        left_out = ", ".join(f"{task} ({reason})" for task, reason in score.left_out.items())
        remark = "; ".join(filter(None, ["small" if score.small else "", f"without {left_out}" if left_out else ""]))
    return {
        "variable": variable,
        **{
            key: getattr(score, key)
            for key in ["stratum", "arm", "num_samples", "num_patients", "num_positives", "num_tasks", "prevalence"]
        },
        **estimates,
        **_difference_columns(score.to_reference, "to_reference_"),
        **_difference_columns(score.to_rest, "to_rest_"),
        "small": score.small,
        "remark": remark,
    }
