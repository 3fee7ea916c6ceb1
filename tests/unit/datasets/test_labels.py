from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dicom_makers import SECRET
from radscale.datasets import Dataset, IngestConfig, ingest, task_table
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
