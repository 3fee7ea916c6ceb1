"""One image of each view per visit: against pandas, on random visits with whatever image types."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dicom_makers import SECRET, make_dicom
from radscale.cli import app
from radscale.datasets import Dataset, IngestConfig, ingest, verify_dataset
from radscale.datasets.selection import deselect, select
from radscale.errors import InputError

CONFIG = IngestConfig(
    kind="dicom",
    image_size_px=24,
    min_size_px=16,
    reports_csv=None,
    burned_in_text="keep",
    faces="keep",
    view_from_pixels="never",
)
TYPES = (
    ["ORIGINAL", "PRIMARY"],
    ["DERIVED", "PRIMARY"],
    ["DERIVED", "SECONDARY", "CSA RESAMPLED"],
    ["ORIGINAL"],
    None,
    ["Zq^Name"],
)


def write(folder: Path, number: int, rng: np.random.Generator, study: int, **fields: object) -> None:
    folder.mkdir(exist_ok=True)
    size = (int(rng.integers(24, 40)), int(rng.integers(24, 40)))
    pixels = (4000 * cv2.GaussianBlur(rng.random(size), (0, 0), 2)).astype(np.uint16)
    header: dict[str, object] = {
        "PatientID": f"P{study % 9}",
        "StudyInstanceUID": f"1.2.{study}",
        "SOPInstanceUID": f"1.3.{number}",
    }
    for name, values in {
        "ImageType": TYPES,
        "ViewPosition": ("PA", "AP", "LL", "", "PA"),
        "PatientSex": ("F", "M", ""),
        "Manufacturer": ("FUJIFILM Corporation", "Agfa", ""),
        "StudyTime": ("101010", ""),
    }.items():
        value = values[rng.integers(len(values))]
        if value is not None:
            header[name] = value
    (folder / f"{number:03}.dcm").write_bytes(make_dicom(pixels, **{**header, **fields}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(90):
        write(tmp_path / "archive", number, rng, int(rng.integers(0, 25)))
    ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    return tmp_path / "ds"


def expected(table: pd.DataFrame) -> set[str]:
    """Images that stay, by a sort of pandas."""
    table = table.copy()
    kind = table["image_type"].fillna("")
    table["origin"] = [{"O": 0, "D": 2}.get(value[:1], 1) for value in kind]
    table["second"] = [0 if value.endswith("PRIMARY") else 2 if value.endswith("SECONDARY") else 1 for value in kind]
    described = table[["view_position", "sex", "age_years", "manufacturer", "study_second", "accession_id"]]
    table["missing"] = (described.isna() | (described == "")).sum(axis=1)
    table["area"] = -(table["width_px"] * table["height_px"])
    ordered = table[table["view"] != "unknown"].sort_values(["batch", "origin", "second", "missing", "area", "sample_id"])
    return set(ordered.drop_duplicates(["study_id", "view"])["sample_id"]) | set(table[table["view"] == "unknown"]["sample_id"])


def test_the_choice_is_that_of_pandas_and_nothing_is_lost(folder: Path) -> None:
    before = pq.read_table(folder / "manifest.parquet").to_pandas()
    assert set(before["image_type"].dropna()) == {"ORIGINAL/PRIMARY", "DERIVED/PRIMARY", "DERIVED/SECONDARY", "ORIGINAL"}
    told = select(folder, dry_run=True)
    assert len(Dataset(folder)) == 90
    assert select(folder) == told
    after = Dataset(folder)
    assert set(after.column("sample_id").to_pylist()) == expected(before)
    assert told["chosen"] == len(after) < 90
    assert verify_dataset(folder) == []
    visits = before[before["view"] != "unknown"][["study_id", "view"]].drop_duplicates()
    kept = after.manifest.to_pandas()
    assert len(kept[kept["view"] != "unknown"]) == len(visits)
    assert select(folder)["not_selected"] == 0
    assert deselect(folder)["images"] == 90
    with pytest.raises(InputError, match="nothing to put back"):
        deselect(folder)


def test_each_manufacturer_is_told_with_what_is_left(folder: Path) -> None:
    before = pq.read_table(folder / "manifest.parquet").to_pandas()
    known = before[before["view"] != "unknown"].assign(manufacturer=lambda table: table["manufacturer"].fillna("unknown"))
    chosen = known[known["sample_id"].isin(expected(before))]
    for row in select(folder, dry_run=True)["manufacturers"]:
        of_it, left = known[known["manufacturer"] == row["manufacturer"]], chosen[chosen["manufacturer"] == row["manufacturer"]]
        assert (row["available"], row["selected"]) == (len(of_it), len(left))
        for name, part in (("original_available", of_it), ("original_selected", left)):
            share = part["image_type"].fillna("").str.startswith("ORIGINAL").mean()
            assert row[name] == pytest.approx(share, abs=1e-4)


def test_files_that_are_added_change_no_earlier_choice(folder: Path, tmp_path: Path) -> None:
    select(folder)
    chosen = set(Dataset(folder).column("sample_id").to_pylist())
    rng = np.random.default_rng(1)
    for number in range(90, 115):
        write(tmp_path / "more", number, rng, number - 90, ImageType=["ORIGINAL", "PRIMARY"], ViewPosition="PA")
    ingest(CONFIG, tmp_path / "more", folder, secret=SECRET, add=True)
    select(folder)
    now = set(Dataset(folder).column("sample_id").to_pylist())
    assert chosen <= now
    assert verify_dataset(folder) == []


def test_a_visit_with_derived_images_only_keeps_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for number in range(6):
        write(tmp_path / "archive", number, rng, number // 2, ImageType=["DERIVED", "SECONDARY"], ViewPosition="PA")
    ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    select(tmp_path / "ds")
    assert sorted(Dataset(tmp_path / "ds").column("study_id").to_pylist()) == sorted(
        set(Dataset(tmp_path / "ds").column("study_id").to_pylist())
    )
    assert len(Dataset(tmp_path / "ds")) == 3


def test_the_command_shows_the_manufacturers(folder: Path) -> None:
    done = CliRunner().invoke(app, ["select", str(folder), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "FUJIFILM" in done.output
    assert len(Dataset(folder)) == 90
    assert CliRunner().invoke(app, ["select", str(folder)]).exit_code == 0
    assert CliRunner().invoke(app, ["select", str(folder), "--put-back"]).exit_code == 0
    assert len(Dataset(folder)) == 90
