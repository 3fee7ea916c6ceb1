import numpy as np
import pytest

from radscale.analysis import paired_bootstrap
from radscale.analysis.bootstrap import bootstrap_average_precision, holm
from radscale.errors import InputError


def task(rng: np.random.Generator, skill: float, n: int = 300, seeds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    targets = rng.random(n) < 0.2
    return targets, rng.normal(size=(seeds, n)) + skill * targets


@pytest.fixture
def two_tasks() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    targets, good, poor = {}, {}, {}
    for name in ("a", "b"):
        targets[name], good[name] = task(rng, 2.0)
        poor[name] = rng.normal(size=good[name].shape)
    return targets, good, poor


def test_a_clear_difference_is_found_and_has_a_sign(two_tasks: tuple) -> None:
    targets, good, poor = two_tasks
    result = paired_bootstrap(targets, good, poor, num_replicates=300)
    opposite = paired_bootstrap(targets, poor, good, num_replicates=300)
    for found in (*result.per_task.values(), result.macro, result.pooled):
        assert found.low > 0.2
        assert found.significant
        assert found.p_value == pytest.approx(2 / 301, rel=0.01) or found is result.pooled
    assert opposite.macro.mean == pytest.approx(-result.macro.mean)
    assert opposite.macro.high == pytest.approx(-result.macro.low)


def test_a_model_against_itself_differs_by_nothing(two_tasks: tuple) -> None:
    targets, good, _ = two_tasks
    result = paired_bootstrap(targets, good, good, num_replicates=50)
    assert result.macro.mean == result.macro.low == result.macro.high == 0
    assert result.macro.p_value == 1
    assert not result.macro.significant


def test_numbers_do_not_depend_on_workers_nor_on_other_tasks(two_tasks: tuple) -> None:
    targets, good, poor = two_tasks
    one = paired_bootstrap(targets, good, poor, num_replicates=40, num_workers=1)
    many = paired_bootstrap(targets, good, poor, num_replicates=40, num_workers=7)
    alone = paired_bootstrap({"b": targets["b"]}, {"b": good["b"]}, {"b": poor["b"]}, num_replicates=40)
    assert one == many
    assert alone.per_task["b"].low == one.per_task["b"].low


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 test sets from one population, whose true difference is the mean over a test set of 200,000."""
    rng = np.random.default_rng(5)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positives = int(0.2 * n)  # the bootstrap is stratified, so is the experiment
        y = np.arange(n) < positives
        shared = rng.normal(size=n)
        return y, (shared + rng.normal(size=n) + 1.6 * y)[None], (shared + rng.normal(size=n) + 1.2 * y)[None]

    from sklearn.metrics import average_precision_score

    y, a, b = draw(200_000)
    truth = average_precision_score(y, a[0]) - average_precision_score(y, b[0])
    inside = 0
    for repeat in range(400):
        y, a, b = draw(300)
        found = paired_bootstrap({"t": y}, {"t": a}, {"t": b}, num_replicates=200, seed=repeat, num_workers=2).macro
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / 400 <= 0.985  # 95 % with a binomial error of 1.1 %, and AP's small bias


def test_patients_are_drawn_whole_and_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    y, a = task(rng, 1.0, n=60, seeds=1)
    b = rng.normal(size=a.shape)
    copies = 8
    targets, scores_a, scores_b = {"t": np.repeat(y, copies)}, {"t": np.repeat(a, copies, 1)}, {"t": np.repeat(b, copies, 1)}
    patients = np.repeat(np.arange(60), copies)
    images = paired_bootstrap(targets, scores_a, scores_b, num_replicates=300).macro
    clusters = paired_bootstrap(targets, scores_a, scores_b, num_replicates=300, groups=patients).macro
    assert clusters.high - clusters.low > 2 * (images.high - images.low)  # sqrt(8) = 2.8 in theory


def test_draws_are_within_classes() -> None:
    targets = np.array([1] + [0] * 50)
    values = bootstrap_average_precision(targets, np.linspace(1, 0, 51), num_replicates=50, seed=0, task="t")
    assert (values == 1).all()  # the one positive is in every draw, always first


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a, b: (t, {"a": a["a"]}, b), "task 'b' is not in both"),
        (lambda t, a, b: (t, {**a, "b": a["b"][:, :9]}, b), "9 scores of a and 300 of b"),
        (lambda t, a, b: ({}, {}, {}), "no tasks"),
        (lambda t, a, b: ({**t, "b": np.zeros(300)}, a, b), "both classes"),
    ],
)
def test_bad_input(two_tasks: tuple, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_bootstrap(*change(*two_tasks), num_replicates=5)
