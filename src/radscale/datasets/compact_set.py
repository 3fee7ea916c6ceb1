"""A set of hashes for millions of them: 32 bytes each where Python's own needs 150."""

from array import array
from collections.abc import Iterable

WORD = 16
"""Hexadecimal digits of 64 bits."""


class CompactSet:
    """Set of hexadecimal hashes, known by their first 128 bits (or all they have): two of 10^8 agree with chance 10^-23."""

    def __init__(self, hashes: Iterable[str] = ()) -> None:
        self._clear(1 << 12)
        self.update(hashes)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, value: str) -> bool:
        return bool(self._high[slot := self._slot(*_words(value))] or self._low[slot])

    def add(self, value: str) -> None:
        high, low = _words(value)
        slot = self._slot(high, low)
        if self._high[slot] or self._low[slot]:
            return
        self._high[slot], self._low[slot] = high, low
        self._count += 1
        if 2 * self._count > len(self._high):
            self._grow()

    def update(self, values: Iterable[str]) -> None:
        for value in values:
            self.add(value)

    def _slot(self, high: int, low: int) -> int:
        """Where it is, or would be."""
        slot = high & self._mask
        while (self._high[slot] or self._low[slot]) and (self._high[slot] != high or self._low[slot] != low):
            slot = (slot + 1) & self._mask
        return slot

    def _clear(self, size: int) -> None:
        self._high, self._low = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))
        self._mask, self._count = size - 1, 0

    def _grow(self) -> None:
        high, low = self._high, self._low
        self._clear(2 * len(high))
        for words in zip(high, low, strict=True):
            if any(words):
                slot = self._slot(*words)
                self._high[slot], self._low[slot] = words
                self._count += 1


def _words(value: str) -> tuple[int, int]:
    return int(value[:WORD], 16), int(value[WORD : 2 * WORD] or "0", 16)
