"""The paper's printed numbers (docs/reproduction/) against each other, and our statistics on them against definitions.

Where the paper contradicts itself, a test says so: if one fails, either the transcription or our claim on the page is wrong.
"""

import importlib.util
import math
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import optimize, stats

from radscale.analysis import fit_scaling_law

FOLDER = Path(__file__).parents[2] / "docs" / "reproduction"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recompute", FOLDER / "recompute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recompute"] = module
    spec.loader.exec_module(module)
    return module


paper = load()
MODELS = paper.MODELS
NUM_TASKS = {2: 20, 3: 11, 4: 7, 5: 4}

# Means over tasks that were worked out before these files existed (in the order of MODELS).
EARLIER_AVERAGES = {
    2: (50.26, 52.82, 52.74, 49.60, 50.45),
    3: (90.51, 91.90, 92.37, 90.61, 92.10),
    4: (52.06, 58.93, 60.71, 60.20, 57.71),
    5: (54.05, 41.05, 36.47, 33.65, 25.75),
}


# --- the tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUM_TASKS)
def test_every_task_has_every_model(number: int) -> None:
    table = paper.read_table(number)
    assert len(paper.tasks_of(number)) == NUM_TASKS[number]
    assert all(tuple(cells) == MODELS for cells in table.values())
    named = [row["task"] for row in paper.read_rows("tasks.csv") if row["table"] == str(number)]
    assert named == paper.tasks_of(number)


@pytest.mark.parametrize("number", NUM_TASKS)
def test_the_best_model_of_a_task_is_bold(number: int) -> None:
    for cells in paper.read_table(number).values():
        best = (min if number == 5 else max)(cell.mean for cell in cells.values())
        assert all(cell.bold for cell in cells.values() if cell.mean == best)


@pytest.mark.parametrize(("number", "index"), list(product(NUM_TASKS, range(5))))
def test_means_over_tasks_are_those_of_an_earlier_reading(number: int, index: int) -> None:
    assert paper.average(number, MODELS[index]) == pytest.approx(EARLIER_AVERAGES[number][index], abs=0.011)


@pytest.mark.parametrize(("number", "model"), list(product((2, 3, 4), MODELS)))
def test_printed_averages_are_plain_means_over_tasks(number: int, model: str) -> None:
    # "Micro averaged", say the footnotes; it is the macro mean. 0.05 of the average's rounding and 0.05 of its tasks'.
    assert paper.read_table(number)["AVG"][model].mean == pytest.approx(paper.average(number, model), abs=paper.ROUNDING)


def test_table_5_prints_the_ett_column_twice_instead_of_an_average() -> None:
    table = paper.read_table(5)
    assert table["AVG"] == table["ETT"]
    assert all(abs(paper.average(5, model) - table["AVG"][model].mean) > 12 for model in MODELS)


def test_the_repeated_column_decides_whether_tube_labels_beat_the_open_rad_dino() -> None:
    """Section 5.2 says that they do, at all sizes but one."""
    table = paper.read_table(5)["AVG"]
    assert table["MI2 reports + tubes"].mean < table["RAD-DINO OWM"].mean
    assert paper.average(5, "MI2 reports + tubes") > paper.average(5, "RAD-DINO OWM")


def test_prevalences_look_like_shares_of_labels() -> None:
    def share(number: int, name: str = "") -> float:
        rows = paper.read_rows("tasks.csv")
        return sum(float(r["prevalence_percent"]) for r in rows if r["table"] == str(number) and r["name"].startswith(name))

    assert share(4) == pytest.approx(100, abs=7 * 0.005)
    # At least as many labels as labelled images would be needed.
    assert share(2) - share(2, "No ") < 100 - share(2, "No ")
    assert share(3) - share(3, "No ") < 100 - share(3, "No ")


def test_three_findings_are_rarer_than_the_ten_thousand_that_section_5_promises() -> None:
    training_images = 0.75 * 2_000_000
    shares = {r["task"]: float(r["prevalence_percent"]) for r in paper.read_rows("tasks.csv") if r["table"] == "2"}
    assert {task for task, share in shares.items() if training_images * share / 100 < 10_000} == {"AD", "EPA", "BWT"}


# --- what the text says about them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"), list(product(("MI2 reports", "MI2 reports + tubes"), ("MI2 OWM", "RAD-DINO OWM", "RAD-DINO")))
)
def test_on_all_twenty_findings_continued_mi2_is_ahead(a: str, b: str) -> None:
    assert (paper.gain(2, a, b) > 0).all()


def test_only_one_finding_gains_five_points_over_the_same_open_weights() -> None:
    """Section 5.1.1 names three, pneumothorax, enlarged pulmonary artery and rib fracture."""
    gains = np.maximum(paper.gain(2, "MI2 reports", "MI2 OWM"), paper.gain(2, "MI2 reports + tubes", "MI2 OWM"))
    assert [task for task, value in zip(paper.tasks_of(2), gains, strict=True) if value > 5] == ["RF"]
    artery = paper.tasks_of(2).index("EPA")
    assert all(paper.gain(2, a, b)[artery] < 5 for a, b in product(MODELS, MODELS))
    before = paper.column(2, "MI2 OWM")
    assert (gains / before > 0.05).sum() > 3, "nor is it three in relative terms"


def test_on_all_tubes_mi2_with_tube_labels_is_ahead_or_level_with_rad_dino() -> None:
    for other in ("MI2 OWM", "MI2 reports", "RAD-DINO OWM"):
        assert (paper.gain(3, "MI2 reports + tubes", other) > 0).all()
    behind = [t for t, g in zip(paper.tasks_of(3), paper.gain(3, "MI2 reports + tubes", "RAD-DINO"), strict=True) if g < 0]
    assert behind == ["IABP"]
    assert paper.read_table(3)["IABP"]["MI2 reports + tubes"].bold


def test_rad_dino_segments_all_four_tubes_best() -> None:
    assert all((paper.gain(5, "RAD-DINO", other) > 0).all() for other in MODELS if other != "RAD-DINO")


# --- Figure 2 -----------------------------------------------------------------------------------------------------------------


def test_figure_2_misses_table_2_beyond_rounding() -> None:
    at = {m: [100 * paper.power(law, 3.5e6) for law in paper.rounding_box(m)] for m in ("MI2 reports", "RAD-DINO")}
    assert min(at["MI2 reports"]) - paper.ROUNDING > paper.read_table(2)["AVG"]["MI2 reports"].mean
    assert max(at["RAD-DINO"]) + paper.ROUNDING < paper.read_table(2)["AVG"]["RAD-DINO"].mean


def test_the_printed_rad_dino_curve_is_below_its_open_weights_at_every_size() -> None:
    law = paper.printed_law("RAD-DINO")
    assert all(100 * paper.power(law, size) < paper.read_table(2)["AVG"]["RAD-DINO OWM"].mean for size in paper.DESIGN)
    assert paper.size_reaching(law, paper.average(2, "RAD-DINO OWM") / 100) > max(paper.DESIGN)
    assert paper.average(2, "RAD-DINO") > paper.average(2, "RAD-DINO OWM")


def test_three_times_better_is_two_times_through_table_2() -> None:
    def ratio(law):  # type: ignore[no-untyped-def]
        return law("MI2 reports")[1] / law("RAD-DINO")[1]

    assert ratio(paper.printed_law) == pytest.approx(3.0)
    assert ratio(paper.law_through_table) == pytest.approx(2.1, abs=0.05)


def test_sizes_that_reach_a_score_are_roots_of_the_printed_curve() -> None:
    law = paper.printed_law("MI2 reports")
    root = math.exp(optimize.brentq(lambda log_size: paper.power(law, math.exp(log_size)) - 0.54, 1, 40))
    assert paper.size_reaching(law, 0.54) == pytest.approx(root, rel=1e-9)
    assert root == pytest.approx(6.9e6, rel=0.01)
    sizes = np.array(list(paper.DESIGN), dtype=float)
    assert fit_scaling_law(sizes, paper.power(law, sizes)).samples_needed(0.54)[0] == pytest.approx(root, rel=1e-3)


def test_our_interval_of_the_ratio_covers_it_in_the_papers_design() -> None:
    """300 studies; 0.92 and 0.98 are 2.4 standard errors from 95 %."""
    for std in (0.001, 0.002, 0.005):
        covered = np.mean([c.ratio.low <= 3 <= c.ratio.high for c in paper.exponent_comparisons("printed", std)])
        assert 0.92 <= covered <= 0.98


def test_power_law_and_log_linear_cannot_be_told_apart() -> None:
    told = [fit.indistinguishable for fit in paper.studies("MI2 reports", "printed", 0.001)[:40]]
    assert np.mean(["log_linear" in forms and "power" in forms for forms in told]) > 0.9


# --- tests over tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", paper.PAIRS)
def test_wilcoxon_over_seven_tasks_is_the_share_of_sign_patterns(pair: tuple[str, str]) -> None:
    values = paper.gain(4, *pair)
    ranks = stats.rankdata(np.abs(values))
    centre = ranks.sum() / 2
    observed = abs(ranks[values > 0].sum() - centre)
    patterns = np.array(list(product((0, 1), repeat=len(values))))
    expected = np.mean(np.abs(patterns @ ranks - centre) >= observed - 1e-9)
    assert paper.over_tasks(4, *pair)[0] == pytest.approx(expected, abs=1e-12)


def test_four_tubes_can_never_be_significant_over_tasks() -> None:
    assert min(min(paper.over_tasks(5, *pair)) for pair in paper.PAIRS) == pytest.approx(2 * 0.5**4)


def test_the_pooled_interval_is_a_spread_between_tasks() -> None:
    """RAD-DINO in Table 2: two findings of twenty lose, so the pooled interval holds 0; the mean's and the signs are clear."""
    pair = ("RAD-DINO", "RAD-DINO OWM")
    result = paper.pooled_and_macro(2, *pair)
    assert result.pooled.low < 0 < result.macro.low
    assert max(paper.over_tasks(2, *pair)) < 0.01
    values = paper.gain(2, *pair)
    low, high = np.quantile(values, [0.025, 0.975])
    assert (result.pooled.low, result.pooled.high) == pytest.approx((low, high), abs=0.6)


# --- the page -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section", [pytest.param(s, marks=pytest.mark.slow if s in paper.SLOW else ()) for s in paper.SECTIONS]
)
def test_the_pages_tables_are_the_scripts(section: str) -> None:
    page = paper.PAGE.read_text(encoding="utf-8")
    assert paper.filled(page, [section]) == page, f"run `python docs/reproduction/recompute.py --write {section}`"
