"""Stratified nested subsets: shares in every prefix, whole patients, strict nesting, and stability when the dataset grows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.datasets import IngestConfig, ingest, verify_dataset
from radscale.datasets.set_aside import set_aside
from radscale.datasets.splits import keyed_fraction
from radscale.datasets.subsets import strata_of, subset_ranks
from radscale.errors import InputError


def people(seed: int, num_images: int = 3000) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Patients of images, whether they train, a stratum of each patient (a rare one among them), and the ingest."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, num_images // 3, num_images)
    strata_of_patients = rng.choice([11, 5, 7, 3], size=num_images // 3, p=[0.6, 0.3, 0.09, 0.01])
    train = (rng.random(num_images // 3) < 0.8)[patients]
    return [f"p{number}" for number in patients], train, strata_of_patients[patients], rng.integers(0, 2, num_images)


@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_holds_the_shares(seed: int) -> None:
    patients, train, strata, _ = people(seed)
    ranks = subset_ranks(patients, train, 5, seed, strata=strata)
    assert np.array_equal(np.sort(ranks[train]), np.arange(train.sum()))
    assert (ranks[~train] == -1).all()
    order = np.argsort(np.where(ranks < 0, len(ranks), ranks))[: train.sum()]
    table = pd.DataFrame({"patient": np.array(patients)[order], "stratum": strata[order]})
    assert (table.groupby("patient").apply(lambda rows: np.ptp(rows.index) + 1 == len(rows), include_groups=False)).all()
    largest = table.groupby(["stratum", "patient"]).size().groupby("stratum").max()
    sizes = np.arange(1, len(table) + 1)
    worst_plain = worst = 0.0
    plain = subset_ranks(patients, train, 5, seed)
    plain_strata = strata[np.argsort(np.where(plain < 0, len(plain), plain))[: train.sum()]]
    for stratum, count in table["stratum"].value_counts().items():
        share = count / len(table)
        off = np.abs(np.cumsum(table["stratum"] == stratum) - share * sizes)
        assert off.max() <= largest[stratum] + share * largest.sum()  # the bound that the docstring states
        worst = max(worst, off.max())
        worst_plain = max(worst_plain, np.abs(np.cumsum(plain_strata == stratum) - share * sizes).max())
    assert worst < worst_plain / 2  # and the strata do something


def test_the_order_is_the_one_that_its_definition_gives() -> None:
    patients, train, strata, batches = people(9, 300)
    table = pd.DataFrame({"patient": patients, "stratum": strata, "batch": batches})[train]
    units = (
        table.groupby(["batch", "patient"], sort=False)
        .agg(stratum=("stratum", "first"), size=("stratum", "size"))
        .reset_index()
    )
    units["hash"] = [keyed_fraction("subset", 3, 1, name) for name in units["patient"]]
    units["jitter"] = [keyed_fraction("stratum", 3, 1, name) for name in units["patient"]]
    units = units.sort_values(["batch", "stratum", "hash"])
    groups = units.groupby(["batch", "stratum"])["size"]
    units["position"] = (groups.cumsum() - units["size"] + units["jitter"] * units["size"]) / groups.transform("sum")
    units = units.sort_values(["batch", "position"])
    expected = [
        row
        for unit in units.itertuples()
        for row in table.index[(table["patient"] == unit.patient) & (table["batch"] == unit.batch)]
    ]
    ranks = subset_ranks(patients, train, 3, 1, batches, strata)
    assert ranks[expected].tolist() == list(range(len(expected)))
    renamed = subset_ranks(patients, train, 3, 1, batches, 100 - strata)
    assert np.array_equal(ranks, renamed)  # the numbers of strata say nothing


def test_what_is_added_changes_no_rank() -> None:
    patients, train, strata, batches = people(2)
    old = np.flatnonzero(batches == 0)
    before = subset_ranks([patients[row] for row in old], train[old], 1, 0, batches[old], strata[old])
    assert np.array_equal(subset_ranks(patients, train, 1, 0, batches, strata)[old], before)


def test_one_stratum_is_none_and_none_is_empty() -> None:
    patients, train, _, _ = people(3, 50)
    one = subset_ranks(patients, train, 1, 0, strata=np.zeros(50, int))
    assert np.array_equal(one, subset_ranks(patients, train, 1, 0))
    assert subset_ranks([], [], 0, 0, strata=np.empty(0, int)).tolist() == []
    assert strata_of([], {}.__getitem__) is None


def test_strata_are_the_groups_that_pandas_makes() -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "sex": pa.array([["F", "M", None][value] for value in rng.integers(0, 3, 500)], pa.string()),
            "view": pa.array([["frontal", "lateral"][value] for value in rng.integers(0, 2, 500)]),
            "age_years": pa.array([None if age > 90 else int(age) for age in rng.integers(0, 100, 500)], pa.int32()),
            "manufacturer": pa.array([f"maker {value}" for value in rng.integers(0, 3, 500)]),
        }
    )
    found = strata_of(["sex", "view", "age", "manufacturer"], table.column)
    frame = table.to_pandas()
    frame["age_years"] //= 10
    expected = frame.groupby(list(frame.columns), dropna=False).ngroup()
    assert pd.DataFrame({"found": found, "expected": expected}).drop_duplicates().shape[0] == expected.nunique()
    assert len(np.unique(found)) == expected.nunique()


def write_archive(folder: Path, patients: range) -> None:
    folder.mkdir(exist_ok=True)
    for patient in patients:
        for visit in range(1 + patient % 2):
            pixels = np.random.default_rng([patient, visit]).integers(0, 4000, (32, 32)).astype(np.uint16)
            fields = {
                "PatientID": f"MRN{patient}",
                "StudyInstanceUID": f"1.2.{patient}.{visit}",
                "SOPInstanceUID": f"1.2.{patient}.{visit}.1",
                "PatientSex": "F" if patient % 4 else "M",
                "PatientAge": f"{25 + 10 * (patient % 3):03d}Y",
                "ViewPosition": "PA",
            }
            (folder / f"{patient}_{visit}.dcm").write_bytes(make_dicom(pixels, **fields))


def test_a_dataset_with_strata_is_verified_grows_and_loses_images(tmp_path: Path) -> None:
    source, out = tmp_path / "archive", tmp_path / "out"
    settings = {"kind": "dicom", "image_size_px": 32, "reports_csv": None}
    config = IngestConfig(**settings, stratify_by=["sex", "age"])  # type: ignore[arg-type]
    write_archive(source, range(60))
    ingest(config, source, out, secret=SECRET, num_workers=0)
    before = pq.read_table(out / "manifest.parquet")
    assert verify_dataset(out) == []
    settings_file = json.loads((out / "dataset.json").read_text())
    settings_file["config"]["stratify_by"] = []
    kept = (out / "dataset.json").read_text()
    (out / "dataset.json").write_text(json.dumps(settings_file))
    assert verify_dataset(out) == [f"rank_{number} is not the order that the keyed hash gives" for number in range(3)]
    (out / "dataset.json").write_text(kept)

    write_archive(source, range(60, 90))
    with pytest.raises(InputError, match=r"stratify_by is .*, but .* was made with"):
        ingest(IngestConfig(**settings), source, out, secret=SECRET, num_workers=0, add=True)  # type: ignore[arg-type]
    ingest(config, source, out, secret=SECRET, num_workers=0, add=True)
    assert pq.read_table(out / "manifest.parquet").slice(0, before.num_rows).equals(before)
    assert verify_dataset(out) == []
    set_aside(out, dict.fromkeys(before["sample_id"].to_pylist()[::7], ("outlier", "by hand")))
    assert verify_dataset(out) == []


@pytest.mark.parametrize("given", [["sex", "weight"], ["sex", "sex"]])
def test_bad_strata_are_refused(given: list[str]) -> None:
    with pytest.raises(InputError, match=r"stratify_by is .*; give any of sex, view, age, manufacturer, each once"):
        IngestConfig(kind="dicom", stratify_by=given)
