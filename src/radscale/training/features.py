"""Features of a frozen encoder: normalised, on one grid, in half precision on disk.

Everything of a classifier's pyramid that has no parameters (LayerNorm over channels, resampling to the grid) is done once,
here; all epochs, seeds and tasks then read the result.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.models.encoder import Encoder
from radscale.models.feature_pyramid import normalise_to_grid
from radscale.training.reading import read_ahead
from radscale.training.training_state import SAVE_SECONDS
from radscale.training.weight_files import write_atomically

Progress = Callable[[int, int, str], None]
# Images of the training set from which mean and deviation of each channel are taken.
STATISTICS_IMAGES = 2048
# Numbers of features that one forward pass holds (134 MB in float32); larger batches are cut into pieces.
CHUNK_ELEMENTS = 1 << 25


class Images(Protocol):
    """Images by row: a dataset."""

    def read_images(self, rows: np.ndarray) -> list[np.ndarray]:
        """(H, W) uint8 each."""


class FeatureSource(Protocol):
    """Features of a list of images, by position in that list."""

    def read(self, positions: np.ndarray) -> Tensor:
        """(n,) positions -> (n, N, C) float32 on the encoder's device; N = grid * grid, C = channels of all maps."""


class ComputedFeatures:
    """Runs the encoder whenever features are read: slow, but nothing is stored.

    Args:
        rows: of `dataset`; positions count along them.
        encoder: in eval mode, on `device`.
        grid: side of the common grid in cells.
        batch_size: images in one pass of the encoder.
        num_workers: threads that read images ahead of it.
    """

    def __init__(
        self,
        dataset: Images,
        rows: np.ndarray,
        encoder: Encoder,
        *,
        grid: int,
        batch_size: int = 32,
        device: torch.device | None = None,
        num_workers: int = 0,
    ) -> None:
        self._dataset, self._rows, self._encoder, self._grid = dataset, rows, encoder, grid
        self._batch_size, self._num_workers = batch_size, num_workers
        self.device = device or torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, tokens, channels of all features."""
        return len(self._rows), self._grid**2, sum(self._encoder.feature_channels)

    def read(self, positions: np.ndarray) -> Tensor:
        return torch.cat(list(self.compute(positions)))

    def compute(self, positions: np.ndarray) -> Iterator[Tensor]:
        """(b, N, C) float32 batch by batch, in the order of `positions`.

        Raises:
            InputError: the encoder gives infinite or undefined numbers.
        """
        rows = self._rows[positions]
        batches = (rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size))
        for images in read_ahead(self._dataset.read_images, batches, self._num_workers, depth=2 * self._num_workers):
            # Not inference mode: autograd must be able to save these tensors for the classifier's backward pass.
            with torch.no_grad():
                maps = self._encoder.forward_features(self._encoder.preprocess(images).to(self.device))
                normed = normalise_to_grid([feature_map.float() for feature_map in maps], self._grid)
            if not bool(normed.isfinite().all()):
                raise InputError(
                    f"encoder ({self._encoder.origin}): its features are infinite or undefined numbers; "
                    "check its weights, or train it again with a lower learning rate"
                )
            yield normed.flatten(2).transpose(1, 2)


class CachedFeatures:
    """Reads the file that `cached_features` made."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self._array = np.load(path, mmap_mode="r")
        self._device = device

    def read(self, positions: np.ndarray) -> Tensor:
        return torch.from_numpy(self._array[positions]).to(self._device).float()


class Selection:
    """A part of another source's images, counted from 0."""

    def __init__(self, source: FeatureSource, positions: np.ndarray) -> None:
        self._source, self._positions = source, positions

    def read(self, positions: np.ndarray) -> Tensor:
        return self._source.read(self._positions[positions])


def in_chunks(positions: np.ndarray, elements_per_image: int) -> list[np.ndarray]:
    """Pieces of `positions` whose features, so many numbers per image, are held at once."""
    size = max(1, CHUNK_ELEMENTS // elements_per_image)
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def channel_statistics(features: FeatureSource, num_images: int, elements_per_image: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of each channel over evenly spaced training images and all their tokens.

    Args:
        features: of the training images.
        num_images: how many they are.
        elements_per_image: N * C.
    """
    positions = np.linspace(0, num_images - 1, min(num_images, STATISTICS_IMAGES)).round().astype(np.int64)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in in_chunks(positions, elements_per_image):
        tokens = features.read(chunk).flatten(0, 1)
        count += len(tokens)
        # Sums of chunks in double precision: the squares of many tokens would lose digits in single precision.
        total = total.to(tokens.device) + tokens.sum(0).double()
        squares = squares.to(tokens.device) + tokens.square().sum(0).double()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def cache_size_bytes(num_images: int, num_tokens: int, num_channels: int, dtype: str = "float16") -> int:
    """Size of a feature cache without its header (128 bytes)."""
    return num_images * num_tokens * num_channels * np.dtype(dtype).itemsize


def check_cache_fits(size_bytes: int, folder: Path, limit_bytes: float) -> None:
    """Refuse a cache above the limit, or above nine tenths of the free disk: other programs write too.

    Raises:
        InputError: with both numbers and the settings that make the cache smaller.
    """
    advice = "choose a smaller `grid`, `max_train`, or `cache_features: false`"
    if size_bytes > limit_bytes:
        raise InputError(
            f"feature cache: {size_bytes / 1e9:.1f} GB needed, `cache_limit_gb` allows {limit_bytes / 1e9:.1f}; {advice}"
        )
    free = shutil.disk_usage(folder).free
    if size_bytes > 0.9 * free:
        raise InputError(f"feature cache: {size_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on disk; {advice}")


def _write_count(path: Path, count: int) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(str(count))

    write_atomically(path, write)


def cached_features(
    path: Path,
    features: ComputedFeatures,
    *,
    dtype: str = "float16",
    limit_bytes: float = 50e9,
    progress: Callable[[int], None] | None = None,
) -> CachedFeatures:
    """All features from a file; what is not in it yet is computed first.

    Killed at any moment and called again it goes on a minute back at most, and ends with the same bytes. Whoever calls it
    sees to it that the file belongs to these images and to this encoder.

    Args:
        path: of the .npy file (images, tokens, channels); its folder exists.
        dtype: "float16" or "float32".
        progress: called with the number of images done.

    Raises:
        InputError: the cache would exceed `limit_bytes` or the free disk, or the encoder gives no numbers.
    """
    unfinished, count = path.with_suffix(".partial.npy"), path.with_suffix(".done")
    if not path.exists():
        done = int(count.read_text()) if unfinished.exists() and count.exists() else 0
        if not done:
            check_cache_fits(cache_size_bytes(*features.shape, dtype=dtype), path.parent, limit_bytes)
            count.unlink(missing_ok=True)  # of a file that is gone
        cache = np.lib.format.open_memmap(
            unfinished, mode="r+" if done else "w+", dtype=np.dtype(dtype), shape=None if done else features.shape
        )
        saved = time.monotonic()
        try:
            # A batch boundary: images meet in the batches in which they would have met without the interruption.
            for batch in features.compute(np.arange(done, features.shape[0])):
                cache[done : done + len(batch)] = batch.to(getattr(torch, dtype)).cpu().numpy()
                done += len(batch)
                if time.monotonic() - saved > SAVE_SECONDS:
                    cache.flush()
                    _write_count(count, done)
                    saved = time.monotonic()
                if progress:
                    progress(done)
        except InputError:
            unfinished.unlink()
            raise
        cache.flush()
        unfinished.rename(path)
        count.unlink(missing_ok=True)
    return CachedFeatures(path, features.device)
