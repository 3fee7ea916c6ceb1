import numpy as np
import pytest

from radscale.analysis import TaskScores, stratify
from radscale.analysis.resampling import identity_keys
from radscale.errors import InputError
from radscale.metrics import average_precision


def one_task(
    skill: tuple[float, float] = (1.5, 1.5), prevalence: tuple[float, float] = (0.05, 0.4)
) -> tuple[TaskScores, np.ndarray]:
    """Two strata of 4,000, with a model's skill and the prevalence in each."""
    rng = np.random.default_rng(0)
    second = np.arange(8000) >= 4000
    targets = rng.random(8000) < np.where(second, prevalence[1], prevalence[0])
    good = rng.normal(size=(2, 8000)) + np.where(second, skill[1], skill[0]) * targets
    poor = rng.normal(size=(1, 8000)) + 0.5 * targets
    keys = identity_keys(np.arange(8000))
    return TaskScores("t", targets, {"good": good, "poor": poor}, keys, identity_keys(np.arange(8000) // 2)), np.where(
        second, "B", "A"
    )


def test_a_gap_in_prevalence_is_not_taken_for_one_in_skill() -> None:
    task, strata = one_task()
    a, _, b, _ = stratify([task], [strata], against_rest=True, reference="poor", num_replicates=200)
    assert (a.stratum, a.arm, b.stratum) == ("A", "good", "B")
    assert b.auprc.low > a.auprc.high + 0.1  # AUPRC says that B is much better ...
    assert abs(a.standardised_auprc.observed - b.standardised_auprc.observed) < 0.06  # ... and it is not
    assert a.to_rest.low < 0 < a.to_rest.high
    assert a.to_reference.low > 0
    assert abs(a.auroc.observed - b.auroc.observed) < 0.03


def test_a_gap_in_skill_is_found() -> None:
    task, strata = one_task(skill=(0.8, 2.0), prevalence=(0.2, 0.2))
    a, _ = (
        row for row in stratify([task], [strata], against_rest=True, num_replicates=100, by_patient=True) if row.arm == "good"
    )
    assert a.to_rest.high < -0.1
    assert a.num_patients == 2000


def test_scores_are_those_of_the_stratum_and_standardisation_is_a_weight() -> None:
    task, strata = one_task()
    (row,) = (r for r in stratify([task], [strata], num_replicates=20) if (r.stratum, r.arm) == ("A", "poor"))
    inside = strata == "A"
    targets, scores = task.targets[inside], task.scores["poor"][0, inside]
    assert row.auprc.observed == pytest.approx(average_precision(targets, scores), abs=1e-12)
    overall, here = task.targets.mean(), targets.mean()
    weight = np.where(targets, overall / here, (1 - overall) / (1 - here))
    assert row.standardised_auprc.observed == pytest.approx(average_precision(targets, scores, weight), abs=1e-12)
    assert row.prevalence == pytest.approx(here)
    assert not row.small


def test_small_strata_and_those_without_a_class_are_shown() -> None:
    task, _ = one_task()
    strata = np.full(8000, "rest", dtype="<U8")
    strata[:40] = "few"
    strata[np.flatnonzero(task.targets)[-5:]] = "ill"
    rows = {row.stratum: row for row in stratify([task], [strata], num_replicates=20) if row.arm == "good"}
    assert rows["ill"].left_out == {"t": "no negatives"}
    assert rows["ill"].auprc is None
    assert rows["ill"].num_positives == 5
    assert rows["few"].small
    assert rows["few"].auprc is not None
    assert rows["rest"].num_positives == task.targets[40:].sum() - 5


def test_what_cannot_be_stratified_is_refused() -> None:
    task, strata = one_task()
    with pytest.raises(InputError, match="reference 'mine' is not among the arms good, poor"):
        stratify([task], [strata], reference="mine")
    with pytest.raises(InputError, match="7999 strata for 8000 samples"):
        stratify([task], [strata[1:]])
