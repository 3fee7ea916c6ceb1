"""An experiment and its output folder: plan it, run it, say where it stands, write its answer page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from radscale.errors import InputError
from radscale.execution import ArtifactStore, RunSummary, Step, StepState, run_steps
from radscale.execution.display import RunDisplay
from radscale.execution.runner import topological_order
from radscale.experiment.design import Design
from radscale.experiment.settings import DatasetSource, LoadedExperiment

if TYPE_CHECKING:
    from radscale.experiment.costs import RunCost

# Imported once by the fork server, so that every step starts with them in memory.
PRELOAD = (
    "radscale.pretraining",
    "radscale.probing",
    "radscale.segmentation",
    "radscale.analysis.summary",
    "torch.utils.flop_counter",
)
STAGES = (
    "phantom",
    "datasets",
    "extraction",
    "agreement",
    "open_weights",
    "budget",
    "pretraining",
    "masks",
    "probing",
    "segmentation",
    "analysis",
    "pictures",
    "similarity",
)


@dataclass(frozen=True)
class StageTime:
    """What a stage cost: summed over its steps, which may have run side by side."""

    stage: str
    num_steps: int
    seconds: float
    peak_memory_gb: float


class Study:
    """A loaded experiment with a place for its results."""

    def __init__(self, loaded: LoadedExperiment, out: Path | None = None) -> None:
        self.design = Design(loaded)
        self.settings = loaded.settings
        self.store = ArtifactStore(out or Path("runs") / loaded.settings.name)

    @cached_property
    def steps(self) -> list[Step]:
        return topological_order(self.design.targets)

    def check(self, *, sources: bool = True) -> None:
        """Find every mistake that can be found before anything starts; a plan does without the sources.

        Raises:
            InputError: a setting that a stage refuses, or a source that is not there.
        """
        from radscale.experiment.checks import check_feature_caches, check_settings

        if sources:
            self._check_sources()
        check_settings(self.design)
        if sources:
            check_feature_caches(self.design)
        self._check_sizes()

    def _check_sources(self) -> None:
        for name in self.settings.datasets:
            step, path = self.design.datasets[name], self.design.source_path(name)
            if path is not None and self.store.record(step) is None and not path.is_dir():
                where = self.design.locate([("datasets", name, "source")])
                raise InputError(f"{where}: {path} is not a folder; correct the path")
        for name, weights in self.settings.open_weights.items():
            if weights.load is not None and self.store.record(self.design.open_weights[name]) is None:
                path = self.design.weights_path(name)
                if not path.exists():
                    where = self.design.locate([("open_weights", name, "weights")])
                    raise InputError(f"{where}: {path} does not exist; correct the path")

        for name in self.settings.segmentations:
            path = self.design.mask_path(name)
            if path is not None and not path.exists() and self.store.record(self.design.masks[name]) is None:
                where = self.design.locate([("segmentations", name, "masks")])
                raise InputError(f"{where}: {path} does not exist; correct the path")

    def _check_sizes(self) -> None:
        """The largest subset fits the data as far as they can be counted; their ingest checks it to the image."""
        from radscale.datasets import Dataset

        name, largest = self.settings.pretraining_dataset, self.settings.subset_sizes[-1]
        step, splits = self.design.datasets[name], self.settings.datasets[name].splits
        if self.store.state(step).status == "done":
            found, what = Dataset(self.store.path(step)).num_train, "training images"
        else:
            count = self.design.count_images(name)
            if count is None:
                return
            found, what = count, "images"
            if splits.train * count < largest <= count and not isinstance(self.settings.datasets[name].source, DatasetSource):
                # Patients, not images, are split: the share is only near to what is asked for.
                found, what = round(splits.train * count), "training images to be expected"
                if largest < 1.1 * found:
                    return
        if found < largest:
            raise InputError(
                f"{self.design.locate([('subset_sizes',)])}: {largest:,} images are more than the {found:,} {what} of "
                f"'{name}'; take smaller sizes or a larger training share"
            )

    def run(self, console: Console, *, num_workers: int, rebuild: bool = False, only: str | None = None) -> RunSummary:
        """Do what is missing. Nothing that is done is done again."""
        self.check()
        self.store.claim(self.settings.name)
        targets = self._targets(only)
        steps = self._with_secret(topological_order(targets))
        from radscale.experiment.costs import CostModel

        missing = [step for step in steps if self.store.state(step).status != "done"]
        seconds = CostModel(self.design).seconds if missing else {}
        with RunDisplay(console, missing, seconds) as display:
            return run_steps(steps, self.store, display=display, num_workers=num_workers, rebuild=rebuild, preload=PRELOAD)

    def _targets(self, only: str | None) -> Sequence[Step]:
        if only is None:
            return self.design.targets
        if only not in STAGES:
            raise InputError(f"--only {only}: no such stage; allowed: {', '.join(STAGES)}")
        targets = [step for step in self.steps if step.stage == only]
        if not targets:
            raise InputError(f"--only {only}: this experiment has no step of that stage")
        return targets

    def _with_secret(self, steps: list[Step]) -> list[Step]:
        """Say where the pseudonym secret lies: beside the outputs, never in one."""
        for step in steps:
            if step.stage in ("datasets", "masks"):
                step.options["secret"] = str(self.store.root / "secret.key")
            if step.name == f"datasets/{self.settings.pretraining_dataset}":
                step.options["needed_train"] = self.settings.subset_sizes[-1]
        return steps

    def states(self) -> dict[str, StepState]:
        self.store.check_owner(self.settings.name)
        return {step.name: self.store.state(step) for step in self.steps}

    def stage_times(self) -> list[StageTime]:
        """Seconds and memory of the finished steps, by stage, from their records."""
        times = []
        for stage in STAGES:
            records = [record for step in self.steps if step.stage == stage and (record := self.store.record(step))]
            if records:
                times.append(
                    StageTime(
                        stage,
                        len(records),
                        sum(record.seconds for record in records),
                        max(record.peak_memory_gb for record in records),
                    )
                )
        return times

    def report(self) -> Path:
        """Write the answer page from what is done.

        Raises:
            InputError: if the analysis is not done yet.
        """
        from radscale.experiment.report import write_study_report

        self.store.check_owner(self.settings.name)
        state = self.store.state(self.design.analysis)
        if state.status not in ("done", "incomplete"):
            raise InputError(
                f"{self.settings.name}: the analysis is {state.status}; do `radscale run` first (see `radscale status`)"
            )
        return write_study_report(self)

    def costs(self) -> "list[RunCost]":
        from radscale.experiment.costs import planned_costs

        return planned_costs(self.design, self.store)


def default_workers() -> int:
    """One worker per two cores on large machines, one per core on small ones."""
    cores = os.cpu_count() or 1
    return cores if cores <= 4 else max(4, cores // 2)
