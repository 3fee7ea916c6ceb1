"""Metrics as pure functions of arrays. Knows no files; may import numpy, scipy and `radscale.errors`."""

from radscale.metrics.classification import average_precision, roc_auc
from radscale.metrics.continuity import curve_continuity
from radscale.metrics.segmentation import dice_score, hausdorff_distance

__all__ = ["average_precision", "curve_continuity", "dice_score", "hausdorff_distance", "roc_auc"]
