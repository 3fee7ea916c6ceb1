"""An archive of DICOM files for tests, clean or dirty, and the bytes of all files of a folder."""

import hashlib
from pathlib import Path

import numpy as np

from dicom_makers import make_dicom


def write_archive(folder: Path, num_files: int, *, first: int = 0, side_px: int = 48) -> None:
    """Files of `num_files` visits, two to a patient, each with a report."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["accession_number,report,care_setting"]
    for number in range(first, first + num_files):
        rng = np.random.default_rng(number)
        patient = number // 2
        data = make_dicom(
            rng.integers(0, 4000, (side_px, side_px)).astype(np.uint16),
            PatientID=f"MRN{patient:06d}",
            PatientName=f"NAME{patient}^GIVEN",
            StudyInstanceUID=f"1.2.{number}",
            SOPInstanceUID=f"1.2.{number}.1",
            AccessionNumber=f"ACC{number:06d}",
            StudyDate=f"2021{1 + number % 12:02d}15",
            StudyTime="093000",
            ViewPosition="PA",
        )
        (folder / f"{number:06d}.dcm").write_bytes(data)
    known = sorted(int(path.stem) for path in folder.glob("[0-9]*.dcm"))
    lines += [f"ACC{number:06d},Report {number} of NAME{number // 2}. Clear lungs.,outpatient" for number in known]
    (folder / "reports.csv").write_text("\n".join(lines) + "\n")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
