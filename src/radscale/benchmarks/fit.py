"""One scaling-law fit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options

Points = tuple[np.ndarray, np.ndarray]


def cases(options: Options) -> list[Case]:
    """The paper's design (11 encoders) and a curve of 30 sizes."""
    rng = np.random.default_rng(options.seed)
    designs = {
        "the paper's 11 encoders": np.array([3e4, 5e4, 1e5] * 3 + [1e6, 3.5e6]),
        "30 sizes": np.geomspace(100, 1e6, 30),
    }
    return [
        Case(
            title=f"scaling-law fit, {title}",
            unit="fit",
            workload=partial(_same, (sizes, 0.6 - 0.6 * sizes**-0.15 + rng.normal(0, 0.001, len(sizes)))),
            contestants=[
                Contestant("radscale, auto", "radscale", _ours),
                Contestant("scipy curve_fit", "scipy", _scipy),
                Contestant("lmfit", "lmfit", _lmfit),
            ],
            rounds=options.repeat or (2 if options.quick else 15),
            note="auto weighs several forms; the peers fit one form, c - a n^-k, from a start near its truth",
        )
        for title, sizes in designs.items()
    ]


def _same(data: Any, _: int) -> Any:
    return data


def _curve(n: np.ndarray, c: float, a: float, k: float) -> np.ndarray:
    return c - a * n**-k


def _ours() -> Callable[[Points], object]:
    from radscale.analysis import fit_scaling_law

    return lambda points: fit_scaling_law(*points, form="auto")


def _scipy() -> Callable[[Points], object]:
    from scipy.optimize import curve_fit

    return lambda points: curve_fit(_curve, *points, p0=(0.6, 0.5, 0.2), maxfev=20_000)


def _lmfit() -> Callable[[Points], object]:
    from lmfit import Model

    return lambda points: Model(_curve).fit(points[1], n=points[0], c=0.6, a=0.5, k=0.2)
