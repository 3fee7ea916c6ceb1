"""SIIM-ACR Pneumothorax (2019): `train-rle.csv` (or `stage_2_train.csv`), DICOM below `dicom-images-train/`.

A mask is a list of runs in a 1024 x 1024 image read column by column, each start relative to the end of the run before; -1 is
no pneumothorax. An image with several rows has several masks. Patient, sex, age and view are in the DICOM headers.
"""

import numpy as np

from radscale.datasets.public.layout import Layout, Mark, PublicFolder, PublicImage, PublicOptions
from radscale.errors import InputError

TABLES = ("train-rle.csv", "stage_2_train.csv")
NONE = "-1"
SIDE = 1024
TASK = "pneumothorax"


def decode_runs(text: str, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool from "start length start length ...", starts relative, column by column.

    Raises:
        InputError: not pairs of whole numbers of 0 or more, or runs that end outside the image.
    """
    try:
        pairs = np.array(text.split(), dtype=np.int64).reshape(-1, 2)
    except ValueError:
        pairs = np.full((1, 2), -1)
    if (pairs < 0).any():
        raise InputError("EncodedPixels: not pairs of start and length; restore the published table")
    ends = np.cumsum(pairs.sum(axis=1))
    mask = np.zeros(shape[0] * shape[1], dtype=bool)
    if len(ends) and ends[-1] > mask.size:
        raise InputError(f"EncodedPixels: a run ends outside the image of {shape[1]} x {shape[0]} px; restore the table")
    for end, length in zip(ends.tolist(), pairs[:, 1].tolist(), strict=True):
        mask[end - length : end] = True
    return mask.reshape(shape[1], shape[0]).T


def read(folder: PublicFolder, options: PublicOptions) -> list[PublicImage]:
    name = next((name for name in TABLES if folder.find(name) is not None), TABLES[0])
    table = folder.table(name, ())
    columns = {column.strip(): column for column in table.columns}  # the competition wrote " EncodedPixels"
    if not {"ImageId", "EncodedPixels"} <= set(columns):
        raise InputError(f"{name}: no columns ImageId and EncodedPixels; found {', '.join(table.columns[:12])}")
    runs: dict[str, list[str]] = {}
    for row in table.rows:
        text = row[columns["EncodedPixels"]].strip()
        decode_runs("" if text == NONE else text, (SIDE, SIDE))
        runs.setdefault(row[columns["ImageId"]].strip(), []).append(text)
    images = []
    for image, texts in runs.items():
        texts = [text for text in texts if text != NONE]
        path = folder.image(image, f"dicom-images-train/{image}.dcm")
        is_dicom = path.endswith(".dcm")
        images.append(
            PublicImage(
                # A picture says nothing about its patient, so each is one of its own.
                row={"image": path, "patient": "" if is_dicom else image},
                labels={"radiologists": {TASK: "positive" if texts else "negative"}},
                masks={TASK: _Runs(tuple(texts))},
            )
        )
    return images


class _Runs:
    """Draws all runs of an image, in the frame that they count in, whatever size its picture was exported with."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts

    def __call__(self, shape: tuple[int, int]) -> np.ndarray:
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        for text in self.texts:
            mask |= decode_runs(text, (SIDE, SIDE))
        return mask


LAYOUT = Layout("siim", "SIIM-ACR Pneumothorax", (Mark(TABLES, ("ImageId", "EncodedPixels")),), read)
