"""Identifiers are planted wherever an archive holds text; none may be in any output, log or error."""

import csv
import json
import logging
import random
import string
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydicom import dcmread

from dicom_makers import SECRET, make_dicom
from planted_identifiers import FORMS, draw
from radscale.benchmarks.planted_text import HIT_SHARE, plant_lines
from radscale.datasets import Dataset, IngestConfig, ingest
from radscale.datasets.deidentification import pseudonym
from radscale.datasets.report_scrubbing import KINDS, scrub_report


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_is_found_and_the_findings_stay(kind: str) -> None:
    rng = random.Random(0)
    for form in FORMS[kind]:
        for _ in range(20):
            phrase, parts = draw(rng, form)
            text, found = scrub_report(f"Clear lungs. {phrase}\nTube 3.4 cm above the carina at T4-5, 2 views.")
            assert [part for part in parts if part in text] == [], form
            assert "Clear lungs. " in text
            assert text.endswith("\nTube 3.4 cm above the carina at T4-5, 2 views.")
            assert set(found) <= set(KINDS)


def _tokens(rng: random.Random) -> Iterator[str]:
    while True:
        yield "Zq" + "".join(rng.choices(string.ascii_lowercase, k=9))


@pytest.mark.parametrize("num_files", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_no_planted_identifier_is_in_any_output(
    num_files: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rng, planted, rows = random.Random(0), [], []
    tokens = _tokens(rng)
    archive, out = tmp_path / "archive", tmp_path / "ds"
    archive.mkdir()
    for number in range(num_files):
        name, file_name, patient, accession, private, comment, doctor, mail, group, ward = (next(tokens) for _ in range(10))
        planted += [name, file_name, patient, accession, private, comment, doctor, mail, group, ward]
        pixels = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
        data = make_dicom(
            pixels,
            PatientName=f"{name}^A",
            PatientID=patient,
            AccessionNumber=accession,
            StudyInstanceUID=f"1.2.{number}",
            SOPInstanceUID=f"1.2.{number}.1",
            PatientComments=f"cousin of {comment}",
            ViewPosition=comment if number % 3 == 0 else "PA",
            Manufacturer=f"Scanner of {name}" if number % 2 else "ACME",
            EthnicGroup=group,
            InstitutionalDepartmentName=ward,
        )
        path = archive / f"{file_name}.dcm"
        path.write_bytes(data)
        header = dcmread(path)
        header.private_block(0x0011, f"{private}", create=True).add_new(1, "LO", private)
        header.save_as(path)
        if number % 5 == 4:  # cut off: what is wrong with it is told without what it holds
            path.write_bytes(path.read_bytes()[:-4000])
        text = f"{name.upper()} ({patient}, {accession}). Clear lungs. Discussed with Dr. {doctor}, {mail}@example.org."
        rows.append([accession, text])
    with (archive / "reports.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["accession_number", "report"], *rows])
    counts = ingest(IngestConfig(kind="dicom", image_size_px=32), archive, out, secret=SECRET)
    assert counts["images"] == num_files - num_files // 5
    assert counts["excluded"] == {"unreadable": num_files // 5}
    assert counts["scrubbed"]["CONTACT"] == counts["scrubbed"]["NAME"] == counts["images"]
    written = [path for path in out.rglob("*") if path.is_file()]
    everything = b"\n".join(path.read_bytes() + str(path.relative_to(out)).encode() for path in written).decode("latin-1")
    everything += "".join(json.dumps(pq.read_table(path).to_pylist()) for path in written if path.suffix == ".parquet")
    everything += "".join(capfd.readouterr()) + caplog.text
    lower = everything.lower()
    assert "clear lungs" in lower
    assert len(planted) == 10 * num_files
    assert [token for token in planted if token.lower() in lower] == []


@pytest.mark.parametrize("num_files", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_lines_in_the_pixels_are_white_in_what_is_stored(num_files: int, tmp_path: Path) -> None:
    """By as many as docs/burned_in_text.md says of lines that can be read."""
    archive, planted, hidden = tmp_path / "archive", {}, []
    archive.mkdir()
    for number in range(num_files):
        rng = np.random.default_rng(number)
        smooth = cv2.resize(rng.random((8, 7)).astype(np.float32), (1000, 1200), interpolation=cv2.INTER_CUBIC) * 150 + 30
        image, lines = plant_lines(smooth + rng.normal(0, 1, smooth.shape), rng, contrasts=(32, 64, 128))
        uid = f"1.2.{number}.1"
        planted[pseudonym(SECRET, "sample", uid)] = lines
        pixels = np.clip(image * 12 + 100, 0, 4095).astype(np.uint16)
        fields = {"PatientID": f"P{number}", "StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": uid, "ViewPosition": "PA"}
        (archive / f"{number}.dcm").write_bytes(make_dicom(pixels, **fields))
    out = tmp_path / "ds"
    assert ingest(IngestConfig(kind="dicom", reports_csv=None), archive, out, secret=SECRET)["images"] == num_files
    dataset = Dataset(out)
    for row, sample in enumerate(dataset.column("sample_id").to_pylist()):
        stored = cv2.resize(dataset.read_image(row), (1000, 1200), interpolation=cv2.INTER_NEAREST)
        hidden += [(stored[tuple(line.visible.T)] == 255).mean() > HIT_SHARE for line in planted[sample]]
    assert len(hidden) > 2 * num_files
    assert np.mean(hidden) >= 0.97
