"""RANZCR-CLiP (Tang et al. 2021): `train.csv`, `train_annotations.csv`, `train/UID.jpg`.

Eleven columns say which tubes are there and how they lie; some images also have the course of each tube (`device_masks`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from radscale.datasets.device_masks import RANZCR_TABLE, MarkedDevice, read_ranzcr
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

TABLE = "train.csv"
IDS = ("StudyInstanceUID", "PatientID")
TUBES = {"ETT": "ETT", "NGT": "NGT", "CVC": "CVC", "Swan Ganz Catheter": "SGC"}
"""Device, as columns and annotations begin, to the task "it is there"."""
PLACEMENTS = (
    "ETT - Abnormal",
    "ETT - Borderline",
    "ETT - Normal",
    "NGT - Abnormal",
    "NGT - Borderline",
    "NGT - Incompletely Imaged",
    "NGT - Normal",
    "CVC - Abnormal",
    "CVC - Borderline",
    "CVC - Normal",
    "Swan Ganz Catheter Present",
)


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    rows = folder.table(TABLE, (*IDS, *PLACEMENTS)).rows
    require_unique((row[IDS[0]] for row in rows), IDS[0], TABLE)
    marked = read_ranzcr(folder.path) if folder.find(RANZCR_TABLE) is not None else []
    devices = {image.path.stem: image.devices for image in marked}
    columns = {column: task_name(column) for column in PLACEMENTS}
    images = []
    for row in rows:
        uid = row[IDS[0]]
        states = binary_states(row, columns, TABLE)
        for device, task in TUBES.items():
            present = any(states.get(name) == "positive" for column, name in columns.items() if column.startswith(device))
            states[task] = "positive" if present else "negative"
        images.append(
            PublicImage(
                row={"image": folder.image(uid, f"train/{uid}.jpg"), "patient": row[IDS[1]]},
                labels={"radiologists": states},
                masks=_masks(devices[uid], states) if uid in devices else {},
            )
        )
    return images


class _Courses:
    """Draws the courses of all devices of a kind; none is an empty mask."""

    def __init__(self, devices: Sequence[MarkedDevice]) -> None:
        self.devices = devices

    def __call__(self, shape: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        for device in self.devices:
            mask |= device.mask(shape)
        return mask


def _masks(devices: Sequence[MarkedDevice], states: Mapping[str, str]) -> dict[str, _Courses]:
    """A mask per tube that has courses, an empty one per tube that is not there; none where only the course was not drawn."""
    courses = {task: [device for device in devices if device.kind == kind] for kind, task in TUBES.items()}
    return {task: _Courses(found) for task, found in courses.items() if found or states[task] == "negative"}


LAYOUT = Layout("ranzcr-clip", "RANZCR-CLiP", (Mark((TABLE,), (*IDS, *PLACEMENTS[:1])),), read)
