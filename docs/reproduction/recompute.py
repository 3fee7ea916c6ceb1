"""What the numbers that the paper prints imply, by radscale's own functions.

`python docs/reproduction/recompute.py` prints every table of docs/reproduction.md, `--write` puts them into the page.
Inputs are the CSV files beside this file and the design of section 5; nothing else is known here.
"""

import argparse
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from radscale.analysis import fit_scaling_law, holm
from radscale.analysis.bootstrap import BootstrapResult, combine_tasks
from radscale.analysis.fit_comparison import ExponentComparison, compare_exponents, size_that_beats
from radscale.analysis.scaling_law import ScalingLawFit
from radscale.analysis.significance import wilcoxon_over_tasks

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "reproduction.md"
TABLES = {2: "table2_findings.csv", 3: "table3_tubes.csv", 4: "table4_vindr.csv", 5: "table5_ranzcr.csv"}
MODELS = ("MI2 OWM", "MI2 reports", "MI2 reports + tubes", "RAD-DINO OWM", "RAD-DINO")
REPORTS = "table6_report_generation.csv"
PAIRS = (
    ("MI2 reports", "MI2 OWM"),
    ("MI2 reports + tubes", "MI2 OWM"),
    ("RAD-DINO", "RAD-DINO OWM"),
    ("MI2 reports", "RAD-DINO"),
    ("MI2 reports + tubes", "RAD-DINO"),
    ("MI2 reports + tubes", "MI2 reports"),
    ("MI2 reports + tubes", "RAD-DINO OWM"),
)
DESIGN = {30_000: 3, 50_000: 3, 100_000: 3, 1_000_000: 1, 3_500_000: 1}
"""Encoders per size (section 5)."""
LARGEST = 3_500_000
NUM_SEEDS = 3
NUM_STUDIES = 300
NUM_COVERAGE = 100
"""Studies per row of the section on coverage; one `auto` fit with its limits takes half a second."""
TRUTHS = ("printed", "through Table 2", "saturating")
ENCODER_STD = (0.0, 0.001, 0.002, 0.005)
"""Of the mean AUPRC between encoders of one size. The paper does not print it; these are assumptions."""
HEAD_STD = 0.001
"""Of the mean AUPRC between seeds of the head: the 0.1 points printed beside the averages of Table 2."""


ROUNDING = 0.1
"""Of a printed average (0.05) and of the mean of its printed tasks (0.05) together."""


@dataclass(frozen=True)
class Cell:
    mean: float
    std: float
    bold: bool


@cache
def read_table(number: int) -> dict[str, dict[str, Cell]]:
    """{task: {model: cell}}; AVG is a task."""
    table: dict[str, dict[str, Cell]] = {}
    with (FOLDER / TABLES[number]).open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(float(row["mean"]), float(row["std"]), row["bold"] == "1")
            table.setdefault(row["task"], {})[row["model"]] = cell
    return table


@cache
def read_rows(name: str) -> tuple[dict[str, str], ...]:
    with (FOLDER / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


def tasks_of(number: int) -> list[str]:
    return [task for task in read_table(number) if task != "AVG"]


def column(number: int, model: str) -> np.ndarray:
    """(tasks,) printed means."""
    return np.array([read_table(number)[task][model].mean for task in tasks_of(number)])


def average(number: int, model: str) -> float:
    """Plain mean over tasks, rounded to the three decimals that sums of one-decimal numbers justify."""
    return round(float(column(number, model).mean()), 3)


def gain(number: int, a: str, b: str) -> np.ndarray:
    """(tasks,) by how much a is better than b: AUPRC points, or pixels of Hausdorff distance."""
    sign = -1.0 if number == 5 else 1.0
    return np.round(sign * (column(number, a) - column(number, b)), 1)


def mean_gain(number: int, a: str, b: str) -> float:
    return round(float(gain(number, a, b).mean()), 4)


# --- the fitted curves --------------------------------------------------------------------------------------------------------


def printed_law(model: str) -> tuple[float, float]:
    """alpha and k of Figure 2."""
    row = next(row for row in read_rows("fits.csv") if row["models"] == model)
    return float(row["alpha"]), float(row["k"])


def rounding_box(model: str) -> list[tuple[float, float]]:
    """The corners of all (alpha, k) that print as the paper's three decimals."""
    alpha, k = printed_law(model)
    return list(product((alpha - 0.0005, alpha + 0.0005), (k - 0.0005, k + 0.0005)))


def power(law: tuple[float, float], size: float | np.ndarray) -> float | np.ndarray:
    return law[0] * size ** law[1]


def size_reaching(law: tuple[float, float], score: float) -> float:
    return float(np.exp(np.log(score / law[0]) / law[1]))


def law_through_table(model: str) -> tuple[float, float]:
    """The printed alpha with the k that meets Table 2 at 3.5 million images."""
    alpha, _ = printed_law(model)
    return alpha, float(np.log(average(2, model) / 100 / alpha) / np.log(LARGEST))


# --- the paper's design, simulated --------------------------------------------------------------------------------------------


def saturating(size: float) -> float:
    """A truth that is no power law: MI2's printed score at 30k, Table 2's at 3.5 million, a limit approached as size^-0.3."""
    first, last, exponent = min(DESIGN), max(DESIGN), -0.3
    low, high = float(power(printed_law("MI2 reports"), first)), average(2, "MI2 reports") / 100
    slope = (high - low) / (last**exponent - first**exponent)
    return high + slope * (size**exponent - last**exponent)


def true_curve(model: str, truth: str) -> Callable[[float], float]:
    if truth == "saturating":
        return saturating
    law = printed_law(model) if truth == "printed" else law_through_table(model)
    return lambda size: float(power(law, size))


def simulate(
    rng: np.random.Generator, curve: Callable[[float], float], encoder_std: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Sizes, scores and encoders of one study: every size has three scores, of three encoders or of three heads on one."""
    sizes, scores, encoders = [], [], []
    for size, num_encoders in DESIGN.items():
        shifts = encoder_std * rng.normal(size=num_encoders)
        for seed in range(NUM_SEEDS):
            unit = seed % num_encoders
            sizes.append(float(size))
            scores.append(curve(size) + shifts[unit] + HEAD_STD * rng.normal())
            encoders.append(size * 10 + unit)
    return np.array(sizes), np.array(scores), encoders


def fit_study(
    rng: np.random.Generator, curve: Callable[[float], float], encoder_std: float, form: str = "power"
) -> ScalingLawFit:
    sizes, scores, encoders = simulate(rng, curve, encoder_std)
    return fit_scaling_law(sizes, scores, form=form, groups=encoders)


@cache
def studies(model: str, truth: str, encoder_std: float) -> tuple[ScalingLawFit, ...]:
    rng = np.random.default_rng([round(1e4 * encoder_std), MODELS.index(model), TRUTHS.index(truth)])
    return tuple(fit_study(rng, true_curve(model, truth), encoder_std) for _ in range(NUM_STUDIES))


def exponent_comparisons(truth: str, encoder_std: float) -> list[ExponentComparison]:
    pairs = zip(studies("MI2 reports", truth, encoder_std), studies("RAD-DINO", truth, encoder_std), strict=True)
    return [compare_exponents(a, b) for a, b in pairs]


# --- sections of the page -----------------------------------------------------------------------------------------------------


def table(header: str, rows: list[list[str]]) -> Iterator[str]:
    names = header.split(" | ")
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in rows:
        assert len(row) == len(names), row
        yield "| " + " | ".join(row) + " |"


def size_text(size: float) -> str:
    if not np.isfinite(size):
        return "never"
    for limit, unit in ((1e12, ""), (1e9, " billion"), (1e6, " million"), (1e3, "k")):
        if size >= limit:
            return f"{size / limit:.3g}{unit}" if unit else f"{size:.0e}".replace("e+", "e")
    return f"{size:.0f}"


def p_text(p: float) -> str:
    return f"{p:.1g}" if p < 0.001 else f"{p:.3f}"


def averages() -> Iterator[str]:
    rows = []
    for number in TABLES:
        for model in MODELS:
            printed, ours = read_table(number)["AVG"][model].mean, average(number, model)
            verdict = "yes" if abs(printed - ours) < ROUNDING else "**no**"
            rows.append([f"Table {number}", model, f"{printed:.1f}", f"{ours:.2f}", verdict])
    yield from table("table | model | printed AVG | mean over its tasks | agree", rows)


def prevalences() -> Iterator[str]:
    rows = []
    for number in TABLES:
        own = [row for row in read_rows("tasks.csv") if row["table"] == str(number)]
        total = sum(float(row["prevalence_percent"]) for row in own)
        none = sum(float(row["prevalence_percent"]) for row in own if row["name"].startswith("No "))
        some = f"{100 - none:.2f} %" if none else ""
        rows.append([f"Table {number}", str(len(own)), f"{total:.2f} %", some, f"{total - none:.2f} %" if none else ""])
    yield from table("table | tasks | sum of prevalences | images with some label (100 % - `none`) | sum without `none`", rows)


def curve_points() -> Iterator[str]:
    rows = []
    for model, reference in (("MI2 reports", "MI2 OWM"), ("RAD-DINO", "RAD-DINO OWM")):
        law = printed_law(model)
        corners = [float(power(corner, LARGEST)) for corner in rounding_box(model)]
        at = [f"{100 * float(power(law, size)):.2f}" for size in DESIGN]
        rows.append(
            [
                model,
                *at,
                f"{100 * min(corners):.1f} to {100 * max(corners):.1f}",
                f"{average(2, model):.2f}",
                f"{average(2, reference):.2f}",
                size_text(size_reaching(law, average(2, reference) / 100)),
            ]
        )
    sizes = " | ".join(size_text(size) for size in DESIGN)
    yield from table(
        f"Figure 2's curve | {sizes} | 3.5 million, within rounding | Table 2 | open weights, Table 2 | "
        "curve beats open weights from",
        rows,
    )


def largest_size_leverage(sizes: list[float]) -> float:
    """Share of the largest size's own score in its fitted one, for a line in log size."""
    x = np.log(sizes)
    centred = x - x.mean()
    return float(1 / len(x) + centred[-1] ** 2 / (centred**2).sum())


def residuals() -> Iterator[str]:
    """Table 2 minus Figure 2's curve at 3.5 million images: how much noise makes that ordinary?"""
    per_encoder = [float(size) for size, number in DESIGN.items() for _ in range(number)]
    per_size = [float(size) for size in DESIGN]
    rows = []
    for model in ("MI2 reports", "RAD-DINO"):
        corners = [average(2, model) - 100 * float(power(corner, LARGEST)) for corner in rounding_box(model)]
        nearest = min(corners, key=abs)
        printed = average(2, model) - 100 * float(power(printed_law(model), LARGEST))
        needed = [abs(nearest) / 2 / np.sqrt(1 - largest_size_leverage(sizes)) for sizes in (per_encoder, per_size)]
        rows.append([model, f"{printed:+.2f}", f"{nearest:+.2f}", *(f"{value:.2f}" for value in needed)])
    yield from table(
        "curve | Table 2 minus curve, points | least, within rounding | sd that makes it two residual sd, fit to 11 encoders | "
        "fit to 5 means",
        rows,
    )


def printed_ratio() -> Iterator[str]:
    """MI2's exponent by RAD-DINO's, before any noise."""
    boxes = [rounding_box(model) for model in ("MI2 reports", "RAD-DINO")]
    by_rounding = [a[1] / b[1] for a, b in product(*boxes)]
    through = [law_through_table(model)[1] for model in ("MI2 reports", "RAD-DINO")]
    scores = [average(2, model) / 100 for model in ("MI2 reports", "RAD-DINO")]
    corners = [[np.log(score / alpha) for alpha, _ in box] for score, box in zip(scores, boxes, strict=True)]
    by_alpha = [a / b for a, b in product(*corners)]
    k = [printed_law(model)[1] for model in ("MI2 reports", "RAD-DINO")]
    rows = [
        ["as printed", f"{k[0]:.3f}", f"{k[1]:.3f}", f"{k[0] / k[1]:.1f}", f"{min(by_rounding):.1f} to {max(by_rounding):.1f}"],
        [
            "printed alpha, through Table 2 at 3.5 million",
            f"{through[0]:.4f}",
            f"{through[1]:.4f}",
            f"{through[0] / through[1]:.1f}",
            f"{min(by_alpha):.1f} to {max(by_alpha):.1f}",
        ],
    ]
    yield from table("curves | k, MI2 | k, RAD-DINO | ratio | within rounding", rows)


def exponents() -> Iterator[str]:
    rows = []
    for truth in ("printed", "through Table 2"):
        laws = [printed_law(m) if truth == "printed" else law_through_table(m) for m in ("MI2 reports", "RAD-DINO")]
        for std in ENCODER_STD:
            found = exponent_comparisons(truth, std)
            ratios = np.array([c.ratio.value for c in found])
            low, high = np.quantile(ratios, [0.025, 0.975])
            lows, highs = (np.median([getattr(c.ratio, side) for c in found]) for side in ("low", "high"))
            holds_three = np.mean([c.ratio.low <= 3 <= c.ratio.high for c in found])
            differ = np.mean([c.difference.low > 0 or c.difference.high < 0 for c in found])
            rows.append(
                [
                    f"{truth}: {laws[0][1]:.4f} / {laws[1][1]:.4f} = {laws[0][1] / laws[1][1]:.1f}",
                    f"{100 * std:.1f}",
                    f"{low:.1f} to {high:.1f}" if low > -100 and high < 100 else "unbounded",
                    f"{lows:.1f} to {highs:.1f}" if np.isfinite([lows, highs]).all() else f"{lows:.1f} to infinity",
                    f"{100 * differ:.0f} %",
                    f"{100 * holds_three:.0f} %",
                ]
            )
    yield from table(
        "true exponents, MI2 / RAD-DINO | sd between encoders, points | estimated ratio in 95 % of studies | "
        "a study's own 95 % interval (median limits) | studies that find the exponents different | studies that allow 3",
        rows,
    )


def forms() -> Iterator[str]:
    names = ("power", "log_linear", "logit_linear", "saturating", "power_offset", "constant")
    rows = []
    for truth, std in product(("printed", "saturating"), ENCODER_STD):
        told = [fit.indistinguishable for fit in studies("MI2 reports", truth, std)[:50]]
        shares = (f"{100 * np.mean([name in among for among in told]):.0f} %" for name in names)
        rows.append(["power law" if truth == "printed" else truth, f"{100 * std:.1f}", *shares])
    yield from table("truth | sd between encoders, points | " + " | ".join(f"`{name}`" for name in names), rows)


def coverage() -> Iterator[str]:
    """How often the limits hold the truth at ten times the largest size, and its size at the score of 10 million."""
    rows = []
    for form, truth, std in product(("power", "auto"), ("printed", "saturating"), ENCODER_STD[1:]):
        rng = np.random.default_rng([round(1e4 * std), truth == "printed"])
        curve = true_curve("MI2 reports", truth)
        fits = [fit_study(rng, curve, std, form) for _ in range(NUM_COVERAGE)]
        limits = [fit.interval(10 * LARGEST) for fit in fits]
        needed = [fit.samples_needed(curve(1e7))[1:] for fit in fits]
        held = np.mean([low[0] <= curve(10 * LARGEST) <= high[0] for low, high in limits])
        held_size = np.mean([low <= 1e7 <= high for low, high in needed])
        width = 100 * np.median([high[0] - low[0] for low, high in limits])
        name = "power law" if truth == "printed" else truth
        rows.append([f"`{form}`", name, f"{100 * std:.1f}", f"{100 * held:.0f} %", f"{width:.1f}", f"{100 * held_size:.0f} %"])
    yield from table(
        "fit | truth | sd between encoders, points | 95 % limits at 35 million that hold the truth | median width, points | "
        "limits of the samples needed that do",
        rows,
    )


def form_gap() -> Iterator[str]:
    """The printed MI2 curve without noise, and other two-parameter forms fitted to it."""
    law = printed_law("MI2 reports")
    sizes = np.repeat([float(size) for size in DESIGN], list(DESIGN.values()))
    grid = np.geomspace(30_000, LARGEST, 200)
    rows = []
    for form in ("log_linear", "logit_linear"):
        fit = fit_scaling_law(sizes, np.asarray(power(law, sizes)), form=form)
        inside = np.abs(fit.predict(grid) - power(law, grid)).max()
        beyond = [abs(fit.predict(x)[0] - power(law, x)) for x in (3.5e7, 3.5e9)]
        rows.append([f"`{form}`", *(f"{100 * value:.3f}" for value in (inside, *beyond))])
    yield from table("form | largest distance to the power law, 30k to 3.5 million | at 35 million | at 3.5 billion", rows)


def needed() -> Iterator[str]:
    target = 0.54
    rows = []
    for model in ("MI2 reports", "RAD-DINO"):
        law = printed_law(model)
        corners = [size_reaching(corner, target) for corner in rounding_box(model)]
        row = [model, size_text(size_reaching(law, target)), f"{size_text(min(corners))} to {size_text(max(corners))}"]
        for std in ENCODER_STD:
            limits = np.array([fit.samples_needed(target)[1:] for fit in studies(model, "printed", std)[:100]])
            low, high = np.median(limits, axis=0)
            row.append(f"{size_text(low)} to {size_text(high)}")
        rows.append(row)
    stds = " | ".join(f"a study's 95 % limits, sd {100 * std:.1f} (median)" for std in ENCODER_STD)
    yield from table(f"curve | reaches 0.54 at | within rounding | {stds}", rows)


def price_of_a_point() -> Iterator[str]:
    rows = []
    for model in ("MI2 reports", "RAD-DINO"):
        law = printed_law(model)
        now = float(power(law, LARGEST))
        gains = [f"{100 * (float(power(law, size)) - now):+.2f}" for size in (1e7, 1e8, 1e9)]
        rows.append([model, f"{100 * (now - float(power(law, 1e6))):+.2f}", *gains, size_text(size_reaching(law, now + 0.01))])
    yield from table("curve | 1 to 3.5 million | 3.5 to 10 million | to 100 million | to 1 billion | one more point at", rows)


def beats_open_weights() -> Iterator[str]:
    """Design simulated at the printed curves; the open weights are three heads on one fixed encoder."""
    half = float(stats.t.ppf(0.975, NUM_SEEDS - 1)) * HEAD_STD / np.sqrt(NUM_SEEDS)
    rows = []
    for model, reference in (("MI2 reports", "MI2 OWM"), ("RAD-DINO", "RAD-DINO OWM")):
        score = average(2, reference) / 100
        for std in ENCODER_STD:
            few = studies(model, "printed", std)[:100]
            found = np.array([size_that_beats(fit, (score, score - half, score + half)) for fit in few])
            value, low, high = np.median(found, axis=0)
            sure = np.mean(found[:, 2] <= 30_000)
            limits = f"{size_text(low)} to {size_text(high)}"
            rows.append([model, f"{100 * std:.1f}", size_text(value), limits, f"{100 * sure:.0f} %"])
    yield from table(
        "arm | sd between encoders, points | beats its open weights from (median) | a study's 95 % limits (median) | "
        "studies sure of it at 30k",
        rows,
    )


def pooled_and_macro(number: int, a: str, b: str, num_replicates: int = 2000) -> BootstrapResult:
    """A.8's two intervals, with the spread of seed means standing in for that of bootstrap replicates."""
    rng = np.random.default_rng([number, MODELS.index(a), MODELS.index(b)])
    drawn, observed = {}, {}
    for task, difference in zip(tasks_of(number), gain(number, a, b), strict=True):
        cells = read_table(number)[task]
        error = np.hypot(cells[a].std, cells[b].std) / np.sqrt(NUM_SEEDS)
        drawn[task], observed[task] = difference + error * rng.normal(size=num_replicates), float(difference)
    return combine_tasks(drawn, observed)


def over_tasks(number: int, a: str, b: str) -> tuple[float, float]:
    """p of Wilcoxon's test and of the sign test (ties dropped), both exact where ranks allow."""
    values = gain(number, a, b)
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    return wilcoxon_over_tasks(values.tolist()), float(stats.binomtest(wins, wins + losses).pvalue)


def significance() -> Iterator[str]:
    rows = []
    for number in TABLES:
        tests = {pair: over_tasks(number, *pair) for pair in PAIRS}
        corrected = holm({" ".join(pair): p[0] for pair, p in tests.items()})
        for (a, b), (wilcoxon, sign) in tests.items():
            values, result = gain(number, a, b), pooled_and_macro(number, a, b)
            rows.append(
                [
                    f"{number}: {a} - {b}",
                    f"{mean_gain(number, a, b):+.2f}",
                    f"{(values > 0).sum()} / {(values == 0).sum()} / {(values < 0).sum()}",
                    f"{result.pooled.low:+.2f} to {result.pooled.high:+.2f}",
                    f"{result.macro.low:+.2f} to {result.macro.high:+.2f}",
                    p_text(sign),
                    p_text(wilcoxon),
                    p_text(corrected[f"{a} {b}"]),
                ]
            )
    yield from table(
        "table: a - b | mean gain | better / equal / worse | pooled, 95 % | of the mean, 95 % | p sign | p Wilcoxon | "
        "Holm, of 7",
        rows,
    )


def report_metrics() -> Iterator[str]:
    """Table 6: differences of medians, with the two intervals combined as if the test studies were different ones."""
    values = {(row["metric"], row["model"]): [float(row[k]) for k in ("median", "low", "high")] for row in read_rows(REPORTS)}
    rows = []
    for metric in dict.fromkeys(row["metric"] for row in read_rows(REPORTS)):
        for a, b in PAIRS[:6]:
            (mid_a, low_a, high_a), (mid_b, low_b, high_b) = values[metric, a], values[metric, b]
            difference = mid_a - mid_b
            low = difference - np.hypot(mid_a - low_a, high_b - mid_b)
            high = difference + np.hypot(high_a - mid_a, mid_b - low_b)
            rows.append(
                [metric, f"{a} - {b}", f"{difference:+.1f}", f"{low:+.1f} to {high:+.1f}", "yes" if low * high > 0 else "no"]
            )
    yield from table("metric | a - b | difference | 95 %, unpaired | excludes 0", rows)


def largest_gains() -> Iterator[str]:
    rows = []
    for model, reference in product(("MI2 reports", "MI2 reports + tubes"), ("MI2 OWM", "RAD-DINO OWM")):
        values = dict(zip(tasks_of(2), gain(2, model, reference), strict=True))
        best = sorted(values, key=lambda task: -values[task])[:4]
        rows.append([f"{model} - {reference}", ", ".join(f"{task} {values[task]:+.1f}" for task in best)])
    yield from table("difference in Table 2 | four largest, AUPRC points", rows)


def class_shares() -> Iterator[str]:
    """How much of the gain in the average comes from how few tasks."""
    rows = []
    for number in (2, 3, 4):
        for a, b in PAIRS[:3]:
            values = np.sort(gain(number, a, b))[::-1]
            quarter = max(1, round(len(values) / 4))
            share = f"{100 * values[:quarter].sum() / values.sum():.0f} %" if values.sum() > 0 else "no gain"
            spread = f"{np.median(values):+.1f} ({values.min():+.1f} to {values.max():+.1f})"
            rows.append(
                [f"{number}: {a} - {b}", f"{mean_gain(number, a, b):+.2f}", spread, f"{quarter} of {len(values)}: {share}"]
            )
    yield from table("table: a - b | mean gain | median and range over tasks | share of the best quarter of tasks", rows)


def arithmetic() -> Iterator[str]:
    """Counts of section 4 and 5 against each other."""
    frontal, pretraining = 0.62, 3.5e6
    find_test, find_train = 0.25 * 2.0e6, 0.75 * 2.0e6
    rows = []
    for images in (4.0e6, pretraining / 0.8):
        total = f"of {images / 1e6:.3g} million images"
        unseen = (images - pretraining) * frontal
        seen = max(find_test - unseen, 0.0)
        rows += [
            [f"80 % {total}: training", f"{0.8 * images / 1e6:.1f} million", "3.5 million pretrained on"],
            [
                f"10 % {total}: frontal test images",
                f"{0.1 * images * frontal / 1e3:.0f}k",
                f"{find_test / 1e3:.0f}k tested on findings",
            ],
            [
                f"{total}: frontal, not pretrained on",
                f"{unseen / 1e3:.0f}k",
                f"{find_test / 1e3:.0f}k tested: at least {seen / 1e3:.0f}k pretrained on",
            ],
        ]
    for name in ("Adenopathy", "Enlarged Pulmonary Artery", "Bronchial Wall Thickening"):
        share = float(next(row["prevalence_percent"] for row in read_rows("tasks.csv") if row["name"] == name))
        count = f"{find_train * share / 100 / 1e3:.1f}k"
        rows.append([f"{name}, {share} % of 1.5 million training images", count, "at least 10k per finding"])
    rows.append(
        ["updates at 30k and at 3.5 million (15 epochs, batch 1280)", *(f"{15 * n / 1280:,.0f}" for n in (30_000, LARGEST))]
    )
    yield from table("quantity | by the paper's counts | beside", rows)


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "averages": averages,
    "prevalences": prevalences,
    "arithmetic": arithmetic,
    "curve_points": curve_points,
    "residuals": residuals,
    "printed_ratio": printed_ratio,
    "exponents": exponents,
    "forms": forms,
    "form_gap": form_gap,
    "coverage": coverage,
    "needed": needed,
    "price_of_a_point": price_of_a_point,
    "beats_open_weights": beats_open_weights,
    "significance": significance,
    "report_metrics": report_metrics,
    "largest_gains": largest_gains,
    "class_shares": class_shares,
}


SLOW = ("coverage", "forms")
"""Many fits of many forms: minutes and tens of seconds."""


def filled(page: str, sections: Iterable[str]) -> str:
    """The page with these blocks, each between its two marks, computed anew."""
    for name in sections:
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        block = "\n".join([start, "", *SECTIONS[name](), "", end])
        page, count = re.subn(f"{re.escape(start)}.*?{re.escape(end)}", lambda _, block=block: block, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE.name}: the marks of '{name}' stand there {count} times; they must stand there once")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is named")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    sections = options.sections or list(SECTIONS)
    if options.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")
        return
    for name in sections:
        print(f"## {name}\n", *SECTIONS[name](), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
