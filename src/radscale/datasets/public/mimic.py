"""MIMIC-CXR-JPG (Johnson et al. 2019): metadata, split, CheXpert and NegBio tables, `files/pNN/pSUBJECT/sSTUDY/IMAGE.jpg`.

Reports come with MIMIC-CXR itself: `files/pNN/pSUBJECT/sSTUDY.txt`, in this folder or in `mimic-cxr-reports/`.
"""

from radscale.datasets.public.layout import (
    Layout,
    Mark,
    PublicFolder,
    PublicImage,
    PublicOptions,
    binary_states,
    require_unique,
    task_name,
)
from radscale.errors import InputError

METADATA = "mimic-cxr-2.*-metadata.csv"
SPLIT = "mimic-cxr-2.*-split.csv"
ENGINES = {"chexpert": "mimic-cxr-2.*-chexpert.csv", "negbio": "mimic-cxr-2.*-negbio.csv"}
IDS = ("subject_id", "study_id")
COLUMNS = ("dicom_id", *IDS, "ViewPosition", "StudyDate")
PARTS = {"train": "train", "validate": "validation", "test": "test"}
REPORT_FOLDERS = ("", "mimic-cxr-reports/")


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(METADATA, COLUMNS, keep=COLUMNS).rows
    require_unique((row["dicom_id"] for row in rows), "dicom_id", METADATA)
    parts = {row["dicom_id"]: row["split"] for row in folder.table(SPLIT, ("dicom_id", "split")).rows}
    unlisted = sum(parts.get(row["dicom_id"]) not in PARTS for row in rows)
    if unlisted:
        raise InputError(f"{SPLIT}: {unlisted:,} images of the metadata are in none of {', '.join(PARTS)}; restore the table")
    labels = {engine: _labels(folder, pattern) for engine, pattern in ENGINES.items() if folder.find(pattern) is not None}
    reports = next((place for place in REPORT_FOLDERS if next((folder.path / place).glob("files/p*/p*/s*.txt"), None)), None)
    images = []
    for row in rows:
        study = f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        images.append(
            PublicImage(
                row={
                    "image": f"{study}/{row['dicom_id']}.jpg",
                    "patient": row["subject_id"],
                    "study": row["study_id"],
                    "study_day": row["StudyDate"],
                    "view": row["ViewPosition"],
                },
                labels={engine: states[row["study_id"]] for engine, states in labels.items() if row["study_id"] in states},
                part=PARTS[parts[row["dicom_id"]]],
                report_file="" if reports is None else f"{reports}{study}.txt",
            )
        )
    return images


def _labels(folder: PublicFolder, pattern: str) -> dict[str, dict[str, str]]:
    """Study -> task -> state."""
    table = folder.table(pattern, IDS)
    columns = {column: task_name(column) for column in table.columns if column not in IDS}
    require_unique((row["study_id"] for row in table.rows), "study_id", pattern)
    return {row["study_id"]: binary_states(row, columns, pattern) for row in table.rows}


LAYOUT = Layout(
    "mimic-cxr-jpg",
    "MIMIC-CXR-JPG",
    (
        Mark((METADATA,), ("dicom_id", "ViewPosition")),
        Mark((SPLIT,), ("dicom_id", "split")),
        Mark((ENGINES["chexpert"],), IDS),
    ),
    read,
    level="study",
)
