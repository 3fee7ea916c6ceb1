import math
from pathlib import Path

import numpy as np
import pytest

from radscale.analysis import fit_scaling_law
from radscale.analysis.data_plan import plan_data
from radscale.analysis.fit_tables import data_plan_table, fit_curves, fit_table, size_text
from radscale.analysis.results_table import AVERAGE, read_results, with_averages
from radscale.errors import InputError

SIZES = (100, 300, 1000, 3000, 10_000)


def write_results(
    path: Path, *, header: str = "arm,task,subset_size,replicate,seed,score", rows: list[str] | None = None
) -> Path:
    """Task `rising` gains, task `flat` does not; two replicates, two seeds of each encoder, open weights at size 0."""
    if rows is None:
        rng = np.random.default_rng(0)
        rows = []
        for replicate in range(2):
            for size in SIZES:
                encoder = 2e-4 * rng.standard_normal(2)
                for seed in range(2):
                    probe = 1e-4 * rng.standard_normal(2)
                    scores = (0.3 * size**0.08, 0.7)
                    for task, score, a, b in zip(("rising", "flat"), scores, encoder, probe, strict=True):
                        rows.append(f"unicl,{task},{size},{replicate},{seed},{score + a + b}")
        rows += [f"open,{task},0,0,{seed},{0.5 + 0.01 * seed}" for task in ("rising", "flat") for seed in range(3)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_plan_tells_where_more_data_pays(tmp_path: Path) -> None:
    table = read_results(write_results(tmp_path / "r.csv"))
    rising, flat, average = plan_data(with_averages(table), 10_000, form="power", cost_per_sample=0.5)
    truth = 0.3 * (20_000**0.08 - 10_000**0.08)
    assert (rising.task, rising.verdict) == ("rising", "pays")
    assert rising.low <= truth <= rising.high
    assert rising.gain == pytest.approx(truth, rel=0.02)
    assert rising.cost_per_point == pytest.approx(5000 / (100 * rising.gain))
    assert (flat.task, flat.verdict, flat.saturated) == ("flat", "saturated", True)
    assert average.is_average
    assert flat.gain < average.gain < rising.gain
    assert average.current_size == 10_000


def test_gain_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    sizes = np.repeat(np.array(SIZES, dtype=float), 2)
    truth = 0.3 * (1e5**0.08 - 1e4**0.08)
    inside = 0
    for _ in range(300):
        low, high = fit_scaling_law(sizes, 0.3 * sizes**0.08 + 0.004 * rng.standard_normal(10)).gain(1e4, 1e5)[1:]
        inside += low <= truth <= high
    assert inside / 300 == pytest.approx(0.95, abs=0.05)  # four standard errors


def test_losses_gain_by_falling() -> None:
    sizes = np.repeat(np.array(SIZES, dtype=float), 2)
    rng = np.random.default_rng(2)
    from radscale.analysis.results_table import Curve

    curve = Curve("", "lm", "", sizes, 3 * sizes**-0.1 * np.exp(1e-3 * rng.standard_normal(10)), [str(i) for i in range(10)])
    (plan,) = plan_data([curve], 90_000, form="power", larger_is_better=False)
    assert plan.verdict == "pays"
    assert plan.low < 3 * (1e4**-0.1 - 1e5**-0.1) < plan.high


def test_no_gain_beyond_the_best_score(tmp_path: Path) -> None:
    table = read_results(write_results(tmp_path / "r.csv")).select(tasks=["rising"])
    (free,) = plan_data(table.curves, 10_000, form="power")
    (tight,) = plan_data(table.curves, 10_000, form="power", best_score=free.current + 0.004)
    assert free.gain > 0.02
    assert (tight.gain, tight.high) == pytest.approx((0.004, 0.004))
    assert tight.verdict == "saturated"
    assert tight.samples_for_gain == math.inf
    (passed,) = plan_data(table.curves, 10_000, form="power", best_score=free.current - 0.1)
    assert passed.gain == 0


def test_seeds_are_averaged_and_replicates_are_encoders(tmp_path: Path) -> None:
    table = read_results(write_results(tmp_path / "r.csv"))
    (fitted, _) = fit_curves(table, "power")
    assert fitted.fit.num_encoders == 2 * len(SIZES)
    table_text = fit_table([fitted], table, target=0.9, beats="open")
    row = table_text.rows[0]
    assert row["needed"] == pytest.approx((0.9 / 0.3) ** (1 / 0.08), rel=0.1)
    assert row["beats"] == pytest.approx((0.51 / 0.3) ** (1 / 0.08), rel=0.1)
    assert row["beats_low"] < row["beats"] < row["beats_high"]


def test_a_table_without_replicates_has_an_encoder_per_row(tmp_path: Path) -> None:
    rows = [f"{size},{0.3 * size**0.08}" for size in SIZES for _ in range(2)]
    table = read_results(write_results(tmp_path / "r.csv", header="subset_size,auprc", rows=rows))
    assert table.score == "auprc"
    assert fit_curves(table, "power")[0].fit.num_encoders == 2 * len(SIZES)


def test_a_task_that_cannot_be_fitted_is_a_row_with_a_reason(tmp_path: Path) -> None:
    path = write_results(tmp_path / "r.csv")
    path.write_text(path.read_text() + "unicl,rare,100,0,0,0.1\nunicl,rare,300,0,0,0.2\n")
    plans = plan_data(read_results(path).curves, 10_000, form="power")
    assert [plan.verdict for plan in plans] == ["pays", "saturated", "no fit"]
    assert "at least 3" in plans[2].note
    shown = data_plan_table(plans, 10_000, 0.005, with_costs=False)
    assert any("rare: 2 encoders" in note for note in shown.notes)


def test_a_given_average_is_used_as_it_is(tmp_path: Path) -> None:
    path = write_results(tmp_path / "r.csv")
    path.write_text(path.read_text() + "".join(f"unicl,{AVERAGE},{size},0,0,{0.6 + size * 1e-6}\n" for size in SIZES))
    curves = list(with_averages(read_results(path)))
    assert [curve.task for curve in curves] == ["rising", "flat", AVERAGE]
    assert curves[-1].scores[0] == pytest.approx(0.6001)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("size,score", ["1,2"], "no column 'subset_size'; found size, score"),
        ("subset_size,value", ["1,2"], "no column 'score'; found subset_size, value"),
        ("subset_size,score", ["100,0.5", "200,nan"], "row 2"),
        ("subset_size,score", ["100,0.5", "200,abc"], "column 'score' holds a value that is not a number"),
        ("subset_size,score", ["0,0.5", "0,0.6"], "no row with a subset_size above 0"),
        ("subset_size,score", ["100,0.5", "-3,0.6"], "row 2: subset_size -3"),
    ],
)
def test_bad_tables(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_results(write_results(tmp_path / "r.csv", header=header, rows=rows))


def test_bad_requests(tmp_path: Path) -> None:
    table = read_results(write_results(tmp_path / "r.csv"))
    with pytest.raises(InputError, match="no arm 'clip' with sizes above 0; found unicl"):
        table.select(arms=["clip"])
    with pytest.raises(InputError, match=r"no scores of 'other' on task 'rising'; open weights \(size 0\) there: open"):
        fit_table(fit_curves(table, "power"), table, target=None, beats="other")
    with pytest.raises(InputError, match="more is 0"):
        plan_data(table.curves, 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (120, "120"), (999.6, "1k"), (6_900, "6.9k"), (3_700_000, "3.7M"), (math.inf, "never"), (math.nan, "")],
)
def test_sizes_read_well(value: float, text: str) -> None:
    assert size_text(value) == text
