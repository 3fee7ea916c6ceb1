"""Any image file to 8-bit grey pixels, by the rules of a dataset (docs/data_format.md, section 1)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radscale.datasets.dicom import read_dicom
from radscale.datasets.exclusions import Excluded
from radscale.datasets.images import read_image_file
from radscale.datasets.resize import normalise_to_8bit, resize_shorter_side

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", "")
MIN_SIZE_PX = 8
"""The least side that an encoder's preprocessing takes."""
MAX_SIDE_RATIO = 5


@dataclass(frozen=True)
class GreyImage:
    """One readable image."""

    pixels: np.ndarray
    """(H, W) uint8; larger is brighter, the whole range of the image is 0..255, pixels are square."""
    view_position: str = ""
    """`AP`, `PA`, `LATERAL` or empty: what a DICOM header says; other files say nothing."""


def read_grey_image(path: Path) -> GreyImage:
    """Read PNG, JPEG and TIFF (8 or 16 bit; colours by their luminance, transparency ignored) or DICOM.

    Raises:
        Excluded: with a reason and one line without identifying values, if the file holds no usable image.
    """
    if _is_dicom_name(path.name):
        image = read_dicom(path)
        pixels = prepare_pixels(image.pixels, image.valid, pixel_aspect=image.pixel_aspect)
        return GreyImage(pixels, image.view_position)
    return GreyImage(prepare_pixels(read_image_file(path)))


def is_image_name(name: str) -> bool:
    """Named like a picture or like DICOM, which many archives name by UID, without a suffix; hidden files are neither."""
    return not name.startswith(".") and (Path(name).suffix.lower() in PICTURE_SUFFIXES or _is_dicom_name(name))


def _is_dicom_name(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdigit()


def prepare_pixels(
    pixels: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    size_px: int | None = None,
    min_size_px: int = MIN_SIZE_PX,
    pixel_aspect: float = 1.0,
) -> np.ndarray:
    """Resize first, then scale to 8 bit, as RAD-DINO's data were made; padding takes the lowest value of the image.

    Args:
        pixels: (H, W) of any number type.
        valid: (H, W) bool, false at padding; None if all pixels count.
        size_px: new length of the shorter side; None keeps the size (and only makes pixels square).
        min_size_px: images with a shorter side below this are excluded.
        pixel_aspect: height of a pixel over its width.

    Returns:
        (H', W') uint8.

    Raises:
        Excluded: too small, too long for its width, or of one value.
    """
    height, width = pixels.shape
    tall = height * pixel_aspect
    if min(height, width) < min_size_px:
        raise Excluded("too_small", f"{width} x {height} px, the least is {min_size_px}")
    if max(tall, width) > MAX_SIDE_RATIO * min(tall, width):
        raise Excluded("unsupported", f"{width} x {height} px: one side is more than {MAX_SIDE_RATIO} times the other")
    pixels = fill_padding(pixels, valid)
    # Before the resize: its rounding would make a flat image look like a very noisy one.
    if pixels.min() == pixels.max():
        raise Excluded("constant_image", "all pixels have one value")
    if size_px is None and pixel_aspect != 1:
        size_px = round(min(tall, width))
    if size_px is not None:
        pixels = resize_shorter_side(pixels, size_px, pixel_aspect=pixel_aspect)
    image = normalise_to_8bit(pixels)
    if image is None:
        raise Excluded("constant_image", "all pixels have one value")
    return image


def fill_padding(pixels: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """(H, W) with the lowest value of the image where there is none."""
    return pixels if valid is None else np.where(valid, pixels, pixels[valid].min())


def files_below(folder: Path) -> list[str]:
    """All of `walk_files`."""
    return list(walk_files(folder))


def walk_files(folder: Path) -> Iterator[str]:
    """Relative paths of all that is not a folder, in a fixed order. Links to folders are followed, each folder is entered once.

    A folder that cannot be listed is itself named, so that it becomes an exclusion and not a silence.
    """
    closed: list[str] = []
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=lambda error: closed.append(str(error.filename))):
        folders.sort()
        if os.path.realpath(place) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in sorted(files))
    yield from (Path(path).relative_to(folder).as_posix() for path in closed)
