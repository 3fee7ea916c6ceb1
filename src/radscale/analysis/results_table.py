"""Tables of results, one row per score of an encoder: what `fit` and `plan-data` read, whoever made them.

`subset_size` and a score are enough. Optional: `arm`, `task`, `evaluation`, `replicate`, `seed`. Rows of one arm, size and
replicate are seeds of one encoder. Size 0 stands for open weights. `results.csv` of a study is one of these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from radscale.analysis.score_table import read_table
from radscale.errors import InputError

SCORE_COLUMNS = ("score", "auprc", "loss")
"""Taken as the score if none is named, the first that is there."""
ONE_ARM = "all"
AVERAGE = "average"
"""Task of the mean over tasks."""


@dataclass(frozen=True)
class Curve:
    """Scores of one arm on one task, by encoder."""

    evaluation: str
    arm: str
    task: str
    sizes: np.ndarray
    """(n,) images."""
    scores: np.ndarray
    """(n,)."""
    encoders: list[str]
    """(n,) which rows are seeds of one encoder."""

    @property
    def name(self) -> str:
        """For messages and titles: what of evaluation, task and arm is given."""
        return " / ".join(part for part in (self.evaluation, self.task, self.arm) if part)


@dataclass(frozen=True)
class ResultsTable:
    """Scores by evaluation, arm and task."""

    name: str
    score: str
    curves: tuple[Curve, ...]
    """Arms with sizes above 0, in order of appearance; those of tasks before their average."""
    references: dict[tuple[str, str, str], np.ndarray]
    """Scores of open weights (size 0) by (evaluation, arm, task), one per seed."""

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(curve.arm for curve in self.curves))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(curve.task for curve in self.curves))

    @property
    def evaluations(self) -> list[str]:
        return list(dict.fromkeys(curve.evaluation for curve in self.curves))

    def select(
        self, *, arms: Sequence[str] | None = None, tasks: Sequence[str] | None = None, evaluation: str | None = None
    ) -> "ResultsTable":
        """Some of the curves.

        Raises:
            InputError: a name that is not there.
        """
        for kind, asked, found in (
            ("arm", arms, self.arms),
            ("task", tasks, self.tasks),
            ("evaluation", None if evaluation is None else [evaluation], self.evaluations),
        ):
            for name in asked or ():
                if name not in found:
                    raise InputError(f"{self.name}: no {kind} '{name}' with sizes above 0; found {', '.join(found)}")
        kept = tuple(
            curve
            for curve in self.curves
            if (not arms or curve.arm in arms)
            and (not tasks or curve.task in tasks)
            and (evaluation is None or curve.evaluation == evaluation)
        )
        return ResultsTable(self.name, self.score, kept, self.references)

    def reference(self, arm: str, curve: Curve) -> np.ndarray:
        """Scores of an open-weights arm on the task of a curve.

        Raises:
            InputError: no such arm.
        """
        found = self.references.get((curve.evaluation, arm, curve.task))
        if found is None:
            names = sorted({name for _, name, _ in self.references})
            listed = f"open weights (size 0) there: {', '.join(names)}" if names else "the table has no rows of size 0"
            raise InputError(f"{self.name}: no scores of '{arm}' on task '{curve.task}'; {listed}")
        return found


def read_results(path: Path, score: str | None = None) -> ResultsTable:
    """Read a CSV or Parquet table of results.

    Args:
        path: of the table.
        score: column; None takes `score`, `auprc` or `loss`.

    Raises:
        InputError: no such file, missing columns, values that are no finite numbers, no row with a size above 0.
    """
    table = read_table(path).to_table()
    columns = table.column_names
    score = score or next((name for name in SCORE_COLUMNS if name in columns), SCORE_COLUMNS[0])
    for name in ("subset_size", score):
        if name not in columns:
            raise InputError(f"{path.name}: no column '{name}'; found {', '.join(columns)} (--score names the score)")
    sizes, scores = _numbers(table, "subset_size", path), _numbers(table, score, path)
    if (sizes < 0).any():
        row = int(np.flatnonzero(sizes < 0)[0])
        raise InputError(f"{path.name}, row {row + 1}: subset_size {sizes[row]:g}; sizes are 0 (open weights) or more")
    texts = {
        name: _texts(table, name, default)
        for name, default in (("evaluation", ""), ("arm", ONE_ARM), ("task", ""), ("replicate", None))
    }
    curves: dict[tuple[str, str, str], list[int]] = {}
    references: dict[tuple[str, str, str], list[float]] = {}
    for row, key in enumerate(zip(texts["evaluation"], texts["arm"], texts["task"], strict=True)):
        if sizes[row] > 0:
            curves.setdefault(key, []).append(row)
        else:
            references.setdefault(key, []).append(float(scores[row]))
    if not curves:
        raise InputError(f"{path.name}: no row with a subset_size above 0; nothing to fit")
    # The average comes last, however the table is sorted.
    ordered = sorted(curves, key=lambda key: key[2] == AVERAGE)
    return ResultsTable(
        name=path.name,
        score=score,
        curves=tuple(
            Curve(*key, sizes[rows], scores[rows], [texts["replicate"][row] for row in rows])
            for key in ordered
            for rows in [curves[key]]
        ),
        references={key: np.array(values) for key, values in references.items()},
    )


def _numbers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    try:
        values = table[name].cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(f"{path.name}: column '{name}' holds a value that is not a number; correct it") from None
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise InputError(
            f"{path.name}, row {wrong[0] + 1} ({wrong.size} in all): {name} is {values[wrong[0]]}; finite numbers are needed: "
            "drop the row"
        )
    return np.asarray(values)


def _texts(table: pa.Table, name: str, default: str | None) -> list[str]:
    """A text column; where there is none, `default`, or (None) every row is its own."""
    if name in table.column_names:
        return ["" if value is None else str(value) for value in table[name].to_pylist()]
    return [f"row {row}" for row in range(table.num_rows)] if default is None else [default] * table.num_rows


def with_averages(table: ResultsTable) -> Iterator[Curve]:
    """The curves, and for each arm that lacks one the mean over its tasks, encoder by encoder.

    A seed of an encoder counts as one score; encoders that miss a task are left out of the average.
    """
    yield from (curve for curve in table.curves if curve.task != AVERAGE)
    for evaluation in table.evaluations:
        for arm in table.arms:
            own = [curve for curve in table.curves if (curve.evaluation, curve.arm) == (evaluation, arm)]
            given = [curve for curve in own if curve.task == AVERAGE]
            if given:
                yield from given
            elif len(own) > 1:
                yield _average(own)


def _average(curves: Sequence[Curve]) -> Curve:
    means: list[dict[tuple[float, str], float]] = []
    for curve in curves:
        seeds: dict[tuple[float, str], list[float]] = {}
        for size, score, encoder in zip(curve.sizes, curve.scores, curve.encoders, strict=True):
            seeds.setdefault((float(size), encoder), []).append(float(score))
        means.append({key: float(np.mean(values)) for key, values in seeds.items()})
    shared = [key for key in means[0] if all(key in other for other in means)]
    return Curve(
        evaluation=curves[0].evaluation,
        arm=curves[0].arm,
        task=AVERAGE,
        sizes=np.array([size for size, _ in shared]),
        scores=np.array([np.mean([mean[key] for mean in means]) for key in shared]),
        encoders=[encoder for _, encoder in shared],
    )
