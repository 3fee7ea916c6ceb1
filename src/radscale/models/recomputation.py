"""Activation checkpointing that draws the same stochastic depth when a part is computed again."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from radscale.models.stochastic_depth import replica


def recompute(
    function: Callable[[Tensor, torch.Generator | None], Tensor], x: Tensor, generator: torch.Generator | None
) -> Tensor:
    """`function(x, generator)`, whose inner activations are computed again in the backward pass.

    torch repeats the global random state by itself; a generator is set back here, and the one given is drawn from once only.
    """
    if generator is None:
        return _call(lambda x: function(x, None), x)
    state = generator.get_state()
    calls = 0

    def run(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return function(x, generator)
        return function(x, replica(generator, state))

    return _call(run, x)


def _call(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    result: Tensor = checkpoint(function, x, use_reentrant=False)
    return result
