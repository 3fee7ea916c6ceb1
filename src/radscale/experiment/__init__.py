"""A study as data: the experiment file, the grid of runs it stands for, and the steps that do them.

May import every stage and service; only the command line imports it. Importing this package loads no torch.
"""

from radscale.experiment.design import Design, PlannedRun
from radscale.experiment.settings import Experiment, LoadedExperiment, load_experiment, recipe_names

__all__ = ["Design", "Experiment", "LoadedExperiment", "PlannedRun", "load_experiment", "recipe_names"]
