import numpy as np
import pytest

from radscale.analysis import TaskScores, bootstrap_arms, holm, paired_bootstrap
from radscale.analysis.bootstrap import bold_arms, bootstrap_average_precision, bootstrap_mean
from radscale.errors import InputError
from radscale.metrics import average_precision


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
    result = paired_bootstrap(targets, good, good, num_replicates=79)
    assert result.macro.mean == result.macro.low == result.macro.high == 0
    assert result.macro.p_value == 1
    assert not result.macro.significant


def test_numbers_do_not_depend_on_workers_nor_on_other_tasks(two_tasks: tuple) -> None:
    targets, good, poor = two_tasks
    one = paired_bootstrap(targets, good, poor, num_replicates=150, num_workers=1)
    many = paired_bootstrap(targets, good, poor, num_replicates=150, num_workers=7)
    alone = paired_bootstrap({"b": targets["b"]}, {"b": good["b"]}, {"b": poor["b"]}, num_replicates=150)
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


def test_equal_models_are_called_different_as_often_as_said() -> None:
    """A/A: two models of one population. 5 % of p-values at or below .05, within four binomial standard errors."""
    rng = np.random.default_rng(11)
    repeats, rejected, outside = 1000, 0, 0
    for repeat in range(repeats):
        y = np.arange(400) < 100
        shared = rng.normal(size=400)
        a, b = (shared + rng.normal(size=400) + 1.2 * y for _ in range(2))
        found = paired_bootstrap({"t": y}, {"t": a}, {"t": b}, num_replicates=255, seed=repeat, num_workers=1).per_task["t"]
        rejected += found.p_value <= 0.05
        outside += found.significant
    error = np.sqrt(0.05 * 0.95 / repeats)
    assert abs(rejected / repeats - 0.05) < 4 * error
    assert abs(outside / repeats - 0.05) < 4 * error


def test_macro_interval_covers_what_tasks_on_the_same_images_have_in_common() -> None:
    """True difference zero. Tasks share images and errors: drawn alike, the interval covers; drawn apart, it does not."""
    rng = np.random.default_rng(7)
    repeats, names = 300, [f"task {i}" for i in range(6)]
    ids = np.arange(300)
    covered = {"alike": 0, "apart": 0}
    for repeat in range(repeats):
        ill = rng.normal(size=300)
        effect = {side: rng.normal(size=300) for side in "ab"}
        targets = {t: np.argsort(np.argsort(ill + 0.7 * rng.normal(size=300))) >= 225 for t in names}
        a, b = ({t: 1.2 * targets[t] + effect[side] + 0.5 * rng.normal(size=300) for t in names} for side in ("a", "b"))
        for way, known in (("alike", ids), ("apart", None)):
            found = paired_bootstrap(targets, a, b, 255, repeat, num_workers=1, sample_ids=known).macro
            covered[way] += found.low <= 0 <= found.high
    assert abs(covered["alike"] / repeats - 0.95) < 4 * np.sqrt(0.05 * 0.95 / repeats)
    assert covered["apart"] / repeats < 0.8


def test_one_task_of_twenty_with_the_other_sign_makes_the_pooled_interval_include_zero() -> None:
    rng = np.random.default_rng(0)
    names = [f"task {i}" for i in range(20)]
    targets = {t: np.arange(400) < 100 for t in names}
    skill = {t: (1.0, 2.5) if t == "task 7" else (2.5, 1.0) for t in names}
    a, b = ({t: rng.normal(size=400) + skill[t][side] * targets[t] for t in names} for side in (0, 1))
    found = paired_bootstrap(targets, a, b, num_replicates=799, sample_ids=np.arange(400))
    assert found.per_task["task 7"].high < 0
    assert found.pooled.low < 0 < found.pooled.high
    assert found.macro.low > 0.1
    assert np.isnan(found.pooled.p_value)
    assert found.per_task["task 0"].p_holm == pytest.approx(20 * 2 / 800)


def test_intervals_are_numpys_percentiles_of_averaged_seeds(two_tasks: tuple) -> None:
    targets, good, poor = two_tasks
    values = bootstrap_average_precision(
        targets["a"], np.concatenate([good["a"], poor["a"]]), num_replicates=200, seed=3, task="a"
    )
    differences = values[:, :2].mean(axis=1) - values[:, 2:].mean(axis=1)
    found = paired_bootstrap({"a": targets["a"]}, {"a": good["a"]}, {"a": poor["a"]}, 200, 3, level=0.9).per_task["a"]
    assert (found.low, found.high) == tuple(np.percentile(differences, [5, 95], method="linear"))
    assert found.mean == differences.mean()
    observed = [np.mean([average_precision(targets["a"], row) for row in side["a"]]) for side in (good, poor)]
    assert found.observed == pytest.approx(observed[0] - observed[1], abs=1e-12)


def test_patients_of_one_image_each_are_images(two_tasks: tuple) -> None:
    targets, good, poor = two_tasks
    images = paired_bootstrap(targets, good, poor, 100, sample_ids=np.arange(300))
    patients = paired_bootstrap(targets, good, poor, 100, groups=np.arange(300))
    # The balls that settle the sums fall on cells in another order, so draws are equal in law but not one by one.
    assert patients.macro.low == pytest.approx(images.macro.low, abs=0.03)
    assert patients.macro.high == pytest.approx(images.macro.high, abs=0.03)


def test_drawing_seeds_widens_the_interval_by_the_spread_between_them() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(20_000) < 10_000
    skills = rng.normal(1.5, 0.2, 8)
    a = rng.normal(size=(8, y.size)) + skills[:, None] * y
    b = rng.normal(size=(1, y.size)) + 1.5 * y
    fixed, drawn = (paired_bootstrap({"t": y}, {"t": a}, {"t": b}, 400, resample_seeds=way).macro for way in (False, True))
    scores = [average_precision(y, row) for row in a]
    spread = 2 * 1.96 * np.std(scores) / np.sqrt(8)
    assert fixed.high - fixed.low < spread
    assert np.hypot(fixed.high - fixed.low, spread) == pytest.approx(drawn.high - drawn.low, rel=0.15)


def test_order_of_samples_and_scale_of_scores_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    y, a = task(rng, 1.0)
    b = rng.normal(size=a.shape)
    order = rng.permutation(y.size)
    ids = np.arange(y.size)
    straight = paired_bootstrap({"t": y}, {"t": a}, {"t": b}, 50, sample_ids=ids).macro
    scaled = paired_bootstrap({"t": y}, {"t": np.exp(a)}, {"t": 3 * b - 7}, 50, sample_ids=ids).macro
    assert scaled == straight
    shuffled = paired_bootstrap({"t": y[order]}, {"t": a[:, order]}, {"t": b[:, order]}, 50, sample_ids=ids[order]).macro
    assert shuffled.observed == pytest.approx(straight.observed, abs=1e-12)


def test_bold_arms_are_the_best_and_those_not_different_from_it() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) < 150
    shared = rng.normal(size=600)
    scores = {
        "best": shared + 2.0 * y,
        "equal": shared + 2.0 * y + 0.05 * rng.normal(size=600),
        "poor": rng.normal(size=600) + 0.5 * y,
    }
    tasks = [TaskScores("t", y, {arm: row[None] for arm, row in scores.items()})]
    replicates = bootstrap_arms(tasks, num_replicates=200)["auprc"]
    best, differences = replicates.best_arms(scores)
    assert best in ("best", "equal")
    assert bold_arms(differences) == {"best", "equal"}
    assert differences[best].mean == 0


def test_degenerate_scores_are_no_difference() -> None:
    y = np.array([1, 0, 0, 1, 0])
    found = paired_bootstrap({"t": y}, {"t": np.zeros(5)}, {"t": np.ones(5)}, num_replicates=39).macro
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    perfect = paired_bootstrap({"t": y}, {"t": y}, {"t": 1 - y}, num_replicates=39).macro
    assert perfect.p_value == 2 / 40
    assert perfect.low == perfect.high > 0


def test_a_repeated_sample_is_refused() -> None:
    y = np.array([1, 0, 0, 1, 0])
    with pytest.raises(InputError, match="1 samples repeat an id"):
        paired_bootstrap({"t": y}, {"t": y}, {"t": y}, 39, sample_ids=["a", "b", "c", "d", "a"])


def test_the_interval_of_a_mean_is_over_whole_patients() -> None:
    rng = np.random.default_rng(0)
    # 40 patients with five measurements each that say the same: 40 facts, not 200.
    facts = rng.normal(2.0, 1.0, 40)
    values, patients = np.repeat(facts, 5), np.repeat(np.arange(40), 5)
    result = bootstrap_mean(values, patients, num_replicates=4000)
    assert result.observed == pytest.approx(facts.mean())
    half = 1.96 * facts.std() / 40**0.5
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.08)
    apart = bootstrap_mean(values, np.arange(200), num_replicates=4000)
    assert (apart.high - apart.low) / (result.high - result.low) == pytest.approx(5**-0.5, rel=0.1)
    assert bootstrap_mean(values, patients, seed=3) == bootstrap_mean(values, patients, seed=3)
    alone = bootstrap_mean([1.0, 2.0], ["p", "p"])
    assert (alone.observed, alone.low, alone.high) == (1.5, 1.5, 1.5)
    for wrong in (([], []), ([1.0], ["a", "b"]), ([float("nan")], ["a"])):
        with pytest.raises(InputError, match="give as many of each"):
            bootstrap_mean(*wrong)
