"""The images of a subset, decoded ahead of the steps that need them.

b = images of this rank in a step, H, W = sides of its canvas in pixels: those of the largest image of the step.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from radscale.datasets import Dataset
from radscale.errors import InputError

IMAGES_PER_TASK = 8
"""Few enough that a step's images are shared among the workers, enough that handing them out costs nothing."""


class SubsetImages:
    """Images by their position in the subset.

    `follow` says which positions each step needs; workers then read and decode the next steps while this one is computed, so
    that `batch_of` seldom waits. They are threads: decoding, hashing and reading leave the interpreter free. What a step gets
    depends on its positions alone, never on workers, memory or order.

    Args:
        dataset: opened.
        rows: (n,) manifest rows of the subset.
        max_memory_gb: decoded images are kept up to this much as they are met, so that a subset that fits is decoded once.
        read_ahead_gb: decoded images that may wait for their step; the next step is always read, whatever its size.
        num_workers: threads; None takes the cores of this process, shared with the other ranks of the machine. On a slow
            network disk more than that pay.

    Raises:
        InputError: the manifest was changed, or shards are missing or cut.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        max_memory_gb: float,
        *,
        read_ahead_gb: float = 0.5,
        num_workers: int | None = None,
    ) -> None:
        self.dataset, self.rows = dataset, np.asarray(rows)
        dataset.check_unchanged(self.rows)
        heights, widths = dataset.sizes_px()
        self._heights, self._widths = heights[self.rows], widths[self.rows]
        self._room, self._kept = max_memory_gb * 1e9, dict[int, np.ndarray]()
        self._lock = threading.Lock()
        self._read_ahead_bytes = read_ahead_gb * 1e9
        self._pool = ThreadPoolExecutor(num_workers or default_num_workers(), thread_name_prefix="images")
        self._ahead: deque[_Batch] = deque()
        self._rows_of_step: Callable[[int], np.ndarray] | None = None
        self._next_step = self._last_step = 0
        self._started, self.waiting_seconds = 0.0, 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def __enter__(self) -> "SubsetImages":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; what was read ahead is dropped."""
        self._forget()
        self._pool.shutdown(cancel_futures=True)

    def sizes(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Heights and widths in pixels, (n,) int64 each, from the manifest: nothing is decoded."""
        heights, widths = self._heights[positions], self._widths[positions]
        return torch.from_numpy(heights.astype(np.int64)), torch.from_numpy(widths.astype(np.int64))

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """Pseudonyms, for messages about these images."""
        return self.dataset.sample_ids(self.rows[positions])

    def follow(self, rows_of_step: Callable[[int], np.ndarray], first_step: int, last_step: int) -> None:
        """Begin to read for the steps from `first_step` to below `last_step`.

        Args:
            rows_of_step: zero-based step -> (b,) positions in the subset that this rank needs, always the same ones.
            first_step: where the run begins or goes on.
            last_step: where it ends.
        """
        self._forget()
        self._rows_of_step, self._next_step, self._last_step = rows_of_step, first_step, last_step
        self._read_ahead()

    def batch_of(self, step: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The images of a step on the device: (b, H, W) float32 in [0, 1], each at the top left, and heights and widths (b,).

        Steps are read ahead in their order; one out of order is read on the spot, and reading goes on behind it.

        Raises:
            InputError: an image is missing from its shard, or is not the one that the manifest describes.
        """
        if self._rows_of_step is None:
            raise InputError("no steps to follow; call follow before batch_of")
        if not self._ahead or self._ahead[0].step != step:
            self.follow(self._rows_of_step, step, max(self._last_step, step + 1))
        batch = self._ahead.popleft()
        self._read_ahead()
        return self._finish(batch, device)

    def batch(self, positions: np.ndarray, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As `batch_of`, for any images, now."""
        return self._finish(self._begin(-1, positions), device)

    @property
    def waiting_share(self) -> float:
        """Share of the wall time since the first batch in which steps waited for images.

        On a GPU an upper bound of what it cost: the device may still have had work.
        """
        return self.waiting_seconds / max(time.monotonic() - self._started, 1e-9)

    def _read_ahead(self) -> None:
        assert self._rows_of_step is not None
        while self._next_step < self._last_step:
            waiting = sum(batch.canvas.nbytes for batch in self._ahead)
            if self._ahead and waiting >= self._read_ahead_bytes:
                return
            self._ahead.append(self._begin(self._next_step, self._rows_of_step(self._next_step)))
            self._next_step += 1

    def _forget(self) -> None:
        """Drop what was read ahead; a new count of waiting begins."""
        for batch in self._ahead:
            batch.wanted = False
        self._ahead.clear()
        self._started, self.waiting_seconds = 0.0, 0.0

    def _begin(self, step: int, positions: np.ndarray) -> "_Batch":
        """Hand out the work of a batch; workers write into its canvas."""
        heights, widths = self.sizes(positions)
        shape = (len(positions), int(heights.max()), int(widths.max()))
        batch = _Batch(step, _canvas(shape), heights, widths)
        order = self.dataset.reading_order(self.rows[positions])
        for slots in np.split(order, range(IMAGES_PER_TASK, len(order), IMAGES_PER_TASK)):
            items = list(zip(slots.tolist(), positions[slots].tolist(), strict=True))
            batch.parts.append(self._pool.submit(self._fill, batch, items))
        return batch

    def _fill(self, batch: "_Batch", items: list[tuple[int, int]]) -> None:
        if not batch.wanted:
            return
        self.dataset.will_read([int(self.rows[position]) for _, position in items if position not in self._kept])
        canvas = batch.canvas.numpy()
        for slot, position in items:
            if not batch.wanted:
                return
            image = self._image(position)
            height, width = image.shape
            if canvas.dtype == np.uint8:
                canvas[slot, :height, :width] = image
            else:
                np.divide(image, np.float32(255), out=canvas[slot, :height, :width])
            canvas[slot, :height, width:] = 0
            canvas[slot, height:] = 0

    def _image(self, position: int) -> np.ndarray:
        image = self._kept.get(position)
        if image is not None:
            return image
        image = self.dataset.read_image(int(self.rows[position]))
        expected = (int(self._heights[position]), int(self._widths[position]))
        if image.shape != expected:
            name = self.sample_ids(np.array([position]))[0]
            raise InputError(f"image {name}: is {image.shape} px, the manifest says {expected}; ingest again")
        with self._lock:
            if image.nbytes <= self._room and position not in self._kept:
                self._kept[position] = image
                self._room -= image.nbytes
        return image

    def _finish(self, batch: "_Batch", device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
        begun = time.monotonic()
        for part in batch.parts:
            part.result()
        now = time.monotonic()
        if self._started:
            self.waiting_seconds += now - begun
        else:
            self._started = now  # waiting for the first images is starting up
        pixels = batch.canvas.to(device, non_blocking=True)
        return pixels if pixels.is_floating_point() else pixels.float().div_(255), batch.heights, batch.widths


def _canvas(shape: tuple[int, int, int]) -> Tensor:
    """Not yet written to. For a GPU bytes in pinned memory: a quarter of the way to it.

    Else floats at once, in numpy's memory, which asks the system for huge pages: torch's does not, and then more time goes into
    page faults than into pixels.
    """
    if torch.cuda.is_available():
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    return torch.from_numpy(np.empty(shape, np.float32))


@dataclass
class _Batch:
    """Images in work."""

    step: int
    canvas: Tensor
    heights: Tensor
    widths: Tensor
    parts: list[Future[None]] = field(default_factory=list)
    wanted: bool = True


def default_num_workers() -> int:
    """Cores that this process may use, shared with the other ranks of its machine as torchrun and Slurm name them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(16, cores // ranks))
