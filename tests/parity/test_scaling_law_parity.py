"""Extrapolation errors published for 20 language curves (Alabdulmohsin et al., "Revisiting Neural Scaling Laws in Language and
Vision", NeurIPS 2022, Tables 2 and 3), recomputed from the authors' benchmark data."""

import csv
import os
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from radscale.analysis import fit_scaling_law

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
CURVES = DATA / "scaling_curves_language.csv"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not CURVES.exists(), reason=f"{CURVES.name} not found; set RADSCALE_SHARED_DATA to its folder"),
]

NMT = ("6 Enc, 6 Dec", "28 Enc, 6 Dec", "6 Enc, 28 Dec", "Dec-only", "TEnc-LSTM")
BIG_BENCH = tuple(f"('{task}', '{shots}-shot')" for task in ("ling", "qa", "unit", "mult", "date") for shots in (1, 2))

# As printed: the unit of the last digit is the tolerance.
PUBLISHED_M1 = dict(zip(NMT, ("2.6e-1", "1.7e-1", "2.3e-1", "2.5e-1", "1.9e-1"), strict=True)) | dict(
    zip(
        BIG_BENCH,
        ("1.6e-2", "1.7e-2", "4.2e-3", "4.4e-3", "8.3e-3", "1.1e-2", "1.1e-2", "1.6e-2", "3.2e-2", "2.9e-2"),
        strict=True,
    )
)
# "Dec-only" is left out: the paper prints the row of "6 Enc, 6 Dec" there for M2 to M4.
PUBLISHED_M2 = {"6 Enc, 6 Dec": 0.039, "28 Enc, 6 Dec": 0.056, "6 Enc, 28 Dec": 0.053, "TEnc-LSTM": 0.013}
# Least squares in log loss, once computed independently (variable projection with scipy).
LEAST_SQUARES_M2 = dict(zip(NMT, (0.056, 0.064, 0.066, 0.038, 0.017), strict=True))
SIMPLE_FORMS = ("constant", "power", "log_linear", "saturating", "power_offset", "m3", "logistic", "m4", "bnsl")


@cache
def curves() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(training, held out) rows of (size, loss) of each curve. Repeated rows of the LM curves are in the benchmark; kept."""
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with CURVES.open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["Task"] if row["Domain"] == "BB" else row["Model"]
            rows.setdefault(name, {"0": [], "1": []})[row["Training"]].append((float(row["Seen Examples"]), float(row["Loss"])))
    return {name: (np.array(parts["1"]), np.array(parts["0"])) for name, parts in rows.items()}


def log_error(name: str, predicted: np.ndarray) -> float:
    """Root mean square of log prediction minus log loss on the held-out sizes."""
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(curves()[name][1][:, 1])) ** 2)))


@cache
def extrapolation_error(name: str, form: str) -> float:
    training, held_out = curves()[name]
    return log_error(name, fit_scaling_law(training[:, 0], training[:, 1], form=form).predict(held_out[:, 0]))


def test_the_benchmark_is_complete() -> None:
    assert len(curves()) == 20
    assert sum(len(part) for both in curves().values() for part in both) == 1399


@pytest.mark.parametrize("name", PUBLISHED_M1)
def test_m1_is_the_published_one(name: str) -> None:
    printed = PUBLISHED_M1[name]
    assert extrapolation_error(name, "power") == pytest.approx(float(printed), abs=float(f"0.1e{printed[-2:]}"))


@pytest.mark.parametrize("name", LEAST_SQUARES_M2)
def test_m2_by_least_squares_in_log_loss(name: str) -> None:
    # Two digits are known of the reference: 2 % and half a unit of the last one.
    expected = LEAST_SQUARES_M2[name]
    assert extrapolation_error(name, "power_offset") == pytest.approx(expected, abs=0.02 * expected + 5e-4)


def published_m2(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """(beta, c, epsilon) as the authors' estimator finds them: squares of log(y - epsilon) - log(beta x^c), down to the first
    minimum from epsilon = min(y) - 0.001.

    Their residual shrinks as epsilon falls (log(y - epsilon) has less spread), so that the global minimum is mostly
    epsilon = 0, that is M1; what is published is the local one next to the start.
    """
    x = np.stack([np.ones(len(sizes)), np.log(sizes)], axis=1)

    def fit(epsilon: float) -> tuple[float, np.ndarray]:
        z = np.log(losses - epsilon)
        coefficients = np.linalg.lstsq(x, z, rcond=None)[0]
        return float(np.sum((z - x @ coefficients) ** 2)), coefficients

    grid = np.linspace(losses.min() - 1e-3, 0.0, 20_001)
    best = fit(grid[0])[0]
    for above, epsilon in pairwise(grid):
        if (error := fit(epsilon)[0]) > best:
            log_beta, c = fit(above)[1]
            return float(np.exp(log_beta)), float(c), float(above)
        best = error
    log_beta, c = fit(0.0)[1]
    return float(np.exp(log_beta)), float(c), 0.0


@pytest.mark.parametrize("name", PUBLISHED_M2)
def test_m2_by_the_published_estimator(name: str) -> None:
    training, held_out = curves()[name]
    beta, c, epsilon = published_m2(training[:, 0], training[:, 1])
    expected = PUBLISHED_M2[name]
    # Two digits are printed: 2 % and half a unit of the last one.
    assert log_error(name, beta * held_out[:, 0] ** c + epsilon) == pytest.approx(expected, abs=0.02 * expected + 5e-4)


def test_auto_has_the_lowest_median_error() -> None:
    medians = {form: np.median([extrapolation_error(name, form) for name in curves()]) for form in (*SIMPLE_FORMS, "auto")}
    auto = medians.pop("auto")
    assert auto < 0.0051  # four-parameter logistic, fitted with scipy; broken neural scaling law likewise: 0.0067
    assert auto < min(medians.values())
