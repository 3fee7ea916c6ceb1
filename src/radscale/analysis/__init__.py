"""Statistics of prediction tables: paired bootstrap, scaling laws, subgroups. Pure; knows no images, models or stages.

May import `radscale.metrics`, numpy, scipy, numba and pyarrow.
"""

from radscale.analysis.bootstrap import ArmReplicates, BootstrapResult, Difference, TaskScores, bootstrap_arms, paired_bootstrap
from radscale.analysis.data_plan import TaskPlan, plan_data
from radscale.analysis.fit_comparison import compare_exponents, crossover, mean_over_seeds, overtaking_size, size_that_beats
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
    "TaskPlan",
    "TaskScores",
    "bootstrap_arms",
    "compare_exponents",
    "crossover",
    "delong",
    "fit_scaling_law",
    "holm",
    "mean_over_seeds",
    "overtaking_size",
    "paired_bootstrap",
    "permutation_test",
    "plan_data",
    "read_predictions",
    "size_that_beats",
    "stratify",
]
