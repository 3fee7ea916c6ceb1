"""What the processes of one training run say to each other. One process is the case of one: nothing is sent.

W = processes (ranks), b = rows of one rank. Rows of all ranks are ordered by rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[Any]) -> Sequence[Any]:
        """This rank's part of a batch, whose length is a multiple of the number of ranks: consecutive rows."""
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]

    def gather(self, rows: Tensor) -> Tensor:
        """(b, ...) -> (W * b, ...): rows of all ranks; their gradients, summed over ranks, flow back to where a row came from.

        Where every rank computes one and the same loss of all rows, that sum is W times its gradient, which averaging the
        gradients of weights over ranks (`training.trainer`) makes exact again.
        """
        return rows if self.world_size == 1 else _Gather.apply(rows, self)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, without gradient."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(rows) for _ in range(ranks.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(ctx.ranks.world_size)[ctx.ranks.rank], None
