"""Laterals and priors against a loop over all pairs of studies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.datasets import IngestConfig, ingest
from radscale.datasets.deidentification import Pseudonyms
from radscale.datasets.linking import write_links
from radscale.datasets.report_matching import connect

COLUMNS = {"sample_id": pa.string(), "study_id": pa.string(), "patient_id": pa.string(), "view": pa.string()}
SCHEMA = pa.schema([*COLUMNS.items(), ("shifted_day", pa.int32()), ("study_second", pa.int32())])


def links_of(rows: list[dict[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "manifest.parquet")
    with connect(folder / "work") as database:
        counts = write_links(database, folder / "manifest.parquet", folder / "links.parquet")
    return pq.read_table(folder / "links.parquet").to_pylist(), counts


def random_rows(seed: int) -> list[dict[str, Any]]:
    """Few patients with many studies on few days, so that days and times coincide; some without day or time."""
    rng = np.random.default_rng(seed)
    rows = []
    for study in range(60):
        day = None if rng.random() < 0.1 else int(rng.integers(700_000, 700_006))
        second = None if rng.random() < 0.3 else int(rng.choice([0, 60, 3600, 86_399]))
        patient = f"p{rng.integers(5)}"
        for image in range(rng.integers(1, 4)):
            view = str(rng.choice(["frontal", "lateral", "unknown"], p=[0.6, 0.3, 0.1]))
            ids = {"sample_id": f"{rng.integers(10**9):09d}.{study}.{image}", "study_id": f"s{study}", "patient_id": patient}
            rows.append({**ids, "view": view, "shifted_day": day, "study_second": second})
    return [rows[i] for i in rng.permutation(len(rows))]


def is_before(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Both times must say so on one day."""
    if one["shifted_day"] is None or other["shifted_day"] is None:
        return False
    if one["shifted_day"] != other["shifted_day"]:
        return bool(one["shifted_day"] < other["shifted_day"])
    times = one["study_second"], other["study_second"]
    return None not in times and times[0] < times[1]


@pytest.mark.parametrize("seed", range(6))
def test_links_are_those_of_a_loop_over_all_pairs(seed: int, tmp_path: Path) -> None:
    rows = random_rows(seed)
    found, counts = links_of(rows, tmp_path)
    frontal = [row for row in rows if row["view"] == "frontal"]
    assert [row["sample_id"] for row in found] == [row["sample_id"] for row in frontal]
    some_on_one_day = False
    for link, image in zip(found, frontal, strict=True):
        laterals = [r["sample_id"] for r in rows if r["study_id"] == image["study_id"] and r["view"] == "lateral"]
        assert link["lateral_id"] == min(laterals, default=None)
        before = [r for r in frontal if r["patient_id"] == image["patient_id"] and is_before(r, image)]
        # None of them is before another one that is before this image, and later than it.
        last = [r for r in before if not any(is_before(r, other) for other in before)]
        if not before:
            assert (link["prior_id"], link["prior_study_id"], link["prior_days"]) == (None, None, None)
            continue
        prior = next(r for r in before if r["sample_id"] == link["prior_id"])
        assert prior in last
        assert link["prior_study_id"] == prior["study_id"]
        assert link["prior_days"] == image["shifted_day"] - prior["shifted_day"]
        some_on_one_day |= link["prior_days"] == 0
    assert some_on_one_day
    assert counts == {
        "frontal": len(frontal),
        "with_lateral": sum(link["lateral_id"] is not None for link in found),
        "with_prior": sum(link["prior_id"] is not None for link in found),
    }


def test_the_order_of_the_images_changes_no_link(tmp_path: Path) -> None:
    rows = random_rows(0)
    first, _ = links_of(rows, tmp_path / "a")
    second, _ = links_of(rows[::-1], tmp_path / "b")
    assert first == second[::-1]


def test_an_ingest_finds_them_in_the_headers(picture: np.ndarray, tmp_path: Path) -> None:
    images = [("1.1", "PA", "20200301", "0830"), ("1.2", "LL", "20200301", "0831"), ("2.1", "AP", "20200301", "2200"),
              ("3.1", "PA", "20190301", "1200")]  # fmt: skip
    (tmp_path / "archive").mkdir()
    pictures = (picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1])
    for pixels, (uid, position, date, time) in zip(pictures, images, strict=True):
        header = {"SOPInstanceUID": f"1.9.{uid}", "StudyInstanceUID": f"1.9.{uid[0]}", "ViewPosition": position}
        data = make_dicom(pixels, PatientID="77", StudyDate=date, StudyTime=time, **header)
        (tmp_path / "archive" / f"{uid}.dcm").write_bytes(data)
    config = IngestConfig(kind="dicom", image_size_px=32, reports_csv=None)
    counts = ingest(config, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    assert counts["links"] == {"frontal": 3, "with_lateral": 1, "with_prior": 2}
    name = {Pseudonyms(SECRET)("sample", f"1.9.{uid}"): uid for uid, *_ in images} | {None: None}
    links = pq.read_table(tmp_path / "ds" / "links.parquet").to_pylist()
    found = {name[link["sample_id"]]: (name[link["lateral_id"]], name[link["prior_id"]], link["prior_days"]) for link in links}
    assert found == {"1.1": ("1.2", "3.1", 366), "2.1": (None, "1.1", 0), "3.1": (None, None, None)}


def test_images_without_dates_have_no_priors(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = IngestConfig(kind="images", image_size_px=32, columns={"image": "image_path", "patient": "patient_id"})
    counts = ingest(config, image_folder(6), tmp_path / "ds", secret=SECRET)
    assert counts["links"]["with_prior"] == 0
