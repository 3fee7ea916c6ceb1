"""Which images of a batch keep a residual branch in training, also where only a part of the batch is at hand."""

import torch
from torch import Tensor


class BatchPart(torch.Generator):
    """A generator for some rows of a batch: each row gets what it would draw in the whole batch.

    Whatever is drawn here is drawn for the whole batch and cut, so that neither micro-batches nor ranks change a run.
    """

    rows: Tensor
    total: int

    @classmethod
    def of(cls, generator: torch.Generator, rows: Tensor, total: int) -> "BatchPart":
        """Places `rows` in a batch of `total`, drawn from where `generator` stands; that one is not advanced."""
        part = cls(generator.device)
        part.set_state(generator.get_state())
        part.rows, part.total = rows, total
        return part


def replica(generator: torch.Generator, state: Tensor) -> torch.Generator:
    """One that draws what `generator` drew from `state` on."""
    if isinstance(generator, BatchPart):
        source = torch.Generator(generator.device)
        source.set_state(state)
        return BatchPart.of(source, generator.rows, generator.total)
    copy = torch.Generator(generator.device)
    copy.set_state(state)
    return copy


def draw_uniform(count: int, generator: torch.Generator | None) -> Tensor:
    """(count,) numbers in [0, 1), one for each row at hand."""
    if isinstance(generator, BatchPart):
        return torch.rand(generator.total, generator=generator)[generator.rows]
    return torch.rand(count, generator=generator)


def draw_subset(count: int, kept_share: float, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """Random rows, a fixed share of the batch (at least one), and rows of the batch by rows kept.

    Returns:
        Positions among the `count` rows at hand (of a part of a batch maybe none), and the weight of a kept row.
    """
    total = generator.total if isinstance(generator, BatchPart) else count
    num_kept = max(1, int(total * kept_share))
    chosen = torch.randperm(total, generator=generator)[:num_kept]
    if isinstance(generator, BatchPart):
        place = torch.full((total,), -1)
        place[generator.rows] = torch.arange(count)
        chosen = place[chosen]
        chosen = chosen[chosen >= 0]
    return chosen, total / num_kept
