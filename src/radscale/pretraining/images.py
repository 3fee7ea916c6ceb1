"""The images of a subset, ready for batched augmentation."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from radscale.datasets import Dataset


class SubsetImages:
    """Decoded grey images by their position in the subset, kept in memory while they fit, else decoded when needed."""

    def __init__(self, dataset: Dataset, rows: Sequence[int], max_memory_gb: float) -> None:
        self.dataset, self.rows = dataset, list(rows)
        self._heights, self._widths = (
            torch.from_numpy(np.asarray(dataset.manifest[name], dtype=np.int64)[self.rows])
            for name in ("height_px", "width_px")
        )
        fits = float((self._widths * self._heights).sum()) <= max_memory_gb * 1e9
        self._pool = ThreadPoolExecutor(max_workers=4)
        self._kept = list(self._pool.map(dataset.read_image, self.rows)) if fits else None

    def __len__(self) -> int:
        return len(self.rows)

    def sizes(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Heights and widths (B,) in pixels, from the manifest: nothing is decoded."""
        return self._heights[indices], self._widths[indices]

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W) float32 in [0, 1] with images at the top left, and their heights and widths (B,)."""
        if self._kept is not None:
            images = [self._kept[index] for index in indices]
        else:
            images = list(self._pool.map(self.dataset.read_image, [self.rows[index] for index in indices]))
        heights = torch.tensor([image.shape[0] for image in images])
        widths = torch.tensor([image.shape[1] for image in images])
        canvas = np.zeros((len(images), int(heights.max()), int(widths.max())), np.uint8)
        for slot, image in zip(canvas, images, strict=True):
            slot[: image.shape[0], : image.shape[1]] = image
        return torch.from_numpy(canvas).float().div_(255), heights, widths
