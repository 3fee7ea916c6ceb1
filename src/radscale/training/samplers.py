"""Which rows a training step sees: a pure function of seed and step, so a resumed run needs nothing but its step."""

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
