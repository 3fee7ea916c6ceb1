"""The bootstrap kernels against scikit-learn on samples that were really repeated, and the draws against the multinomial."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from radscale.analysis.resampling import (
    LANES,
    SortedTask,
    TaskVectors,
    cells_of,
    draw_counts,
    identity_keys,
    replicate_keys,
    sort_task,
)

TOLERANCE = 1e-12


def prepare(task: TaskVectors) -> SortedTask:
    with ThreadPoolExecutor(1) as pool:
        return sort_task(task, pool)


def check_against_scikit_learn(task: TaskVectors, lanes: range, seed: int = 0) -> None:
    ready = prepare(task)
    counts = draw_counts(ready.cells, replicate_keys(seed, LANES)[0], task.name)
    auprc, auroc = ready.score(counts)
    times = counts[ready.cells.of_sample]
    targets = np.asarray(task.targets)
    for m, scores in enumerate(map(np.asarray, task.scores)):
        for lane in lanes:
            rows = np.repeat(np.arange(targets.size), times[:, lane])
            assert auprc[m, lane] == pytest.approx(average_precision_score(targets[rows], scores[rows]), abs=TOLERANCE)
            assert auroc[m, lane] == pytest.approx(roc_auc_score(targets[rows], scores[rows]), abs=TOLERANCE)


def scores_with_ties(rng: np.random.Generator, targets: np.ndarray, kind: str) -> np.ndarray:
    smooth = 1 / (1 + np.exp(-rng.normal(size=targets.size) - 1.5 * targets))
    return {
        "none": smooth,
        "float32": smooth.astype(np.float32),
        "float16": smooth.astype(np.float16).astype(np.float32),
        "one decimal": np.round(smooth, 1),
        "two values": np.round(smooth),
        "constant": np.full(targets.size, 0.5),
        "saturated": np.clip(4 * smooth - 1.5, 0, 1),
        "negative and large": np.round(1e6 * (smooth - 0.5), -4),
    }[kind]


@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.97])
@pytest.mark.parametrize(
    "ties", ["none", "float32", "float16", "one decimal", "two values", "constant", "saturated", "negative and large"]
)
def test_draws_are_scored_as_scikit_learn_scores_repeated_samples(ties: str, prevalence: float) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(500) < prevalence).astype(int)
    check_against_scikit_learn(TaskVectors("t", targets, [scores_with_ties(rng, targets, ties)]), range(0, LANES, 7))


@st.composite
def small_tasks(draw: st.DrawFn) -> TaskVectors:
    n = draw(st.integers(2, 40))
    targets = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    levels = draw(st.integers(0, 8))
    vectors = [draw(st.lists(st.integers(-levels, levels), min_size=n, max_size=n)) for _ in range(2)]
    return TaskVectors("t", targets, vectors)


@given(small_tasks(), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_any_small_task_is_scored_as_scikit_learn_does(task: TaskVectors, seed: int) -> None:
    check_against_scikit_learn(task, range(0, LANES, 16), seed)


@given(small_tasks(), st.integers(2, 10))
@settings(max_examples=100, deadline=None)
def test_drawn_patients_bring_all_their_samples(task: TaskVectors, num_patients: int) -> None:
    patients = identity_keys(np.arange(len(task.targets)) % num_patients)
    task = TaskVectors("t", task.targets, task.scores, group_keys=patients)
    ready = prepare(task)
    counts = draw_counts(ready.cells, replicate_keys(0, LANES)[0], "t")
    times = counts[ready.cells.of_sample].astype(int)
    for key in np.unique(patients):
        assert len(np.unique(times[patients == key], axis=0)) == 1
    usable = np.flatnonzero((times[np.asarray(task.targets) == 0] > 0).any(axis=0))
    check_against_scikit_learn(task, usable[:4])


@given(small_tasks(), st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None)
def test_standardised_precision_is_scikit_learns_with_weighted_negatives(task: TaskVectors, prevalence: float) -> None:
    ready = prepare(TaskVectors("t", task.targets, task.scores, prevalence=prevalence))
    counts = draw_counts(ready.cells, replicate_keys(1, LANES)[0], "t")
    times = counts[ready.cells.of_sample]
    positive = np.asarray(task.targets) == 1
    auprc, auroc = ready.score(counts)
    share = positive.mean()
    weight = times * np.where(positive, prevalence / share, (1 - prevalence) / (1 - share))[:, None]
    for lane in range(0, LANES, 16):
        expected = average_precision_score(positive, task.scores[0], sample_weight=weight[:, lane])
        assert auprc[0, lane] == pytest.approx(expected, abs=TOLERANCE)
        expected = roc_auc_score(positive, task.scores[0], sample_weight=times[:, lane])
        assert auroc[0, lane] == pytest.approx(expected, abs=TOLERANCE)


def test_a_large_test_set_is_scored_to_the_last_digits() -> None:
    rng = np.random.default_rng(3)
    targets = rng.random(100_000) < 0.1
    scores = [rng.normal(size=targets.size) + targets, np.round(rng.normal(size=targets.size) + targets, 2)]
    check_against_scikit_learn(TaskVectors("t", targets, scores), range(0, LANES, 32))


def draws(num_positive: int, num_negative: int, num_replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells, replicates) counts of positives and of negatives."""
    positive = np.arange(num_positive + num_negative) < num_positive
    cells = cells_of(positive, task="t")
    blocks = [draw_counts(cells, keys, "t") for keys in replicate_keys(0, num_replicates)]
    counts = np.concatenate(blocks, axis=1)[cells.of_sample].astype(int)
    return counts[positive], counts[~positive]


@pytest.mark.parametrize("num_cells", [2, 3, 4])
def test_draws_are_multinomial(num_cells: int) -> None:
    """Every possible table of counts as often as it should be: chi-square over all of them."""
    counts, _ = draws(num_cells, 3, 64_000)
    tables = [table for table in product(range(num_cells + 1), repeat=num_cells) if sum(table) == num_cells]
    expected = stats.multinomial(num_cells, [1 / num_cells] * num_cells).pmf(tables) * counts.shape[1]
    place = {table: index for index, table in enumerate(tables)}
    found = np.bincount([place[tuple(column)] for column in counts.T], minlength=len(tables))
    assert stats.chisquare(found, expected).pvalue > 0.001


def test_large_draws_have_the_multinomials_margins_and_no_pattern() -> None:
    counts, others = draws(2000, 500, 6400)
    assert (counts.sum(axis=0) == 2000).all()
    assert (others.sum(axis=0) == 500).all()
    expected = stats.binom(2000, 1 / 2000).pmf(np.arange(6)) * counts.size
    found = np.bincount(counts.ravel(), minlength=6)
    assert stats.chisquare([*found[:6], found[6:].sum()], [*expected, counts.size - expected.sum()]).pvalue > 0.001
    # Cells within a draw share one sum: correlation -1 / n. Draws know nothing of each other.
    limit = 5 / np.sqrt(6400)
    cells = np.corrcoef(counts[:200])[np.triu_indices(200, 1)]
    lanes = np.corrcoef(counts.T[:200])[np.triu_indices(200, 1)]
    assert np.abs(cells).max() < limit
    assert np.abs(cells.mean() + 1 / 2000) < 5 / np.sqrt(6400 * cells.size)
    assert np.abs(lanes).max() < 5 / np.sqrt(2000)
    assert np.abs(lanes.mean()) < 5 / np.sqrt(2000 * lanes.size)
    assert np.abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 5 / np.sqrt(2000)


def test_a_sample_is_drawn_alike_in_every_task_it_stands_in() -> None:
    rng = np.random.default_rng(0)
    names = np.array([f"image-{i}" for i in range(4000)])
    keys = identity_keys(names)
    lanes = replicate_keys(0, LANES)[0]
    counts = []
    for task in ("a", "b"):
        cells = cells_of(rng.random(4000) < 0.2, task=task, sample_keys=keys)
        counts.append(draw_counts(cells, lanes, task)[cells.of_sample].ravel().astype(float))
    # Only the balls that settle the sums of the classes, about 3 % here, are each task's own.
    assert np.corrcoef(*counts)[0, 1] > 0.95
    cells = [cells_of(rng.random(4000) < 0.2, task=task) for task in ("a", "b")]
    apart = [draw_counts(c, lanes, task)[c.of_sample].ravel().astype(float) for c, task in zip(cells, ("a", "b"), strict=True)]
    assert np.abs(np.corrcoef(*apart)[0, 1]) < 0.01


def test_identity_keys_depend_on_the_id_alone() -> None:
    short, long = identity_keys(["a", "ab", "ba"]), identity_keys(["a", "ab", "a much longer name"])
    assert short[:2].tolist() == long[:2].tolist()
    assert len({*short.tolist(), *long.tolist()}) == 4
    assert identity_keys([7, 70]).tolist() == identity_keys(["7", "70"]).tolist()
    many = identity_keys(np.arange(200_000))
    assert np.unique(many).size == many.size
