"""Which rows a training step sees: a pure function of seed and step, so a resumed run needs nothing but its step."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


class ShuffledEpochs:
    """Endless epochs, each a new permutation; a batch may span two epochs, and every row is seen equally often.

    Batches are those of the whole run; a rank takes its `Ranks.share`, so any number of ranks sees the same rows in a step.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def _make_permutation(self, epoch: int) -> np.ndarray:
        """Of 32-bit numbers: 16 MB for 4 million rows, and two epochs are held where they meet."""
        order = np.arange(self.num_rows, dtype=np.int32)
        np.random.default_rng([self.seed, epoch]).shuffle(order)
        return order

    def batch(self, step: int) -> np.ndarray:
        """(batch_size,) int64 row numbers of a zero-based step."""
        position = step * self.batch_size
        rows: list[np.ndarray] = []
        missing = self.batch_size
        while missing:
            epoch, offset = divmod(position, self.num_rows)
            part = self._permutation(epoch)[offset : offset + missing]
            rows.append(part)
            position += len(part)
            missing -= len(part)
        return np.concatenate(rows).astype(np.int64)


class EqualBatches:
    """Some epochs over all rows, for heads on frozen features: batches of equal size up to one row, at most `batch_size`, and
    small enough for `min_steps` steps in all (if there are rows enough). The order depends on the epoch alone."""

    def __init__(self, num_rows: int, *, batch_size: int, num_epochs: int, min_steps: int) -> None:
        self.num_rows, self.num_epochs = num_rows, num_epochs
        self.batches_per_epoch = min(num_rows, max(-(-num_rows // batch_size), -(-min_steps // num_epochs)))

    def __len__(self) -> int:
        return self.num_epochs * self.batches_per_epoch

    def __iter__(self) -> Iterator[np.ndarray]:
        for epoch in range(self.num_epochs):
            yield from np.array_split(np.random.default_rng(epoch).permutation(self.num_rows), self.batches_per_epoch)
