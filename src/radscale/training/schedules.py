"""Schedules as arrays with one value per step."""

import numpy as np

from radscale.errors import InputError


def cosine_schedule(
    base: float, final: float, total_steps: int, warmup_steps: int = 0, start_warmup: float = 0.0
) -> np.ndarray:
    """Linear warm-up, then half a cosine from `base` to `final`: DINOv2's CosineScheduler.

    The warm-up includes its end point and the cosine starts at the peak, so the peak stands twice, as in the reference.

    Returns:
        (total_steps,) float64.
    """
    if not 0 <= warmup_steps <= total_steps:
        raise InputError(f"warm-up of {warmup_steps} steps in a run of {total_steps}; it must be shorter than the run")
    warmup = np.linspace(start_warmup, base, warmup_steps)
    steps = np.arange(total_steps - warmup_steps)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    return np.concatenate([warmup, cosine])


def linear_warmup_then_constant(start: float, final: float, total_steps: int, warmup_steps: int) -> np.ndarray:
    """(total_steps,) float64: from `start` to `final` over the warm-up, then constant (DINOv2's teacher temperature)."""
    warmup = np.linspace(start, final, min(warmup_steps, total_steps))
    return np.concatenate([warmup, np.full(total_steps - len(warmup), final)])
