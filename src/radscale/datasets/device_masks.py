"""Images with the course and the tip of their lines and tubes: RANZCR-CLiP, and any folder of images and masks with a table."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from radscale.datasets.exclusions import Excluded
from radscale.datasets.images import read_image_file
from radscale.datasets.tables import read_csv
from radscale.errors import InputError

DEVICE_TABLE = "devices.csv"
RANZCR_TABLE = "train_annotations.csv"
LINE_WIDTH_SHARE = 0.01
"""Width of a drawn line as a share of the image's shorter side: 3 to 4 mm of a chest X-ray, a usual tube."""


@dataclass(frozen=True)
class MarkedDevice:
    """A line or tube in an image; positions are (y, x) in pixels of its mask."""

    row: int
    """Of the table, the first under the header is 1."""
    kind: str
    """Type of the device. Others of the same type in an image are no false structures (paper, Figure 1)."""
    tips: tuple[tuple[float, float], ...]
    """Where to start: the tip, or both ends if the tip is not marked."""
    course: np.ndarray | None = None
    """(n, 2) points of a line (y, x), or None: then there is a mask file."""
    mask_file: Path | None = None
    mask_value: int | None = None
    """Value of the device in the mask file; None: every value above 0."""

    def mask(self, image_shape: tuple[int, int], line_width_share: float = LINE_WIDTH_SHARE) -> np.ndarray:
        """(H, W) bool; a line is drawn into an image of this shape, with a width of at least one pixel.

        Raises:
            InputError: the mask cannot be read, or holds no device.
        """
        if self.course is not None:
            drawn = np.zeros(image_shape, np.uint8)
            points = np.rint(self.course[:, ::-1]).astype(np.int32)
            cv2.polylines(drawn, [points], False, 1, max(1, round(line_width_share * min(image_shape))))
            mask = drawn > 0
        else:
            assert self.mask_file is not None
            try:
                values = read_image_file(self.mask_file)
            except Excluded as verdict:
                raise InputError(f"mask of row {self.row}: {verdict}") from None
            mask = values > 0 if self.mask_value is None else values == self.mask_value
        if not mask.any():
            raise InputError(f"mask of row {self.row}: no pixel of the device in it; correct the row or leave it out")
        return mask


@dataclass(frozen=True)
class MarkedImage:
    """One image with its devices."""

    path: Path
    patient: str
    """Only to keep images of one patient together; never written."""
    devices: tuple[MarkedDevice, ...]


def read_device_table(folder: Path) -> list[MarkedImage]:
    """Images named by `devices.csv`: columns `image`, `mask`, `tip_x_px`, `tip_y_px`, optionally `mask_value`, `device` and
    `patient_id`; paths are relative to the folder. Without patient ids each image is a patient.

    Raises:
        InputError: no table, missing columns, or a cell that is no number.
    """
    table = read_csv(folder / DEVICE_TABLE)
    table.require(("image", "mask", "tip_x_px", "tip_y_px"), DEVICE_TABLE, DEVICE_TABLE)
    devices = []
    for number, row in enumerate(table.rows, start=1):
        value = row.get("mask_value", "").strip()
        device = MarkedDevice(
            row=number,
            kind=row.get("device", "").strip() or "device",
            tips=((_number(row, "tip_y_px", number), _number(row, "tip_x_px", number)),),
            mask_file=folder / row["mask"].strip(),
            mask_value=int(_number(row, "mask_value", number)) if value else None,
        )
        image = folder / row["image"].strip()
        devices.append((image, row.get("patient_id", "").strip() or str(image), device))
    return group_by_image(devices)


def read_ranzcr(folder: Path) -> list[MarkedImage]:
    """RANZCR-CLiP: `train_annotations.csv` (StudyInstanceUID, label, data = list of [x, y]), `train.csv`, `train/UID.jpg`.

    The type is the label without its placement ("CVC - Normal" is a CVC). The data set does not say which end of a line is the
    tip, so both ends are given. `train.csv` says who the patient is; without it each image is a patient.

    Raises:
        InputError: missing files or columns, or a row whose data is not a list of at least two points.
    """
    table = read_csv(folder / RANZCR_TABLE)
    table.require(("StudyInstanceUID", "label", "data"), RANZCR_TABLE, RANZCR_TABLE)
    patients: dict[str, str] = {}
    if (folder / "train.csv").exists():
        people = read_csv(folder / "train.csv")
        people.require(("StudyInstanceUID", "PatientID"), "train.csv", "train.csv")
        patients = {row["StudyInstanceUID"]: row["PatientID"] for row in people.rows}
    devices = []
    for number, row in enumerate(table.rows, start=1):
        points = _points(row["data"], number)
        uid = row["StudyInstanceUID"].strip()
        device = MarkedDevice(
            row=number,
            kind=row["label"].split(" - ")[0].removesuffix(" Present").strip(),
            tips=(tuple(points[-1]), tuple(points[0])),
            course=points,
        )
        devices.append((folder / "train" / f"{uid}.jpg", patients.get(uid, uid), device))
    return group_by_image(devices)


def group_by_image(devices: list[tuple[Path, str, MarkedDevice]]) -> list[MarkedImage]:
    """(image, patient, device) by image, in the order of the table."""
    images: dict[Path, MarkedImage] = {}
    for path, patient, device in devices:
        before = images[path].devices if path in images else ()
        images[path] = MarkedImage(path, patient, (*before, device))
    return list(images.values())


def _points(text: str, number: int) -> np.ndarray:
    """(n, 2) float (y, x) from "[[x, y], ...]"."""
    try:
        points = np.array(ast.literal_eval(text), dtype=np.float64)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{RANZCR_TABLE}, row {number}: data is not a list of two or more points [x, y]; correct the row")
    return points[:, ::-1]


def _number(row: Mapping[str, str], column: str, number: int) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{DEVICE_TABLE}, row {number}: {column} is not a number; correct the row")
    return value
