"""Metrics as pure functions of arrays. Knows no files; may import numpy, scipy and `radscale.errors`."""

from radscale.metrics.classification import average_precision, roc_auc
from radscale.metrics.continuity import curve_continuity
from radscale.metrics.segmentation import (
    centreline_dice,
    component_error,
    dice_score,
    hausdorff_distance,
    tip_distance,
)
from radscale.metrics.skeleton import skeletonise

__all__ = [
    "average_precision",
    "centreline_dice",
    "component_error",
    "curve_continuity",
    "dice_score",
    "hausdorff_distance",
    "roc_auc",
    "skeletonise",
    "tip_distance",
]
