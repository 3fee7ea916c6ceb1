"""Tests beside the bootstrap: Holm's correction, DeLong, exchange of scores between models, Wilcoxon over tasks."""

import math
from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction over tasks."""
    corrected, running = {}, 0.0
    for index, (task, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - index) * p_value))
        corrected[task] = running
    return corrected


def replicates_for_holm(num_tasks: int, alpha: float = 0.05) -> int:
    """Fewest replicates with which the smallest p-value, 2 / (B + 1), survives Holm's correction at `alpha`."""
    return math.ceil(round(2 * num_tasks / alpha, 6)) - 1
