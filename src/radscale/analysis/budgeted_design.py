"""Which subset sizes, and how often, for a given budget: the scaling curve that says most about more data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radscale.errors import InputError

MIN_SIZES = 4
"""Fewer sizes show neither a bend nor a lucky run."""
MAX_REPLICATES = 5


@dataclass(frozen=True)
class ProposedDesign:
    """Encoders to train for one arm (or one of each arm), by subset size."""

    replicates: dict[int, int]
    """Subset size -> runs, sizes rising."""
    cost: float
    """Of all runs, in the unit of the budget."""
    prediction_sd: float
    """Standard deviation of the curve at the target, if one encoder at any size has 1."""


def propose_design(
    candidates: Sequence[int], cost: Callable[[int], float] | Mapping[int, float], budget: float, target: float
) -> ProposedDesign:
    """The sizes and replicates whose power law is known best at `target`, at no more than the budget.

    The model is that of the fit: log score is linear in log size, with the same spread of encoders at every size, so that the
    variance of the prediction follows from the sizes alone (c-optimal design under a cost, e.g. Atkinson, Donev and Tobias,
    Optimum Experimental Designs, 2007). Every run of neighbouring candidates is tried, at least four sizes with one encoder
    each; what is left goes, encoder by encoder, to where it lowers the variance most per cost, at most five times to a size.

    Args:
        candidates: sizes to choose from.
        cost: of one run at a size.
        budget: in the same unit.
        target: size at which the score is wanted, e.g. all images that there are.

    Raises:
        InputError: fewer than four candidates, or a budget below the cheapest four.
    """
    sizes = sorted({int(size) for size in candidates})
    price = {size: float(cost(size) if callable(cost) else cost[size]) for size in sizes}
    if len(sizes) < MIN_SIZES:
        raise InputError(f"{len(sizes)} candidate sizes; a scaling curve needs at least {MIN_SIZES}, so give more")
    proposals = []
    for start in range(len(sizes)):
        for stop in range(start + MIN_SIZES, len(sizes) + 1):
            chosen = dict.fromkeys(sizes[start:stop], 1)
            if _total(chosen, price) <= budget:
                proposals.append(_fill(chosen, price, budget, target))
    if not proposals:
        cheapest = min(_total(dict.fromkeys(sizes[i : i + MIN_SIZES], 1), price) for i in range(len(sizes) - MIN_SIZES + 1))
        raise InputError(
            f"a budget of {budget:,.4g} is too small: {MIN_SIZES} sizes with one encoder each need at least {cheapest:,.4g}; "
            "raise it, or start with smaller subsets"
        )
    best = min(proposals, key=lambda design: (prediction_variance(design, target), _total(design, price)))
    return ProposedDesign(best, _total(best, price), math.sqrt(prediction_variance(best, target)))


def _fill(design: dict[int, int], price: Mapping[int, float], budget: float, target: float) -> dict[int, int]:
    left = budget - _total(design, price)
    while True:
        before = prediction_variance(design, target)
        gains = {
            size: (before - prediction_variance({**design, size: count + 1}, target)) / price[size]
            for size, count in design.items()
            if count < MAX_REPLICATES and price[size] <= left
        }
        if not gains:
            return design
        size = max(gains, key=lambda size: (gains[size], -size))
        design = {**design, size: design[size] + 1}
        left -= price[size]


def _total(design: Mapping[int, int], price: Mapping[int, float]) -> float:
    return sum(price[size] * count for size, count in design.items())


def prediction_variance(replicates: Mapping[int, int], target: float) -> float:
    """Variance of a line through (log size, log score) at log `target`, for encoders of variance 1."""
    x, weights = np.log([*replicates]), np.array([*replicates.values()], float)
    centre = np.average(x, weights=weights)
    spread = (weights * (x - centre) ** 2).sum()
    return float(1 / weights.sum() + (math.log(target) - centre) ** 2 / spread)
