"""Tables of scores as anybody may make them: a prediction table, or a simple CSV with one column per model.

Long form: `arm, sample_id, target, prediction`, optionally `task, patient_id, subset_size, replicate, seed`; the prediction
table of docs/data_format.md is one of these, and `prediction` is a probability. Wide form: `sample_id, target` and a column of
scores per arm, optionally `task, patient_id, seed`; any finite score will do, since only its order counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds

from radscale.analysis.bootstrap import TaskScores
from radscale.analysis.resampling import identity_keys
from radscale.errors import InputError

TEXT_COLUMNS = (
    "arm",
    "task",
    "sample_id",
    "patient_id",
    "study_id",
    "sex",
    "manufacturer",
    "care_setting",
    "ethnicity",
    "department",
)
"""Read as text: `007` is not 7."""
KEY_COLUMNS = ("sample_id", "patient_id", "task", "target", "seed")
NOT_ARMS = {
    *KEY_COLUMNS,
    *TEXT_COLUMNS,
    "age",
    "age_years",
    "replicate",
    "subset_size",
    "objective",
    "study_day",
    "split",
    "view",
}
"""Numbers in these columns are no scores."""
ONE_TASK = "all"


def read_table(path: Path) -> ds.Dataset:
    """A Parquet or CSV file (comma, semicolon or tab), told by its content.

    Raises:
        InputError: no such file, an empty one, not a table.
    """
    try:
        with path.open("rb") as file:
            start = file.read(65536)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; give a Parquet or CSV table") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error.strerror}); give a Parquet or CSV file") from None
    if not start.strip():
        raise InputError(f"{path.name}: the file is empty; give a Parquet or CSV table")
    try:
        if start.startswith(b"PAR1"):
            return ds.dataset(path, format="parquet")
        if b"\0" in start:
            raise InputError(f"{path.name}: is not a table; give Parquet or CSV")
        header = start.split(b"\n")[0]
        delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
        table = pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(TEXT_COLUMNS, pa.string())),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a Parquet or CSV table ({str(error).splitlines()[0][:200]})") from None
    return ds.dataset(table)


@dataclass(frozen=True)
class _Run:
    """One score vector of a task, in the order of its sample codes."""

    arm: str
    unit: int
    codes: np.ndarray
    targets: np.ndarray
    patients: np.ndarray | None
    scores: np.ndarray


@dataclass(frozen=True)
class ScoreTable:
    """Score tables of one form, opened; tasks are read one at a time."""

    name: str
    sources: tuple[ds.Dataset, ...]
    long: bool

    @property
    def columns(self) -> list[str]:
        """That all files have."""
        shared = set.intersection(*(set(source.schema.names) for source in self.sources))
        return [name for name in self.sources[0].schema.names if name in shared]

    @cached_property
    def _sizes(self) -> dict[str, list[int]]:
        """{arm: its subset sizes} of the long form."""
        found: dict[str, set[int]] = {}
        names = [name for name in ("arm", "subset_size") if name in self.columns]
        for source in self.sources:
            for batch in source.to_batches(columns=names):
                if batch.num_rows:
                    distinct = pa.table(batch).group_by(names).aggregate([]).to_pydict()
                    sizes = distinct.get("subset_size") or [0] * len(distinct["arm"])
                    for arm, size in zip(distinct["arm"], sizes, strict=True):
                        found.setdefault(str(arm), set()).add(int(size or 0))
        return {arm: sorted(sizes) for arm, sizes in found.items()}

    @cached_property
    def arms(self) -> list[str]:
        """As `--a` takes them: ARM@SIZE where an arm has several subset sizes."""
        if self.long:
            return [f"{arm}@{s}" if len(sizes) > 1 else arm for arm, sizes in self._sizes.items() for s in sizes]
        schema = self.sources[0].schema
        numeric = [
            n for n in self.columns if pa.types.is_floating(schema.field(n).type) or pa.types.is_integer(schema.field(n).type)
        ]
        return [name for name in numeric if name not in NOT_ARMS and not name.startswith("rank_")]

    @cached_property
    def tasks(self) -> list[str]:
        """In the order of the files; one, `all`, if there is no column `task`."""
        if "task" not in self.columns:
            return [ONE_TASK]
        found: dict[str, None] = {}
        for source in self.sources:
            for batch in source.to_batches(columns=["task"]):
                found.update(dict.fromkeys(map(str, pc.unique(batch["task"]).to_pylist())))
        return list(found)

    def check_arms(self, labels: Sequence[str]) -> None:
        """Raises:
        InputError: an arm that is not there, or one of several sizes without its size.
        """
        for label in labels:
            if not self.long:
                if label not in self.columns:
                    raise InputError(f"arm '{label}': no such column; the score columns are {_some(self.arms)}")
                if pa.types.is_null(self.sources[0].schema.field(label).type):
                    raise InputError(f"arm '{label}': that column is empty in every row; scores are needed")
                if label not in self.arms:
                    kind = "an id or a fact" if label in NOT_ARMS else "text"
                    raise InputError(
                        f"arm '{label}': that column holds {kind}, not scores; the score columns are {_some(self.arms)}"
                    )
                continue
            arm, _, size = label.rpartition("@") if label not in self._sizes else (label, "", "")
            sizes = self._sizes.get(arm or label)
            if sizes is None:
                raise InputError(f"arm '{arm or label}' is not in the tables; they have {_some(sorted(self._sizes))}")
            if not size and len(sizes) > 1:
                raise InputError(
                    f"arm '{label}' has several subset sizes ({', '.join(map(str, sizes))}); say {label}@{sizes[-1]}"
                )
            if size and (not size.isdigit() or int(size) not in sizes):
                raise InputError(f"'{label}': arm '{arm}' has the subset sizes {', '.join(map(str, sizes))}")

    def task_scores(self, labels: Sequence[str], tasks: Sequence[str] | None = None) -> Iterator[TaskScores]:
        """The tasks that all these arms scored, one at a time, every arm on the same samples.

        Raises:
            InputError: an unknown arm or task; scores that are not finite, probabilities outside [0, 1], targets other than
                0 and 1, a sample twice, other samples or targets in one arm than in another, no task in common.
        """
        self.check_arms(labels)
        for task in tasks or ():
            if task not in self.tasks:
                raise InputError(f"task '{task}' is not in {self.name}; it has {_some(self.tasks)}")
        nothing = True
        for task in tasks or self.tasks:
            runs, ids, patients = self._runs(task, labels)
            if {run.arm for run in runs} == set(labels):
                nothing = False
                yield _aligned(task, labels, runs, ids, patients)
        if nothing:
            raise InputError(f"{' and '.join(map(repr, labels))} have no task in common")

    def _runs(self, task: str, labels: Sequence[str]) -> tuple[list[_Run], np.ndarray, np.ndarray | None]:
        """Runs of a task; (samples,) ids and (patients,) keys that codes point to."""
        optional = [
            n
            for n in ("patient_id", "subset_size", "replicate", "seed")
            if n in self.columns and (self.long or n in KEY_COLUMNS)
        ]
        names = ["sample_id", "target", *optional, *(("arm", "prediction") if self.long else dict.fromkeys(labels))]
        parts = []
        for source in self.sources:
            keep = None
            if "task" in self.columns:
                kind = source.schema.field("task").type
                keep = (ds.field("task") if pa.types.is_string(kind) else ds.field("task").cast(pa.string())) == task
            parts.append(source.to_table(columns=names, filter=keep))
        table = pa.concat_tables(parts, promote_options="permissive")
        for column in ("sample_id", *(["patient_id"] if "patient_id" in names else [])):
            if table[column].null_count or pc.any(pc.equal(table[column].cast(pa.string()), "")).as_py():
                raise InputError(f"{self.name}, task '{task}': column '{column}' has empty values; give one in each row")
        codes, ids = _codes(table["sample_id"])
        patients, patient_keys = None, None
        if "patient_id" in names:
            patients, patient_ids = _codes(table["patient_id"])
            patient_keys = identity_keys(patient_ids)
        targets = self._numbers(table, "target", task)
        run_columns = [self._numbers(table, n, task).astype(np.int64) for n in optional if n != "patient_id"]
        facts = dict(zip([n for n in optional if n != "patient_id"], run_columns, strict=True))
        zeros = np.zeros(table.num_rows, np.int64)
        replicate, seed = facts.get("replicate", zeros), facts.get("seed", zeros)
        runs = []
        for label in labels:
            if self.long:
                arm, size = (label, None) if label in self._sizes else (label.rpartition("@")[0], int(label.rpartition("@")[2]))
                chosen = pc.equal(table["arm"].cast(pa.string()), arm).to_numpy()
                if size is not None:
                    chosen = chosen & (facts.get("subset_size", zeros) == size)
                rows = np.flatnonzero(chosen)
                scores = self._numbers(table, "prediction", task)
            else:
                rows, scores = np.arange(table.num_rows), self._numbers(table, label, task)
            many = np.unique(replicate[rows]).size > 1
            for r, s in sorted(set(zip(replicate[rows].tolist(), seed[rows].tolist(), strict=True))):
                own = rows[(replicate[rows] == r) & (seed[rows] == s)]
                own = own[np.argsort(codes[own], kind="stable")]
                run = _Run(
                    label,
                    r if many else s,
                    codes[own],
                    targets[own],
                    patients[own] if patients is not None else None,
                    scores[own],
                )
                self._check(run, task, ids)
                runs.append(run)
        return runs, ids, patient_keys

    def _numbers(self, table: pa.Table, column: str, task: str) -> np.ndarray:
        kind = table[column].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            if table[column].null_count == table.num_rows:
                raise InputError(f"{self.name}, task '{task}': column '{column}' is empty; give numbers")
            example = next(v for v in table[column].to_pylist() if v is not None)
            raise InputError(f"{self.name}: column '{column}' holds text ('{str(example)[:40]}'); numbers are needed")
        if pa.types.is_boolean(kind):
            return table[column].cast(pa.int8()).to_numpy()
        values = table[column].to_numpy()
        if table[column].null_count and column in ("seed", "replicate", "subset_size"):
            raise InputError(f"{self.name}, task '{task}': column '{column}' has empty values; give one in each row")
        return values

    def _check(self, run: _Run, task: str, ids: np.ndarray) -> None:
        where = f"{self.name}, task '{task}', arm '{run.arm}'"

        def refuse(wrong: np.ndarray, values: np.ndarray, what: str, rule: str) -> None:
            if wrong.any():
                found = ids[run.codes[wrong]].tolist()
                raise InputError(f"{where}: {what} {values[wrong][0]:g} in {_rows(found)}; {rule}")

        twice = np.diff(run.codes, append=-1) == 0
        if twice.any():
            found = list(dict.fromkeys(ids[run.codes[twice]].tolist()))
            raise InputError(
                f"{where}: {len(found)} samples stand there twice ({_some(found)}); give each sample once per seed"
            )
        rule = "targets are 0 or 1, drop rows with unknown ones"
        refuse(~np.isin(run.targets, (0, 1)), run.targets.astype(float), "target", rule)
        refuse(~np.isfinite(run.scores), run.scores.astype(float), "score", "scores must be finite, drop or repair those rows")
        if self.long:
            rule = "probabilities in [0, 1] are needed (other scores: one column per arm)"
            refuse(~((run.scores >= 0) & (run.scores <= 1)), run.scores, "prediction", rule)

    def sample_columns(self, names: Sequence[str]) -> tuple[np.ndarray, dict[str, list[object]]]:
        """(m,) sample keys, and the values of these columns for each; a sample's first row counts."""
        parts = [source.to_table(columns=list(dict.fromkeys(["sample_id", *names]))) for source in self.sources]
        table = pa.concat_tables(parts, promote_options="permissive")
        codes, ids = _codes(table["sample_id"])
        first = np.unique(codes, return_index=True)[1]
        return identity_keys(ids), {name: table[name].take(pa.array(first)).to_pylist() for name in names}


def open_scores(paths: Sequence[Path]) -> ScoreTable:
    """Score tables of one form.

    Raises:
        InputError: no file, a missing column, files of both forms, no rows.
    """
    if not paths:
        raise InputError("no table given; name at least one Parquet or CSV file")
    sources, forms = [], set()
    for path in paths:
        source = read_table(path)
        names = source.schema.names
        long = "prediction" in names or "arm" in names
        for column in ("arm", "sample_id", "target", "prediction") if long else ("sample_id", "target"):
            if column not in names:
                hint = "" if long else " (a simple table has sample_id, target and a column of scores per arm)"
                raise InputError(f"{path.name}: no column '{column}'; found {_some(names)}{hint}")
        if source.count_rows() == 0:
            raise InputError(f"{path.name}: the table has no rows")
        sources.append(source)
        forms.add(long)
    if len(forms) > 1:
        raise InputError("the tables have two forms (a column per arm, and a column 'arm'); give tables of one form")
    table = ScoreTable(", ".join(path.name for path in paths[:3]), tuple(sources), forms.pop())
    if not table.arms:
        raise InputError(f"{table.name}: no column of scores; found {_some(table.columns)}")
    return table


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) codes and the (m,) ids that they point to."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(), np.asarray(encoded.dictionary.to_pylist(), dtype=np.str_)


def _aligned(task: str, labels: Sequence[str], runs: list[_Run], ids: np.ndarray, patients: np.ndarray | None) -> TaskScores:
    first = runs[0]
    for run in runs[1:]:
        if not np.array_equal(run.codes, first.codes):
            missing, extra = (np.setdiff1d(*pair).tolist() for pair in ((first.codes, run.codes), (run.codes, first.codes)))
            said = f"{len(missing)} of '{first.arm}' are not in '{run.arm}', {len(extra)} the other way round"
            if run.arm == first.arm:
                said = f"the seeds of '{run.arm}' differ in {len(missing) + len(extra)}"
            raise InputError(
                f"task '{task}': different samples: {said} ({_some(ids[missing + extra].tolist())}); score all on one test set"
            )
        for what, ours, theirs in (("targets", run.targets, first.targets), ("patients", run.patients, first.patients)):
            if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
                found = ids[run.codes[ours != theirs]].tolist()
                raise InputError(f"task '{task}': '{first.arm}' and '{run.arm}' have different {what} in {_rows(found)}")
    by_arm = {label: [run for run in runs if run.arm == label] for label in labels}
    return TaskScores(
        task,
        first.targets.astype(np.int8),
        {label: np.stack([run.scores for run in own]) for label, own in by_arm.items()},
        identity_keys(ids[first.codes]),
        patients[first.patients] if patients is not None and first.patients is not None else None,
        {label: np.array([run.unit for run in own]) for label, own in by_arm.items()},
    )


def _rows(samples: Sequence[str]) -> str:
    return f"{len(samples)} row{'s' if len(samples) > 1 else ''} (samples {_some(samples)})"


def _some(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:limit]) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
