"""Features of a frozen encoder: normalised, on one grid, in half precision on disk.

Everything of the probe that has no parameters (LayerNorm over channels, resampling to the grid) is done once, here; 25
epochs and every seed and task then read the result.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models.encoder import Encoder
from radscale.models.feature_pyramid import normalise_to_grid

Progress = Callable[[int, int, str], None]


class FeatureSource(Protocol):
    """Features of a list of images, by position in that list."""

    def read(self, positions: np.ndarray) -> Tensor:
        """(n,) positions -> (n, N, C) float32 on the probe's device; N = grid * grid, C = channels of all maps."""


@torch.inference_mode()
def image_features(encoder: Encoder, images: list[np.ndarray], grid: int, device: torch.device) -> Tensor:
    """(H, W) uint8 images -> (B, grid * grid, C) float32."""
    maps = encoder.forward_features(encoder.preprocess(images).to(device))
    return normalise_to_grid([item.float() for item in maps], grid).flatten(2).transpose(1, 2)


class ComputedFeatures:
    """Runs the encoder again each time: slow, but nothing is stored."""

    def __init__(
        self, dataset: Dataset, rows: np.ndarray, encoder: Encoder, grid: int, batch_size: int, device: torch.device
    ) -> None:
        self._dataset, self._rows, self._encoder = dataset, rows, encoder
        self._grid, self._batch_size, self._device = grid, batch_size, device

    def read(self, positions: np.ndarray) -> Tensor:
        parts = []
        for start in range(0, len(positions), self._batch_size):
            images = self._dataset.read_images(self._rows[positions[start : start + self._batch_size]])
            # A copy, because autograd must be able to save what was made in inference mode.
            parts.append(image_features(self._encoder, images, self._grid, self._device).clone())
        return torch.cat(parts)


class CachedFeatures:
    """Reads a cache that `write_feature_cache` made."""

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


def write_feature_cache(
    path: Path,
    dataset: Dataset,
    rows: np.ndarray,
    encoder: Encoder,
    *,
    grid: int,
    batch_size: int,
    dtype: str = "float16",
    limit_bytes: float = 50e9,
    device: torch.device | None = None,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write the features of `rows` as one .npy array (len(rows), grid * grid, C).

    Args:
        path: of the .npy file; its folder exists.
        rows: manifest rows of `dataset`.
        encoder: in eval mode, on `device`.
        num_workers: threads that read images ahead.

    Raises:
        InputError: the cache would exceed `limit_bytes` or the free disk.
    """
    device = device or torch.device("cpu")
    shape = (len(rows), grid * grid, sum(encoder.feature_channels))
    check_cache_fits(cache_size_bytes(*shape, dtype=dtype), path.parent, limit_bytes)
    cache = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    done = 0
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for images in _read_ahead(dataset, batches, num_workers):
        features = image_features(encoder, images, grid, device)
        cache[done : done + len(images)] = features.to(getattr(torch, dtype)).cpu().numpy()
        done += len(images)
        if progress:
            progress(done, len(rows), "features")
    cache.flush()


def _read_ahead(dataset: Dataset, batches: list[np.ndarray], num_workers: int) -> Iterator[list[np.ndarray]]:
    """Images of each batch in order, up to `2 * num_workers` batches ahead of the caller."""
    if num_workers == 0:
        yield from (dataset.read_images(batch) for batch in batches)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque[Future[list[np.ndarray]]] = deque()
        for batch in batches:
            waiting.append(pool.submit(dataset.read_images, batch))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
