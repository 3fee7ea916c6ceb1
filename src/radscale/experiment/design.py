"""The grid of an experiment, enumerated before anything starts: every run as a step with its settings and inputs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radscale.errors import InputError
from radscale.execution import Step
from radscale.experiment.settings import (
    OWN_WORDS,
    Arm,
    DatasetSource,
    DicomSource,
    Experiment,
    ImagesSource,
    LoadedExperiment,
    OpenWeights,
    PhantomSource,
)

if TYPE_CHECKING:
    from radscale.datasets.tables import CsvTable

STEPS = "radscale.experiment.steps"
# Raised when the meaning of a stage changes: what an older version made does not count as done.
VERSIONS = {
    "phantom": 4,
    "datasets": 5,
    "extraction": 2,
    "agreement": 2,
    "open_weights": 3,
    "budget": 2,
    "pretraining": 5,
    "probing": 2,
    "masks": 1,
    "segmentation": 1,
    "analysis": 4,
    "pictures": 1,
    "similarity": 2,
}
WITH_NETWORKS = ("open_weights", "pretraining", "probing", "segmentation", "similarity")


@dataclass(frozen=True)
class PlannedRun:
    """One encoder of the study: open weights (size 0) or an arm continued on a subset."""

    arm: str
    objective: str
    subset_size: int
    replicate: int
    encoder: Step
    probe: Step
    segmentation: Step | None
    """None: the study has no masks."""

    @property
    def steps(self) -> "list[Step]":
        """The encoder, then what evaluates it."""
        return [step for step in (self.encoder, self.probe, self.segmentation) if step is not None]


class Design:
    """Steps of an experiment. Building it reads and starts nothing."""

    def __init__(self, loaded: LoadedExperiment) -> None:
        self.settings: Experiment = loaded.settings
        self.locate = loaded.locate
        self._resolve = loaded.resolve

    def source_path(self, dataset: str) -> Path | None:
        """Where a dataset's files are; None for a phantom."""
        source = self.settings.datasets[dataset].source
        if isinstance(source, PhantomSource):
            return None
        key = {DicomSource: "archive", ImagesSource: "folder", DatasetSource: "path"}[type(source)]
        return self._resolve(("datasets", dataset, "source", key), getattr(source, key))

    def weights_path(self, name: str) -> Path:
        """Where loaded open weights are."""
        return self._resolve(("open_weights", name, "weights"), str(self.settings.open_weights[name].weights))

    def _step(self, *, name: str, **fields: Any) -> Step:
        stage = name.split("/")[0]
        num_threads = self.settings.num_threads if stage in WITH_NETWORKS else 1
        return Step(name=name, version=VERSIONS[stage], num_threads=num_threads, **fields)

    # --- data -----------------------------------------------------------------------------------------------------

    @cached_property
    def archives(self) -> dict[str, Step]:
        """Phantom hospitals, by dataset."""
        return {
            name: self._step(
                name=f"phantom/{name}",
                function=f"{STEPS}:make_phantom",
                config={
                    "hospital": dataset.source.hospital,
                    "num_patients": dataset.source.num_patients,
                    "seed": dataset.source.seed,
                    **dataset.source.settings,
                },
                slots=0,
                description=f"phantom hospital '{dataset.source.hospital}', {dataset.source.num_patients} patients",
            )
            for name, dataset in self.settings.datasets.items()
            if isinstance(dataset.source, PhantomSource)
        }

    @cached_property
    def datasets(self) -> dict[str, Step]:
        return {name: self._dataset(name) for name in self.settings.datasets}

    def _dataset(self, name: str) -> Step:
        dataset = self.settings.datasets[name]
        source = dataset.source
        path = self.source_path(name)
        if isinstance(source, DatasetSource):
            assert path is not None
            return self._step(
                name=f"datasets/{name}",
                function=f"{STEPS}:link_dataset",
                config={"kind": "dataset"},
                external={"manifest": path / "manifest.parquet"},
                options={"dataset": str(path)},
                description="dataset made by radscale ingest",
            )
        config: dict[str, Any] = {
            "image_size_px": dataset.image_size_px or self.settings.image_size_px,
            "train_fraction": dataset.splits.train,
            "validation_fraction": dataset.splits.validation,
            "test_fraction": dataset.splits.test,
            "split_seed": self.settings.seed,
            "num_replicates": max(self.settings.num_replicates(size) for size in self.settings.subset_sizes),
            "public": self._is_public(name),
        }
        inputs: dict[str, Step] = {}
        external: dict[str, Path] = {}
        if isinstance(source, PhantomSource):
            config |= {"kind": "dicom", "labels_csv": "truth/labels.csv", "labels_engine": "truth"}
            inputs["source"] = self.archives[name]
        elif isinstance(source, DicomSource):
            config |= {"kind": "dicom", **source.settings}
        elif isinstance(source, ImagesSource):
            config |= {"kind": "images", **source.settings}
        if path is not None:
            external["source"] = path
        return self._step(
            name=f"datasets/{name}",
            function=f"{STEPS}:ingest_dataset",
            config=config,
            inputs=inputs,
            external=external,
            slots=0,
            description="archive -> de-identified dataset",
        )

    @cached_property
    def labels(self) -> dict[str, Step]:
        """Label tables by dataset: extracted from reports, or the dataset's own."""
        return {
            name: self._step(
                name=f"extraction/{name}",
                function=f"{STEPS}:extract_labels",
                config={"engine": "rules"},
                inputs={"dataset": self.datasets[name]},
                description="reports -> findings, lines and tubes (rules)",
            )
            for name, dataset in self.settings.datasets.items()
            if dataset.labels == "rules"
        }

    def image_table(self, dataset: str) -> "CsvTable | None":
        """The table of a folder of images, if it is there and can be read: whoever ingests it says what is wrong with it."""
        from radscale.datasets.tables import read_csv

        source, path = self.settings.datasets[dataset].source, self.source_path(dataset)
        if not isinstance(source, ImagesSource) or path is None:
            return None
        try:
            return read_csv(path / source.settings.get("table", "metadata.csv"), source.settings.get("encoding"))
        except (OSError, InputError):
            return None

    def count_images(self, dataset: str) -> int | None:
        """Images that a dataset has, or the rows of its table; None if nothing can be counted without work."""
        if isinstance(self.settings.datasets[dataset].source, DatasetSource):
            import pyarrow.parquet as pq

            try:
                return int(pq.read_metadata(self.datasets[dataset].external["manifest"]).num_rows)
            except OSError:
                return None
        table = self.image_table(dataset)
        return None if table is None else len(table.rows)

    def known_tasks(self, dataset: str) -> list[str] | None:
        """Tasks of a dataset's labels, as far as they are known before anything is made."""
        settings = self.settings.datasets[dataset]
        if settings.labels == "rules":
            from radscale.probing.task_sets import EXTRACTED

            return list(EXTRACTED)
        if isinstance(settings.source, DatasetSource):
            from radscale.datasets import read_label_table

            try:
                return sorted(set(read_label_table(Path(self.datasets[dataset].options["dataset"]))["task"].to_pylist()))
            except InputError:
                return None
        table = self.image_table(dataset)
        if table is None or not isinstance(settings.source, ImagesSource):
            return None
        from radscale.datasets.ingest import label_tasks

        labels = settings.source.settings.get("labels", {})
        return None if set(labels) - set(table.columns) else label_tasks(table.rows, labels)

    def label_step(self, dataset: str) -> Step:
        """The step whose output holds the labels that tasks and label texts of `dataset` use."""
        return self.labels.get(dataset, self.datasets[dataset])

    # --- encoders -------------------------------------------------------------------------------------------------

    @cached_property
    def open_weights(self) -> dict[str, Step]:
        return {name: self._open_weights(name, weights) for name, weights in self.settings.open_weights.items()}

    def _open_weights(self, name: str, weights: OpenWeights) -> Step:
        if weights.load is not None:
            return self._step(
                name=f"open_weights/{name}",
                function=f"{STEPS}:import_open_weights",
                config={"model": weights.load, "image_size_px": weights.image_size_px},
                external={"weights": self.weights_path(name)},
                description=f"import {weights.load} weights",
            )
        dataset = str(weights.pretrain_on)
        return self._step(
            name=f"open_weights/{name}",
            function=f"{STEPS}:pretrain_open_weights",
            config={
                "pretraining": self.pretraining_settings(str(weights.objective), weights.settings),
                "architecture": weights.architecture,
                "epochs": weights.epochs,
            },
            inputs={"dataset": self.datasets[dataset], "labels": self.label_step(dataset)},
            description=f"{weights.objective} from scratch on '{dataset}'",
        )

    def pretraining_settings(self, objective: str, overrides: dict[str, Any]) -> dict[str, Any]:
        """Settings of a pretraining run without its subset and budget."""
        settings = merge(self.settings.pretraining, overrides)
        return {"seed": self.settings.seed, **with_preset(settings), "objective": objective}

    @cached_property
    def budgets(self) -> dict[str, Step]:
        """Per arm: what one image of it costs, and one of the arm in whose epochs the budget is given."""
        steps = {}
        for name, arm in self.settings.arms.items():
            reference = self.settings.budget.reference or name
            reference_arm = self.settings.arms[reference]
            steps[name] = self._step(
                name=f"budget/{name}",
                function=f"{STEPS}:measure_cost",
                config={
                    "arm": self.pretraining_settings(arm.objective, arm.settings),
                    "reference": self.pretraining_settings(reference_arm.objective, reference_arm.settings),
                },
                inputs={"arm": self.open_weights[arm.start], "reference": self.open_weights[reference_arm.start]},
                description=f"FLOPs of one image, {name} and {reference}",
            )
        return steps

    def _continue(self, name: str, arm: Arm, size: int, replicate: int) -> Step:
        dataset = self.settings.pretraining_dataset
        budget = self.settings.budget
        return self._step(
            name=f"pretraining/{name}/n={size}/replicate={replicate}",
            function=f"{STEPS}:continue_pretraining",
            config={
                "pretraining": {
                    **self.pretraining_settings(arm.objective, arm.settings),
                    "subset_size": size,
                    "replicate": replicate,
                },
                "budget": budget.model_dump(exclude_none=True, exclude={"reference"}),
            },
            inputs={
                "dataset": self.datasets[dataset],
                "labels": self.label_step(dataset),
                "init": self.open_weights[arm.start],
                "budget": self.budgets[name],
            },
            description=f"{arm.objective} from {arm.start} on {size:,} images",
        )

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _probe(self, arm: str, objective: str, size: int, replicate: int, encoder: Step) -> Step:
        name = f"probing/{arm}" + (f"/n={size}/replicate={replicate}" if size else "")
        inputs = {"encoder": encoder}
        plans = []
        for dataset in dict.fromkeys(evaluation.dataset for evaluation in self.settings.evaluations.values()):
            inputs |= {f"dataset:{dataset}": self.datasets[dataset], f"labels:{dataset}": self.label_step(dataset)}
            chosen = {k: v for k, v in self.settings.evaluations.items() if v.dataset == dataset}
            probe = self.settings.probe
            for evaluation in chosen.values():
                probe = merge(probe, evaluation.probe)
            plans.append({"dataset": dataset, "task_sets": {k: v.tasks for k, v in chosen.items()}, "probe": probe})
        return self._step(
            name=name,
            function=f"{STEPS}:probe_encoder",
            config={
                "arm": arm,
                "objective": objective,
                "subset_size": size,
                "replicate": replicate,
                "plans": plans,
            },
            inputs=inputs,
            description="frozen encoder -> prediction tables",
        )

    def mask_path(self, name: str) -> Path | None:
        """Where a segmentation's masks are; None for those of a phantom."""
        masks = self.settings.segmentations[name].masks
        return None if masks is None else self._resolve(("segmentations", name, "masks"), masks)

    @cached_property
    def masks(self) -> dict[str, Step]:
        """Mask tables, by segmentation."""
        steps = {}
        for name, segmentation in self.settings.segmentations.items():
            path = self.mask_path(name)
            inputs = {"dataset": self.datasets[segmentation.dataset]}
            if path is None:
                inputs["source"] = self.archives[segmentation.dataset]
            steps[name] = self._step(
                name=f"masks/{name}",
                function=f"{STEPS}:make_masks",
                config={
                    "line_width": segmentation.line_width,
                    "skip_outside": segmentation.skip_outside,
                    "public": self._is_public(segmentation.dataset),
                },
                inputs=inputs,
                external={} if path is None else {"source": path},
                slots=0,
                description="masks of the images of a dataset",
            )
        return steps

    def _is_public(self, dataset: str) -> bool:
        settings = self.settings.datasets[dataset]
        return settings.public or isinstance(settings.source, PhantomSource)

    def segmentation_settings(self, name: str) -> dict[str, Any]:
        """Settings of a segmentation without its run."""
        segmentation = self.settings.segmentations[name]
        # A study has many encoders: sheets of single cases are for `radscale segment`, unless they are asked for.
        return {"num_overlays": 0, **merge(self.settings.segment, segmentation.settings), "tasks": segmentation.tasks}

    def _segment(self, arm: str, objective: str, size: int, replicate: int, encoder: Step) -> Step | None:
        if not self.settings.segmentations:
            return None
        inputs = {"encoder": encoder}
        for name, segmentation in self.settings.segmentations.items():
            inputs |= {f"masks:{name}": self.masks[name], f"dataset:{name}": self.datasets[segmentation.dataset]}
        return self._step(
            name=f"segmentation/{arm}" + (f"/n={size}/replicate={replicate}" if size else ""),
            function=f"{STEPS}:segment_images",
            config={
                "arm": arm,
                "objective": objective,
                "subset_size": size,
                "replicate": replicate,
                "plans": {name: self.segmentation_settings(name) for name in self.settings.segmentations},
            },
            inputs=inputs,
            description="frozen encoder -> masks of the test images",
        )

    def _planned(self, arm: str, objective: str, size: int, replicate: int, encoder: Step) -> PlannedRun:
        names = (arm, objective, size, replicate)
        return PlannedRun(*names, encoder, self._probe(*names, encoder), self._segment(*names, encoder))

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """Every encoder of the study: open weights first, then arms x sizes x replicates, small sizes first."""
        runs = [self._planned(name, "open_weights", 0, 0, step) for name, step in self.open_weights.items()]
        for size in self.settings.subset_sizes:
            for replicate in range(self.settings.num_replicates(size)):
                for name, arm in self.settings.arms.items():
                    encoder = self._continue(name, arm, size, replicate)
                    runs.append(self._planned(name, arm.objective, size, replicate, encoder))
        return runs

    @cached_property
    def arm_facts(self) -> dict[str, dict[str, Any]]:
        """Label, objective and open weights of every arm; open weights are arms of their own."""
        facts: dict[str, dict[str, Any]] = {
            name: {"label": weights.label, "objective": "open_weights", "open_weights_arm": None}
            for name, weights in self.settings.open_weights.items()
        }
        for name, arm in self.settings.arms.items():
            facts[name] = {"label": arm.label, "objective": arm.objective, "open_weights_arm": arm.start}
        return facts

    @cached_property
    def analysis(self) -> Step:
        inputs = {run.probe.name: run.probe for run in self.runs}
        inputs |= {run.segmentation.name: run.segmentation for run in self.runs if run.segmentation is not None}
        for name in dict.fromkeys(evaluation.dataset for evaluation in self.settings.evaluations.values()):
            inputs[f"dataset:{name}"] = self.datasets[name]
        return self._step(
            name="analysis",
            function=f"{STEPS}:analyse",
            config={
                "arms": self.arm_facts,
                "evaluations": {name: e.dataset for name, e in self.settings.evaluations.items()},
                "segmentations": list(self.settings.segmentations),
                **self.settings.analysis.model_dump(),
            },
            inputs=inputs,
            # What could be trained is analysed; the report names the rest.
            optional=frozenset(
                step.name for run in self.runs if run.subset_size for step in run.steps if step is not run.encoder
            ),
            description="scores, paired bootstrap, scaling laws, subgroups",
        )

    @cached_property
    def agreement(self) -> dict[str, Step]:
        """Extracted labels against the labels that came with a dataset, where both exist."""
        return {
            name: self._step(
                name=f"agreement/{name}",
                function=f"{STEPS}:measure_agreement",
                config={},
                inputs={"dataset": self.datasets[name], "labels": labels},
                description="extracted labels against those that came with the data",
            )
            for name, labels in self.labels.items()
            if isinstance(self.settings.datasets[name].source, PhantomSource)
            or "labels_csv" in getattr(self.settings.datasets[name].source, "settings", {})
        }

    @cached_property
    def pictures(self) -> list[Step]:
        """Contact sheets of the datasets, and similarity maps of open weights and the largest subsets."""
        steps = [
            self._step(
                name=f"pictures/{name}",
                function=f"{STEPS}:draw_contact_sheet",
                config={"num_images": 12, "seed": self.settings.seed, "title": f"Dataset {name}"},
                inputs={"dataset": step},
                description="contact sheet",
            )
            for name, step in self.datasets.items()
        ]
        largest = [run for run in self.runs if run.subset_size in (0, self.settings.subset_sizes[-1]) and not run.replicate]
        if self.settings.similarity.num_images:
            dataset = self.settings.pretraining_dataset
            inputs = {run.arm: run.encoder for run in largest} | {"dataset:": self.datasets[dataset]}
            if dataset in self.archives:
                inputs["archive:"] = self.archives[dataset]
            steps.append(
                self._step(
                    name="similarity",
                    function=f"{STEPS}:draw_similarity",
                    config={
                        "num_images": self.settings.similarity.num_images,
                        "arms": {name: facts["label"] for name, facts in self.arm_facts.items()},
                        "point": self.settings.similarity.point,
                        "seed": self.settings.seed,
                    },
                    inputs=inputs,
                    optional=frozenset(run.arm for run in largest if run.subset_size),
                    description="patch-similarity maps",
                )
            )
        return steps

    @cached_property
    def targets(self) -> list[Step]:
        """All steps in the order in which a person wants them done: data, encoders with their probes, then the rest."""
        steps: list[Step] = []
        for run in self.runs:
            steps += run.steps
        return [*self.agreement.values(), *steps, self.analysis, *self.pictures]


def with_preset(pretraining: dict[str, Any]) -> dict[str, Any]:
    """Settings of pretraining over those of the `preset` that they name, if they name one.

    Raises:
        InputError: no such preset.
    """
    settings = dict(pretraining)
    preset = settings.pop("preset", None)
    if preset is None:
        return settings
    from radscale.pretraining.config import PRESETS

    if preset not in PRESETS:
        raise InputError(f"pretraining preset '{preset}' is not known; allowed: {', '.join(PRESETS)}")
    return merge(PRESETS[preset], settings)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, nested mappings merged, as files are."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and key not in OWN_WORDS:
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
