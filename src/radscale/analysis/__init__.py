"""Statistics of prediction tables: paired bootstrap, scaling laws, subgroups. Pure; knows no images, models or stages.

May import `radscale.metrics`, numpy, scipy, numba and pyarrow.
"""

from radscale.analysis.bootstrap import ArmReplicates, BootstrapResult, Difference, TaskScores, bootstrap_arms, paired_bootstrap
from radscale.analysis.records import PREDICTION_SCHEMA, read_predictions
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.analysis.significance import delong, holm, permutation_test
from radscale.analysis.stratification import stratify

__all__ = [
    "PREDICTION_SCHEMA",
    "ArmReplicates",
    "BootstrapResult",
    "Difference",
    "ScalingLawFit",
    "TaskScores",
    "bootstrap_arms",
    "delong",
    "fit_scaling_law",
    "holm",
    "paired_bootstrap",
    "permutation_test",
    "read_predictions",
    "stratify",
]
