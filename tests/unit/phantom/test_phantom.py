"""The synthetic hospital: same seeds, same bytes; what its truth says is in its images and reports."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pydicom.pixels
import pytest

from radscale.errors import InputError
from radscale.phantom import DEVICES, PhantomConfig, draw_person, generate_archive, render_views
from radscale.phantom.findings import Finding

CONFIG = PhantomConfig(num_patients=8, seed=3, image_size_px=128, dirt_rate=0.0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "archive"
    out.mkdir()
    generate_archive(CONFIG, out)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_bytes_do_not_depend_on_the_number_of_workers(archive: Path, tmp_path: Path) -> None:
    generate_archive(CONFIG, tmp_path, num_workers=3)
    assert digests(tmp_path) == digests(archive)


def test_a_larger_hospital_has_the_same_first_patients() -> None:
    small, large = draw_person(CONFIG, 2), draw_person(replace(CONFIG, num_patients=100), 2)
    assert small[0].patient_id == large[0].patient_id
    assert [study.report for study in small[1]] == [study.report for study in large[1]]


def test_headers_are_those_of_an_archive(archive: Path) -> None:
    seen: dict[str, set[str]] = {"Manufacturer": set(), "ViewPosition": set(), "PhotometricInterpretation": set()}
    for path in archive.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        assert header.Modality in ("CR", "DX")
        assert header.PatientSex in ("F", "M")
        assert header.Rows >= 100
        assert header.pixel_array.std() > 0
        # What a viewer shows: every image for presentation has a window or a VOI LUT, and one that spreads its values.
        assert ("WindowCenter" in header) != ("VOILUTSequence" in header)
        assert np.asarray(pydicom.pixels.apply_voi_lut(header.pixel_array, header)).std() > 0
        assert (
            header.PresentationLUTShape
            == {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[header.PhotometricInterpretation]
        )
        for name, values in seen.items():
            values.add(str(header.get(name, "")))
    assert len(seen["Manufacturer"]) > 1
    assert {"AP", "PA"} & seen["ViewPosition"]


def test_reports_truth_and_images_speak_of_the_same_studies(archive: Path) -> None:
    accessions = {row["accession_number"] for row in read_csv(archive / "truth" / "labels.csv")}
    assert {row["accession_number"] for row in read_csv(archive / "reports.csv")} <= accessions
    in_images = {str(pydicom.dcmread(p, stop_before_pixels=True).AccessionNumber) for p in archive.rglob("*.dcm")}
    assert in_images == accessions


def test_masks_hold_the_devices_of_the_truth_with_their_tips(archive: Path) -> None:
    codes = list(DEVICES)
    rows = read_csv(archive / "truth" / "devices.csv")
    assert rows
    for row in rows:
        mask = cv2.imread(str(archive / "truth" / "masks" / f"{row['sop_uid']}.png"), cv2.IMREAD_UNCHANGED)
        assert (mask > 0).any(), row
        if not (row["tip_x_px"] and row["tip_y_px"]):
            continue
        x, y = round(float(row["tip_x_px"])), round(float(row["tip_y_px"]))
        if 3 <= x < mask.shape[1] - 3 and 3 <= y < mask.shape[0] - 3:
            # Its own curve, or a device that lies above it.
            near = mask[y - 3 : y + 4, x - 3 : x + 4]
            assert near.any(), row
        assert row["type"] in codes


@pytest.mark.parametrize("key", ["pleural_effusion", "pneumothorax", "opacity", "cardiomegaly", "pulmonary_edema"])
def test_a_finding_changes_the_image_where_it_is_and_not_by_its_noise(key: str) -> None:
    person, studies = draw_person(CONFIG, 1)
    study = studies[0]
    study.findings, study.devices = [], []
    healthy = render_views(CONFIG, person, study)[1][0].pixels.astype(float)
    study.findings = [Finding(key, 1, 1.0, 5)]
    ill = render_views(CONFIG, person, study)[1][0].pixels.astype(float)
    difference = np.abs(ill - healthy) / healthy.std()
    assert difference.max() > 0.3
    assert np.mean(difference > 0.1) < 0.6  # the rest of the same chest looks the same


def test_hospitals_differ_and_seeds_matter() -> None:
    own = draw_person(CONFIG, 0)[1][0].report
    public = draw_person(replace(CONFIG, hospital="public"), 0)[1][0].report
    other = draw_person(replace(CONFIG, seed=4), 0)[1][0].report
    assert len({own, public, other}) == 3


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="dirt_rate is 2"):
        PhantomConfig(dirt_rate=2)
    with pytest.raises(InputError):
        PhantomConfig(hospital="mine")
