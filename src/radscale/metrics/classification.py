"""Ranking metrics of binary classifiers, with scikit-learn's semantics."""

import numpy as np
from numpy.typing import ArrayLike

from radscale.errors import InputError


def check_binary(targets: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Targets as bool (n,) and predictions as float64 (n,).

    Raises:
        InputError: unequal lengths, targets other than 0 and 1, predictions that are not finite, or one class only.
    """
    y, p = np.asarray(targets), np.asarray(predictions, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise InputError(f"targets of shape {y.shape} and predictions of shape {p.shape}: give two vectors of one length")
    wrong = np.flatnonzero((y != 0) & (y != 1))
    if wrong.size:
        raise InputError(
            f"target {y[wrong[0]]} in row {wrong[0]} ({wrong.size} such rows); targets are 0 or 1, drop unknown ones"
        )
    infinite = np.flatnonzero(~np.isfinite(p))
    if infinite.size:
        raise InputError(
            f"prediction {p[infinite[0]]} in row {infinite[0]} ({infinite.size} such rows); predictions must be finite"
        )
    positive = y == 1
    if not 0 < positive.sum() < positive.size:
        raise InputError(f"{positive.sum()} positives among {positive.size} samples; both classes are needed")
    return positive, p


def average_precision(targets: ArrayLike, predictions: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Area under the precision-recall curve as a step function (AUPRC); equal predictions are one threshold.

    Args:
        targets: (n,) 0 or 1.
        predictions: (n,) larger means more likely positive.
        sample_weight: (n,) 0 or more; None weighs all alike.
    """
    positive, p = check_binary(targets, predictions)
    weight = np.ones(len(p)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    order = np.argsort(-p, kind="stable")
    sorted_p = p[order]
    ends = np.r_[np.flatnonzero(np.diff(sorted_p)), len(p) - 1]
    true = np.cumsum((weight * positive)[order])[ends]
    everything = np.cumsum(weight[order])[ends]
    with np.errstate(invalid="ignore"):
        precision = np.where(everything > 0, true / everything, 0.0)
    return float(np.sum(precision * np.diff(true, prepend=0.0)) / true[-1])


def roc_auc(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Probability that a positive is ranked above a negative, ties counted half (AUROC)."""
    positive, p = check_binary(targets, predictions)
    from scipy.stats import rankdata

    ranks = rankdata(p)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))
