from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET
from radscale.datasets import Dataset, IngestConfig, ingest, read_label_table, task_table
from radscale.errors import InputError

COLUMNS = {"image": "image_path", "patient": "patient_id", "report": "report"}


@pytest.fixture
def dataset(image_folder: Callable[..., Path], tmp_path: Path) -> Dataset:
    ingest(IngestConfig(kind="images", image_size_px=32, columns=COLUMNS), image_folder(6), tmp_path / "ds", secret=SECRET)
    return Dataset(tmp_path / "ds")


def statements(dataset: Dataset) -> pa.Table:
    studies = dataset.manifest["study_id"].to_pylist()
    samples = dataset.manifest["sample_id"].to_pylist()
    rows = [
        ("study", studies[0], "effusion", "positive"),
        ("study", studies[1], "effusion", "negative"),
        ("study", studies[2], "effusion", "uncertain"),
        ("sample", samples[1], "effusion", "positive"),
        ("study", studies[3], "hernia", "positive"),
    ]
    return pa.Table.from_pylist(
        [{"level": level, "id": key, "task": task, "state": state, "engine": "rules"} for level, key, task, state in rows]
    )


def test_four_states_map_by_setting(dataset: Dataset) -> None:
    rows = np.arange(5)
    default = task_table(dataset, statements(dataset), ["effusion", "hernia"], rows=rows)
    # The sample's own statement beats its study's; not mentioned is negative where there is a report; uncertain is unknown.
    np.testing.assert_array_equal(default.targets[:, 0], [1, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(default.targets[:, 1], [0, 0, 0, 1, 0])
    unknown = task_table(dataset, statements(dataset), ["effusion"], rows=rows, not_mentioned="unknown", uncertain="positive")
    np.testing.assert_array_equal(unknown.targets[:, 0], [1, 1, 1, np.nan, np.nan])


def test_an_unknown_task_is_named_with_those_known(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="task 'efusion' is not in the label table; it has effusion, hernia"):
        task_table(dataset, statements(dataset), ["efusion"], rows=np.arange(3))


@pytest.mark.parametrize("as_read", [False, True], ids=["plain", "from_parquet"])
@pytest.mark.parametrize("seed", range(5))
def test_targets_equal_those_of_a_loop_over_the_statements(dataset: Dataset, tmp_path: Path, seed: int, as_read: bool) -> None:
    rng = np.random.default_rng(seed)
    tasks, engines = ["a", "b", "c"], ["rules", "llm"]
    ids = {"study": dataset.column("study_id").to_pylist(), "sample": dataset.column("sample_id").to_pylist()}
    said = {  # one statement per engine, id and task: these never contradict each other
        (str(rng.choice(engines)), level, str(rng.choice([*ids[level], "stranger"])), str(rng.choice(tasks))): str(state)
        for level in ids
        for state in rng.choice(["positive", "negative", "uncertain"], 15)
    }
    table = pa.Table.from_pylist(
        [{"level": k[1], "id": k[2], "task": k[3], "state": state, "engine": k[0]} for k, state in said.items()]
    )
    if as_read:
        pq.write_table(table, tmp_path / "labels.parquet", row_group_size=7)
        table = read_label_table(tmp_path / "labels.parquet")
    rows = rng.permutation(len(dataset))
    present = sorted(set(table["task"].to_pylist()))
    found = task_table(dataset, table, present, rows=rows, uncertain="positive").targets
    with_report = set(dataset.reports()["study_id"].to_pylist())
    for place, row in enumerate(rows):
        own = {level: ids[level][row] for level in ids}
        looked_at = own["study"] in with_report or any(key[2] == own[key[1]] for key in said)
        for column, task in enumerate(present):
            expected = 0.0 if looked_at else np.nan
            for level in ("study", "sample"):
                for key, state in said.items():
                    if key[1:] == (level, own[level], task):
                        expected = 0.0 if state == "negative" else 1.0
            np.testing.assert_equal(found[place, column], np.float32(expected))
