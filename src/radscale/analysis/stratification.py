"""Subgroups (paper, A.9): the same scores within strata, with what is needed to tell a gap in skill from one in prevalence."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from radscale.analysis.bootstrap import (
    ArmReplicates,
    Difference,
    Estimate,
    TaskScores,
    bootstrap_arms,
    summarise_differences,
)
from radscale.errors import InputError

AGE_BOUNDS = (20, 30, 40, 50, 60, 70, 80, 90)
SMALL_POSITIVES = 20
"""A stratum with fewer positives per task cannot carry a comparison: it is flagged, and shown all the same."""
UNKNOWN = "unknown"
NAMED_STRATA = ("sex", "manufacturer", "care_setting", "ethnicity")


def age_group(age_years: float | None) -> str | None:
    """The paper's age groups, in decades: `<20`, `20-29`, ..., `90+`."""
    if age_years is None or math.isnan(age_years):
        return None
    if age_years < AGE_BOUNDS[0]:
        return f"<{AGE_BOUNDS[0]}"
    if age_years >= AGE_BOUNDS[-1]:
        return f"{AGE_BOUNDS[-1]}+"
    decade = int(age_years) // 10 * 10
    return f"{decade}-{decade + 9}"


@dataclass(frozen=True)
class StratumScore:
    """One arm in one stratum: means over the tasks that have both classes there."""

    stratum: str
    arm: str
    num_samples: int
    """Of the task with the most samples here."""
    num_patients: int | None
    """None: patients are not known."""
    num_positives: int
    """Summed over the tasks that count, or over all if none does."""
    num_tasks: int
    left_out: dict[str, str]
    """{task: reason} of tasks without both classes here."""
    prevalence: float = math.nan
    auprc: Estimate | None = None
    """None: no task has both classes in this stratum."""
    standardised_auprc: Estimate | None = None
    """AUPRC with negatives weighted so that each task has its prevalence of the whole test set: comparable between strata."""
    auroc: Estimate | None = None
    to_reference: Difference | None = None
    """AUPRC of the arm minus that of the reference arm, on the same draws of this stratum."""
    to_rest: Difference | None = None
    """Standardised AUPRC in this stratum minus that in all other samples, over the tasks with both classes in both."""

    @property
    def small(self) -> bool:
        """Too few positives to carry a comparison."""
        return self.num_positives < SMALL_POSITIVES * max(self.num_tasks, 1)


def stratify(
    tasks: Sequence[TaskScores],
    strata: Sequence[np.ndarray],
    *,
    reference: str | None = None,
    against_rest: bool = False,
    num_replicates: int = 500,
    seed: int = 0,
    by_patient: bool = False,
    level: float = 0.95,
    num_workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[StratumScore]:
    """Scores of every arm in every stratum, each stratum in turn.

    Args:
        tasks: test sets with the scores of all arms; no two with one name.
        strata: stratum of each sample of each task, (n,) of str; "" is unknown and forms a stratum of that name.
        reference: arm to subtract within each stratum, usually the open weights.
        against_rest: compare each stratum with the rest.
        num_replicates: bootstrap samples.
        seed: decides all draws.
        by_patient: draw whole patients.
        level: of the intervals.
        num_workers: threads; the numbers do not depend on it.
        progress: called with (strata done, all, what).

    Raises:
        InputError: an unknown reference, lengths that differ, fewer than two strata.
    """
    arms = list(tasks[0].scores)
    if reference is not None and reference not in arms:
        raise InputError(f"reference '{reference}' is not among the arms {', '.join(arms)}")
    for task, names in zip(tasks, strata, strict=True):
        if len(names) != np.size(task.targets):
            raise InputError(f"task '{task.task}': {len(names)} strata for {np.size(task.targets)} samples; give one for each")
    found = sorted(
        {str(name) for names in strata for name in np.unique(names)},
        key=lambda name: (name == "", not name.startswith("<"), name),
    )
    rows = []

    def bootstrap(chosen: Sequence[TaskScores]) -> dict[str, ArmReplicates]:
        return bootstrap_arms(
            chosen, num_replicates=num_replicates, seed=seed, by_patient=by_patient, level=level, num_workers=num_workers
        )

    for index, stratum in enumerate(found):
        if progress is not None:
            progress(index, len(found), stratum or UNKNOWN)
        inside = [_part(task, names == stratum) for task, names in zip(tasks, strata, strict=True)]
        usable = [part for part in inside if _reason(part) is None]
        facts: dict[str, Any] = {
            "stratum": stratum or UNKNOWN,
            "num_samples": max(np.size(part.targets) for part in inside),
            "num_patients": _num_patients(inside),
            "num_positives": sum(int(np.sum(part.targets)) for part in usable or inside),
            "num_tasks": len(usable),
            "left_out": {part.task: reason for part in inside if (reason := _reason(part)) is not None},
        }
        if not usable:
            rows += [StratumScore(arm=arm, **facts) for arm in arms]
            continue
        prevalence = float(np.mean([np.mean(part.targets) for part in usable]))
        plain = bootstrap(usable)
        standardised = bootstrap(_standardised(usable, tasks))["auprc"]
        rest = None
        if against_rest:
            outside = [_part(task, names != stratum) for task, names in zip(tasks, strata, strict=True)]
            names_inside = {part.task for part in usable}
            both = [part for part in outside if _reason(part) is None and part.task in names_inside]
            rest = bootstrap(_standardised(both, tasks))["auprc"] if both else None
        for arm in arms:
            rows.append(
                StratumScore(
                    arm=arm,
                    **facts,
                    prevalence=prevalence,
                    auprc=plain["auprc"].estimate(arm),
                    standardised_auprc=standardised.estimate(arm),
                    auroc=plain["auroc"].estimate(arm),
                    to_reference=plain["auprc"].difference(arm, reference).macro if reference not in (None, arm) else None,
                    to_rest=_difference_to_rest(standardised, rest, arm) if rest is not None else None,
                )
            )
    return rows


def _part(task: TaskScores, chosen: np.ndarray) -> TaskScores:
    return replace(
        task,
        targets=np.asarray(task.targets)[chosen],
        scores={arm: matrix[:, chosen] for arm, matrix in task.scores.items()},
        sample_keys=None if task.sample_keys is None else task.sample_keys[chosen],
        patient_keys=None if task.patient_keys is None else task.patient_keys[chosen],
    )


def _reason(part: TaskScores) -> str | None:
    """Why a task cannot be scored, or None."""
    num_samples, num_positives = np.size(part.targets), int(np.sum(part.targets))
    if num_samples == 0:
        return "no samples"
    if num_positives == 0:
        return "no positives"
    return "no negatives" if num_positives == num_samples else None


def _num_patients(parts: Sequence[TaskScores]) -> int | None:
    keys = [part.patient_keys for part in parts if part.patient_keys is not None]
    return np.unique(np.concatenate(keys)).size if keys else None


def _standardised(parts: Sequence[TaskScores], tasks: Sequence[TaskScores]) -> list[TaskScores]:
    overall = {task.task: float(np.mean(task.targets)) for task in tasks}
    return [replace(part, prevalence=overall[part.task]) for part in parts]


def _difference_to_rest(inside: ArmReplicates, rest: ArmReplicates, arm: str) -> Difference:
    shared = list(rest.drawn)
    drawn = np.mean([inside.drawn[task][arm] - rest.drawn[task][arm] for task in shared], axis=0)
    observed = float(np.mean([inside.observed[task][arm] - rest.observed[task][arm] for task in shared]))
    return summarise_differences(drawn, inside.level, observed)


def strata_of(metadata: Mapping[str, Sequence[object]]) -> dict[str, list[str]]:
    """Stratum of each sample for sex, age group, manufacturer, care setting and ethnicity, from those manifest columns that are
    given; "" if unknown."""
    ages = ["" if age is None else age_group(float(str(age))) or "" for age in metadata["age_years"]]
    named = {key: ["" if value is None else str(value) for value in metadata[key]] for key in NAMED_STRATA if key in metadata}
    return {"sex": named.pop("sex"), "age_group": ages, **named}
