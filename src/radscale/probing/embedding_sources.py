"""What can be embedded: files of a folder or a list, one file, a dataset, arrays. Each image has an id, in a fixed order."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from radscale.datasets import Dataset
from radscale.datasets.dicom import normalise_view_position, view_of
from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import files_below, is_image_name, read_grey_image
from radscale.datasets.tables import read_csv
from radscale.datasets.views import view_word
from radscale.errors import InputError

PATH_COLUMNS = ("path", "image_path", "image", "file", "filename")
TABLE_SUFFIXES = (".csv", ".tsv")
LIST_SUFFIXES = (".txt", ".lst")
SPLITS = ("train", "validation", "test")


class ImageSource(Protocol):
    """Images by position."""

    ids: Sequence[str]

    def read(self, position: int) -> tuple[np.ndarray, str]:
        """(H, W) uint8, and the word for its view (see `view_word`).

        Raises:
            Excluded: it cannot be used.
        """

    def identity(self) -> str:
        """Hash of which images these are, and in which order."""


class FileSource:
    """Image files below a folder.

    Args:
        folder: that relative ids start from.
        ids: paths of the files.
        views: for each, the word for its view, where it is known; None: what the files say.
    """

    def __init__(self, folder: Path, ids: Sequence[str], views: Sequence[str] | None = None) -> None:
        self.ids, self._folder, self._views = ids, folder, views

    def read(self, position: int) -> tuple[np.ndarray, str]:
        image = read_grey_image(self._folder / self.ids[position])
        known = self._views[position] if self._views is not None else ""
        return image.pixels, known or view_word(image.view_position, "")

    def identity(self) -> str:
        return _hash(self.ids)


class DatasetSource:
    """Images of a dataset, in the order of its manifest; ids are sample ids.

    Args:
        dataset: opened.
        split: "train", "validation" or "test"; None: all of them.
    """

    def __init__(self, dataset: Dataset, split: str | None = None) -> None:
        if split is not None and split not in SPLITS:
            raise InputError(f"--split {split}: choose among {', '.join(SPLITS)}")
        self._dataset, self._rows = dataset, dataset.select(split=split)
        part = dataset.columns("sample_id", "view_position", "view", "sha256", rows=self._rows)
        self.ids: Sequence[str] = part["sample_id"].to_pylist()
        views = zip(part["view_position"].to_pylist(), part["view"].to_pylist(), strict=True)
        self._views = [view_word(position or "", view or "") for position, view in views]
        self._hashes: Sequence[str] = part["sha256"].to_pylist()

    def read(self, position: int) -> tuple[np.ndarray, str]:
        try:
            pixels = self._dataset.read_image(int(self._rows[position]))
        except InputError as error:  # a damaged shard costs its images, not the run
            raise Excluded("unreadable", str(error)) from None
        return pixels, self._views[position]

    def identity(self) -> str:
        return _hash(self._hashes)


class ArraySource:
    """What a Python caller has at hand: (H, W) arrays, taken as they are, and paths of image files."""

    def __init__(self, images: Sequence[np.ndarray | str | Path]) -> None:
        self.ids: Sequence[str] = [str(item) if isinstance(item, str | Path) else f"image {i}" for i, item in enumerate(images)]
        self._images = images

    def read(self, position: int) -> tuple[np.ndarray, str]:
        item = self._images[position]
        if isinstance(item, str | Path):
            image = read_grey_image(Path(item))
            return image.pixels, view_word(image.view_position, "")
        return item, ""

    def identity(self) -> str:
        return _hash(self.ids)


def open_source(images: Path, split: str | None = None) -> ImageSource:
    """The images of a folder (recursive, sorted), a dataset folder, a list of paths (text or CSV) or one image file.

    A list's paths are relative to its folder. A CSV has a column `path`, `image_path`, `image`, `file` or `filename`, and may
    have `view`.

    Raises:
        InputError: nothing there, no images in it, or a split of what is no dataset.
    """
    if not images.exists():
        raise InputError(f"{images}: no such file or folder; give a folder, a dataset, a list of paths or an image")
    source: ImageSource
    if (images / "dataset.json").is_file():
        dataset = Dataset(images)
        dataset.check_reviewed()
        source = DatasetSource(dataset, split)
        if not source.ids:
            raise InputError(f"{images}: no images in split '{split}'; leave --split out or choose another")
        return source
    if split is not None:
        raise InputError(f"--split {split}: {images} is not a dataset; leave it out, or make a dataset with `radscale ingest`")
    suffix = images.suffix.lower()
    if images.is_dir():
        source = FileSource(images, sorted(name for name in files_below(images) if is_image_name(Path(name).name)))
    elif suffix in TABLE_SUFFIXES:
        source = _from_table(images)
    elif suffix in LIST_SUFFIXES:
        source = FileSource(images.parent, _lines(images))
    else:
        source = FileSource(images.parent, [images.name])
    if not source.ids:
        raise InputError(f"{images}: no images in it; PNG, JPEG, TIFF and DICOM files are read")
    return source


def _from_table(path: Path) -> FileSource:
    table = read_csv(path)
    column = next((name for name in PATH_COLUMNS if name in table.columns), None)
    if column is None:
        raise InputError(f"{path}: no column {', '.join(PATH_COLUMNS)}; found {', '.join(table.columns)}")
    positions = [normalise_view_position(row.get("view", "")) for row in table.rows]
    views = [view_word(position, view_of(position)) for position in positions]
    return FileSource(path.parent, [row[column] for row in table.rows], views)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the list of paths as UTF-8") from None


def _hash(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
