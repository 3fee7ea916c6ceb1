"""Image folders with a table: PNG, JPEG and TIFF, 8 and 16 bit, grey or colour."""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from radscale.datasets.dicom import normalise_view_position, view_of
from radscale.datasets.exclusions import Excluded


@dataclass(frozen=True)
class ImageEntry:
    """One row of the table, in our terms."""

    path: str
    patient: str
    study: str
    study_day: int | None
    view: str
    view_position: str
    sex: str | None
    age_years: int | None
    manufacturer: str | None
    care_setting: str | None
    texts: dict[str, str]
    row: dict[str, str]


def image_entries(table: list[dict[str, str]], columns: dict[str, str]) -> list[ImageEntry]:
    """Rows as entries, sorted by path. Without a study column every image is a study of its own."""
    entries = []
    for row in table:

        def value(role: str, row: dict[str, str] = row) -> str:
            return row.get(columns.get(role, ""), "").strip()

        position = normalise_view_position(value("view"))
        view = view_of(position)
        if view == "unknown" and value("view").lower().startswith("front"):
            view = "frontal"
        patient = value("patient")
        entries.append(
            ImageEntry(
                path=value("image"),
                patient=patient,
                study=f"{patient}\0{value('study')}" if value("study") else value("image"),
                study_day=_whole_number(value("study_day")),
                view=view,
                view_position=position,
                sex=_sex(value("sex")),
                age_years=_age(value("age")),
                manufacturer=value("manufacturer") or None,
                care_setting=value("care_setting").lower() or None,
                texts={name: value(name) for name in ("report", "indication", "comparison", "findings", "impression")},
                row=row,
            )
        )
    return sorted(entries, key=lambda entry: entry.path)


def _whole_number(value: str) -> int | None:
    try:
        return round(float(value))
    except ValueError:
        return None


def _sex(value: str) -> str | None:
    first = value[:1].upper()
    return first if first in ("M", "F", "O") else None


def _age(value: str) -> int | None:
    match = re.match(r"\d+", value)
    return min(int(match.group()), 90) if match else None


def read_image_file(path: Path) -> np.ndarray:
    """(H, W) grey values in the file's own range; colours by their luminance, transparency ignored.

    Raises:
        Excluded: the file is missing or cannot be decoded.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except (FileNotFoundError, IsADirectoryError):
        raise Excluded("missing_file", "the table names it, but it is not in the folder") from None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise Excluded("unreadable", "not a PNG, JPEG or TIFF image that can be decoded")
    if image.ndim == 3:
        channels = image.shape[2]
        image = image[..., 0] if channels < 3 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY)
    return np.asarray(image)
