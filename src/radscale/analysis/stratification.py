"""Subgroups (paper, A.9): the same scores within strata, with what is needed to tell a gap in skill from one in prevalence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radscale.analysis.bootstrap import bootstrap_average_precision
from radscale.metrics import average_precision, roc_auc

AGE_BOUNDS = (20, 30, 40, 50, 60, 70, 80, 90)
SMALL_POSITIVES = 20


def age_group(age_years: int | None) -> str | None:
    """The paper's age groups, in decades: `<20`, `20-29`, ..., `90+`."""
    if age_years is None:
        return None
    if age_years < AGE_BOUNDS[0]:
        return f"<{AGE_BOUNDS[0]}"
    if age_years >= AGE_BOUNDS[-1]:
        return f"{AGE_BOUNDS[-1]}+"
    decade = age_years // 10 * 10
    return f"{decade}-{decade + 9}"


@dataclass(frozen=True)
class StratumScore:
    """Averages over the tasks that have both classes in the stratum."""

    auprc: float
    low: float
    high: float
    auroc: float
    prevalence: float
    num_positives: int
    num_samples: int
    num_tasks: int

    @property
    def small(self) -> bool:
        """Fewer positives than can carry a comparison; shown all the same."""
        return self.num_positives < SMALL_POSITIVES * max(self.num_tasks, 1)


def score_stratum(
    targets: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], *, num_replicates: int, seed: int, name: str
) -> StratumScore | None:
    """Macro AUPRC with its bootstrap interval, AUROC and prevalence of one stratum; None if no task has both classes.

    Args:
        targets: {task: (n,)} of the stratum's samples.
        scores: {task: (seeds, n)}.
        num_replicates: bootstrap samples.
        seed: of the draws.
        name: of the stratum, part of the draws' key.
    """
    usable = [task for task, y in targets.items() if 0 < y.sum() < len(y)]
    if not usable:
        return None
    auprc = np.mean([[average_precision(targets[t], s) for s in scores[t]] for t in usable])
    auroc = np.mean([[roc_auc(targets[t], s) for s in scores[t]] for t in usable])
    replicates = np.mean(
        [
            bootstrap_average_precision(
                targets[t], scores[t], num_replicates=num_replicates, seed=seed, task=f"{name}/{t}", num_workers=1
            ).mean(axis=1)
            for t in usable
        ],
        axis=0,
    )
    low, high = np.percentile(replicates, [2.5, 97.5])
    positives = [int(targets[t].sum()) for t in usable]
    return StratumScore(
        auprc=float(auprc),
        low=float(low),
        high=float(high),
        auroc=float(auroc),
        prevalence=float(np.mean([targets[t].mean() for t in usable])),
        num_positives=sum(positives),
        num_samples=max(len(targets[t]) for t in usable),
        num_tasks=len(usable),
    )


def strata_of(metadata: Mapping[str, Sequence[object]]) -> dict[str, list[str | None]]:
    """Stratum of each sample for sex, age group, manufacturer and care setting, from manifest columns."""
    ages = [age_group(None if age is None else int(str(age))) for age in metadata["age_years"]]
    named = {
        key: [None if v in (None, "") else str(v) for v in metadata[key]] for key in ("sex", "manufacturer", "care_setting")
    }
    return {
        "sex": named["sex"],
        "age_group": ages,
        "manufacturer": named["manufacturer"],
        "care_setting": named["care_setting"],
    }
