"""Statistics of prediction tables: paired bootstrap, scaling laws, subgroups. Pure; knows no images, models or stages.

May import `radscale.metrics`, numpy, scipy, numba and pyarrow.
"""

from radscale.analysis.bootstrap import BootstrapResult, Difference, paired_bootstrap
from radscale.analysis.records import PREDICTION_SCHEMA, read_predictions
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law

__all__ = [
    "PREDICTION_SCHEMA",
    "BootstrapResult",
    "Difference",
    "ScalingLawFit",
    "fit_scaling_law",
    "paired_bootstrap",
    "read_predictions",
]
