"""Image folders with a table: PNG, JPEG and TIFF, 8 and 16 bit, grey or colour."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from radscale.datasets.deidentification import parse_date, year_of
from radscale.datasets.dicom import normalise_view_position, parse_age, view_of
from radscale.datasets.exclusions import Excluded

MAX_DAY = 200_000
"""No count of days in a life is larger; larger numbers are no days."""


@dataclass(frozen=True)
class ImageEntry:
    """One row of the table, in our terms."""

    number: int
    """Of its row in the table, 0 first."""
    path: str
    patient: str
    study: str
    study_day: int | None
    study_year: int | None
    view: str
    view_position: str
    sex: str | None
    age_years: int | None
    manufacturer: str | None
    care_setting: str | None
    ethnicity: str
    department: str
    texts: dict[str, str]
    names: tuple[str, ...]
    """Names and numbers of the patient, only to be scrubbed from the report."""
    row: dict[str, str]
    part: str = ""
    """Of a published split: train, validation or test; empty if there is none."""
    excluded: str = ""
    """Why its publisher says not to use it, or empty."""
    masks: Mapping[str, Callable[[tuple[int, int]], np.ndarray]] = field(default_factory=dict)
    """Task to a function that draws it: shape (H, W) of the image file -> (H, W) bool."""


def image_entries(table: list[dict[str, str]], columns: dict[str, str]) -> list[ImageEntry]:
    """Rows as entries, sorted by path. Without a study column every image is a study of its own."""
    entries = []
    for number, row in enumerate(table):

        def value(role: str, row: dict[str, str] = row) -> str:
            return row.get(columns.get(role, ""), "").strip()

        position = normalise_view_position(value("view"))
        view = view_of(position)
        if view == "unknown" and value("view").lower().startswith("front"):
            view = "frontal"
        patient = value("patient")
        entries.append(
            ImageEntry(
                number=number,
                path=value("image"),
                patient=patient,
                study=f"{patient}\0{value('study')}" if value("study") else value("image"),
                study_day=_day(value("study_day")),
                study_year=year_of(value("study_day")),
                view=view,
                view_position=position,
                sex=_sex(value("sex")),
                age_years=_age(value("age")),
                manufacturer=value("manufacturer") or None,
                care_setting=value("care_setting").lower() or None,
                ethnicity=value("ethnicity"),
                department=value("department"),
                texts={name: value(name) for name in ("report", "indication", "comparison", "findings", "impression")},
                names=tuple(part for part in re.split(r"[\^\s,]+", value("name")) if len(part) > 2)
                + tuple(text for text in (patient, value("study"), value("name")) if len(text) > 3),
                row=row,
            )
        )
    return sorted(entries, key=lambda entry: entry.path)


def _day(value: str) -> int | None:
    """A day's number: of a date, or a count of days since any day (only differences within a patient matter)."""
    date = parse_date(value)
    if date is not None:
        return date
    try:
        number = float(value)
    except ValueError:
        return None
    return round(number) if abs(number) <= MAX_DAY else None


def _sex(value: str) -> str | None:
    first = value[:1].upper()
    return first if first in ("M", "F", "O") else None


def _age(value: str) -> int | None:
    """Whole years from "61", "61.4", "061Y", "8 months"."""
    match = re.fullmatch(r"(\d+)(?:\.\d*)?\s*([dwmy]?)[a-z ]*\+?", value.lower())
    return parse_age("".join(match.groups()), "", "") if match else None


def read_image_file(path: Path) -> np.ndarray:
    """(H, W) grey values in the file's own range, upright (Exif orientation applied); colours by their luminance, transparency
    ignored.

    Raises:
        Excluded: the file is missing, may not be read, or cannot be decoded.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except PermissionError:
        raise Excluded("unreadable", "the file may not be read by this user") from None
    except (OSError, ValueError):  # no such file, a folder, a loop of links, an impossible name
        raise Excluded("missing_file", "the table names it, but it is not in the folder") from None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise Excluded("unreadable", "not a PNG, JPEG or TIFF image that can be decoded")
    if not np.isfinite(image).all():
        raise Excluded("unreadable", "some pixel values are no numbers")
    return np.asarray(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
