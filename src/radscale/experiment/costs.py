"""What a study costs, before it starts: images seen, FLOPs, hours, money. What is finished is shown as it was.

FLOPs follow from the architectures. Seconds are an estimate: FLOPs by the stated rate, and what the experiment's `hardware`
says of the start of a step, of an optimizer step and of reading an image. How near it comes is in docs/benchmarks.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import cv2
from rich.console import Console
from rich.table import Table

from radscale.analysis.budgeted_design import propose_design
from radscale.datasets.burned_in_text import MAX_ENLARGEMENT, SHORTER_SIDE_PX
from radscale.errors import InputError
from radscale.experiment.build import build
from radscale.experiment.settings import DatasetSource, ImagesSource, PhantomSource
from radscale.experiment.steps import budget_amount
from radscale.experiment.yaml_lines import Location

if TYPE_CHECKING:
    from radscale.execution import ArtifactStore, Step
    from radscale.experiment.design import Design, PlannedRun
    from radscale.experiment.study import Study
    from radscale.models import Encoder
    from radscale.probing import ProbeConfig
    from radscale.segmentation import SegmentationConfig

# Measured on two cores; see docs/benchmarks.md.
PHANTOM_IMAGES_PER_PATIENT = 1.9
PHANTOM_FRONTAL_SHARE = 0.8
PHANTOM_SECONDS_PER_PATIENT = 0.09
INGEST_SECONDS_PER_IMAGE = 0.003
INGEST_SECONDS_PER_PIXEL = 2e-8
TEXT_SECONDS_PER_PIXEL = 9e-8
STORED_PIXELS_OF_A_FILE = 7.5e6
SEARCHED_PIXELS = 1.2 * SHORTER_SIDE_PX**2
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
REPORT_SECONDS = 5e-4
BOOTSTRAP_SECONDS = 5e-9


@dataclass(frozen=True)
class FeatureCache:
    """Features on the disk while probes or heads are trained on them."""

    what: str
    """Dataset or segmentation."""
    size_bytes: float
    limit_gb: float


@dataclass(frozen=True)
class RunCost:
    """One encoder of the study: how it is trained, in device seconds."""

    arm: str
    label: str
    subset_size: int
    """0 for open weights."""
    replicate: int
    steps: int
    samples_seen: float
    flops: float
    seconds: float
    status: str


class CostModel:
    """Estimated seconds of every step of a design, if it has a device (or a core) of its own."""

    def __init__(self, design: "Design") -> None:
        self.design, self.settings, self.hardware = design, design.settings, design.settings.hardware
        self.rate = self.hardware.sustained_tflops * 1e12

    # --- training -------------------------------------------------------------------------------------------------

    @cached_property
    def encoders(self) -> "dict[str, Encoder]":
        """Of the open weights, without memory."""
        import torch

        from radscale.models import make_encoder

        with torch.device("meta"):
            return {name: make_encoder(_architecture(self.design, name)) for name in self.settings.open_weights}

    @cached_property
    def training_flops(self) -> dict[str, float]:
        """Of one image, by arm."""
        return {
            name: self._training_flops(
                self.design.pretraining_settings(arm.objective, arm.settings), arm.start, ("arms", name, "objective")
            )
            for name, arm in self.settings.arms.items()
        }

    def _training_flops(self, settings: Mapping[str, Any], encoder: str, place: Location) -> float:
        from radscale.pretraining import ComputeBudget, PretrainingConfig, training_flops_per_sample

        config = build(PretrainingConfig, {**settings, "budget": ComputeBudget.samples_seen(1)}, "pretraining")
        try:
            return training_flops_per_sample(config, self.encoders[encoder])
        except InputError as error:
            raise InputError(f"{self.design.locate([place])}: {error}") from None

    def run(self, run: "PlannedRun") -> tuple[int, float, float, float]:
        """Optimizer steps, images seen, FLOPs and seconds of an encoder's training (0 if it is only loaded)."""
        if run.subset_size == 0:
            return self._open_weights(run.arm)
        arm, budget = self.settings.arms[run.arm], self.settings.budget.model_dump(exclude_none=True)
        flops = self.training_flops[run.arm]
        reference = self.training_flops[self.settings.budget.reference or run.arm]
        costs = {"arm_flops_per_image": flops, "reference_flops_per_image": reference}
        amount = budget_amount(budget, run.subset_size, costs)
        batch = self._batch(self.design.pretraining_settings(arm.objective, arm.settings))
        per_image = flops / self.rate + self.hardware.optimizer_step_seconds / batch
        samples = amount / {"samples_seen": 1.0, "flops": flops, "gpu_seconds": per_image}[budget["unit"]]
        steps = max(1, round(samples / batch))
        return steps, steps * batch, steps * batch * flops, steps * batch * per_image

    def _open_weights(self, name: str) -> tuple[int, float, float, float]:
        weights = self.settings.open_weights[name]
        if weights.pretrain_on is None:
            return 0, 0.0, 0.0, 0.0
        settings = self.design.pretraining_settings(str(weights.objective), weights.settings)
        flops, batch = self._training_flops(settings, name, ("open_weights", name, "objective")), self._batch(settings)
        share = self.settings.datasets[weights.pretrain_on].splits.train
        steps = max(1, round((weights.epochs or 0) * share * self.num_images(weights.pretrain_on) / batch))
        samples = steps * batch
        return steps, samples, samples * flops, samples * flops / self.rate + steps * self.hardware.optimizer_step_seconds

    def _batch(self, settings: Mapping[str, Any]) -> int:
        from radscale.pretraining import PretrainingConfig

        return int(settings.get("batch_size", PretrainingConfig.batch_size))

    # --- all steps ------------------------------------------------------------------------------------------------

    def num_images(self, dataset: str) -> float:
        """Images of a dataset: counted if it can be, else as many as the largest subset needs."""
        settings = self.settings.datasets[dataset]
        counted = self.design.count_images(dataset)
        if counted is not None:
            return counted
        if isinstance(settings.source, PhantomSource):
            return settings.source.num_patients * PHANTOM_IMAGES_PER_PATIENT
        if isinstance(settings.source, DatasetSource) and settings.source.num_images is not None:
            return settings.source.num_images
        return self.settings.subset_sizes[-1] / max(settings.splits.train, 0.01)

    def _num_probed(self, dataset: str) -> float:
        """Frontal images, as far as it is known which are."""
        phantom = isinstance(self.settings.datasets[dataset].source, PhantomSource)
        return self.num_images(dataset) * (PHANTOM_FRONTAL_SHARE if phantom else 1.0)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """By name of the step."""
        work: dict[str, float] = {}
        for name, step in self.design.archives.items():
            source = self.settings.datasets[name].source
            assert isinstance(source, PhantomSource)
            work[step.name] = source.num_patients * PHANTOM_SECONDS_PER_PATIENT / self.hardware.num_devices
        for name, step in self.design.datasets.items():
            work[step.name] = self.num_images(name) * self._ingest_seconds(name) / self.hardware.num_devices
        for name, step in self.design.labels.items():
            work[step.name] = self.num_images(name) * REPORT_SECONDS
        for run in self.design.runs:
            work[run.encoder.name] = self.run(run)[3]
            start = self._start(run)
            work[run.probe.name] = self._probe(run.probe, start)
            if run.segmentation is not None:
                work[run.segmentation.name] = self._segment(run.segmentation, start)
        work[self.design.analysis.name] = self._analysis()
        everything = {step.name: step for target in self.design.targets for step in _with_upstream(target)}
        return {name: self.hardware.start_seconds + work.get(name, 0.0) for name in everything}

    def _phantom_pixels(self, name: str) -> float:
        from radscale.phantom import PhantomConfig

        return float(build(PhantomConfig, self.design.archives[name].config, "source").image_size_px ** 2)

    def _probe(self, step: "Step", encoder: str) -> float:
        """Features once (or, without a cache, in every epoch of every task set), then all seeds and tasks of a set on them.

        A step costs twice the products of a pass: features do not learn.
        """
        from radscale.probing import ProbeConfig

        forward, grid, channels = self._features[encoder]
        seconds = 0.0
        for plan in step.config["plans"]:
            probe = build(ProbeConfig, {**plan["probe"], "task_sets": plan["task_sets"]}, "probe")
            train, test = self._split_sizes(plan["dataset"], probe.max_train)
            sets = len(plan["task_sets"])
            seen = train + test if probe.cache_features else sets * (probe.epochs * train + test)
            seconds += seen * (forward / self.rate + self.hardware.image_seconds)
            per_epoch = max(-(-train // probe.batch_size), -(-probe.min_steps // probe.epochs))
            cells = (probe.grid or grid) ** 2
            for tasks in plan["task_sets"].values():
                products = cells * channels * 2 * len(probe.seeds) * _num_tasks(tasks)
                flops = probe.epochs * train * products * 2 * 2
                seconds += flops / self.rate + probe.epochs * per_epoch * self.hardware.probe_step_seconds
        return seconds

    def _segment(self, step: "Step", encoder: str) -> float:
        """Features once, heads of all seeds and tasks on them, and every predicted mask of a test image measured."""
        from radscale.segmentation import SegmentationConfig

        forward, grid, channels = self._features[encoder]
        seconds = 0.0
        for name, plan in step.config["plans"].items():
            settings = build(SegmentationConfig, plan, "segment")
            dataset = self.settings.segmentations[name].dataset
            train, test = self._split_sizes(dataset, settings.max_train)
            passes = train if settings.cache_features else settings.epochs * train
            seconds += (passes + test) * (forward / self.rate + self.hardware.image_seconds)
            # A phantom has ten types of devices; RANZCR-CLiP has four.
            heads = len(settings.seeds) * (len(settings.tasks) if settings.tasks is not None else 4)
            steps = max(settings.epochs * -(-train // settings.batch_size), settings.min_steps)
            side = settings.mask_size_px or self.encoders[encoder].preprocessing.image_size_px
            seen = settings.epochs * train
            # Forward and backward of the projection, and of the interpolation to pixels along both axes.
            cells = (settings.grid or grid) * settings.upsampling
            products = heads * (cells**2 * channels + cells * side * (cells + side))
            seconds += 3 * 2 * seen * products / self.rate + steps * self.hardware.segment_step_seconds
            pixels = (self.settings.datasets[dataset].image_size_px or self.settings.image_size_px) ** 2
            seconds += test * heads * (self.hardware.mask_seconds * pixels / 1e6 + 1e-3)
        return seconds

    @cached_property
    def feature_caches(self) -> "dict[str, FeatureCache]":
        """By step, the largest that it has on the disk at a time; a step that computes features in every epoch has none."""
        from radscale.probing import ProbeConfig
        from radscale.segmentation import SegmentationConfig

        found: dict[str, FeatureCache] = {}
        for run in self.design.runs:
            _, grid, channels = self._features[self._start(run)]
            caches: list[tuple[str, FeatureCache]] = []
            for plan in run.probe.config["plans"]:
                probe = build(ProbeConfig, {**plan["probe"], "task_sets": plan["task_sets"]}, "probe")
                images = sum(self._split_sizes(plan["dataset"], probe.max_train))
                caches += _feature_cache(run.probe.name, plan["dataset"], images, probe, grid, channels)
            if run.segmentation is not None:
                for name, plan in run.segmentation.config["plans"].items():
                    settings = build(SegmentationConfig, plan, "segment")
                    images = self._split_sizes(self.settings.segmentations[name].dataset, settings.max_train)[0]
                    caches += _feature_cache(run.segmentation.name, name, images, settings, grid, channels)
            found.update(sorted(caches, key=lambda item: item[1].size_bytes))
        return found

    def _start(self, run: "PlannedRun") -> str:
        """The open weights whose architecture an encoder has."""
        return self.settings.arms[run.arm].start if run.subset_size else run.arm

    def _split_sizes(self, dataset: str, max_train: int | None) -> tuple[float, float]:
        """Training images of a probe and test images."""
        splits, images = self.settings.datasets[dataset].splits, self._num_probed(dataset)
        return min(images * splits.train, max_train or math.inf), images * splits.test

    def _ingest_seconds(self, dataset: str) -> float:
        """Of one file."""
        pixels = self._stored_pixels(dataset)
        settings = self.design.datasets[dataset].config
        treatment = settings.get("burned_in_text") or ("mask" if settings.get("layout") is None else "keep")
        searched = min(MAX_ENLARGEMENT**2 * pixels, SEARCHED_PIXELS) if treatment == "mask" else 0
        return INGEST_SECONDS_PER_IMAGE + pixels * INGEST_SECONDS_PER_PIXEL + searched * TEXT_SECONDS_PER_PIXEL

    def _stored_pixels(self, dataset: str) -> float:
        """Of one file: known for a phantom, looked up in a few files of an image folder, else those of a radiograph."""
        source = self.settings.datasets[dataset].source
        if isinstance(source, PhantomSource):
            return self._phantom_pixels(dataset)
        folder = self.design.source_path(dataset)
        if isinstance(source, ImagesSource) and folder is not None:
            files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            sizes = [image.size for path in islice(files, 8) if (image := cv2.imread(str(path), 0)) is not None]
            if sizes:
                return sum(sizes) / len(sizes)
        return STORED_PIXELS_OF_A_FILE

    @cached_property
    def _features(self) -> dict[str, tuple[float, int, int]]:
        """By open weights: FLOPs of the maps of an image, side of the third map, channels of all maps."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        found = {}
        for name, encoder in self.encoders.items():
            size = encoder.preprocessing.image_size_px
            counter = FlopCounterMode(display=False)
            with torch.no_grad(), counter:
                maps = encoder.eval().forward_features(torch.empty(1, 3, size, size, device="meta"))
            found[name] = float(counter.get_total_flops()), int(maps[2].shape[-1]), sum(m.shape[1] for m in maps)
        return found

    def _analysis(self) -> float:
        total = 0.0
        for evaluation in self.settings.evaluations.values():
            probe = {**self.settings.probe, **evaluation.probe}
            vectors = len(self.design.runs) * len(probe.get("seeds", (0, 1, 2)))
            samples = self._num_probed(evaluation.dataset) * self.settings.datasets[evaluation.dataset].splits.test
            total += _num_tasks(evaluation.tasks) * vectors * samples * self.settings.analysis.num_bootstrap
        return total * BOOTSTRAP_SECONDS


def _feature_cache(
    step: str, what: str, images: float, settings: "ProbeConfig | SegmentationConfig", grid: int, channels: int
) -> "list[tuple[str, FeatureCache]]":
    """The cache of one training, if it has one."""
    from radscale.training.features import cache_size_bytes

    if not settings.cache_features:
        return []
    size = cache_size_bytes(round(images), (settings.grid or grid) ** 2, channels, settings.feature_dtype)
    return [(step, FeatureCache(what, size, settings.cache_limit_gb))]


def _num_tasks(tasks: str | list[str]) -> int:
    from radscale.probing.task_sets import EXTRACTED, TASK_SETS

    if isinstance(tasks, str):
        return len(TASK_SETS.get(tasks, EXTRACTED))
    return len(tasks)


def _with_upstream(step: "Step") -> "list[Step]":
    from radscale.execution.runner import topological_order

    return topological_order([step])


def planned_costs(design: "Design", store: "ArtifactStore") -> list[RunCost]:
    """Every encoder with the cost of its training."""
    model = CostModel(design)
    return [
        RunCost(
            run.arm,
            design.arm_facts[run.arm]["label"],
            run.subset_size,
            run.replicate,
            *model.run(run),
            store.state(run.encoder).status,
        )
        for run in design.runs
    ]


def _architecture(design: "Design", name: str) -> dict[str, Any]:
    """Of open weights that may not be here yet: as their publisher made them."""
    weights = design.settings.open_weights[name]
    if weights.architecture is not None:
        return weights.architecture
    if _is_here(design, name):
        from radscale.training.open_weights import load_encoder

        path = design.weights_path(name)
        encoder = load_encoder(str(path)) if weights.load == "checkpoint" else load_encoder(str(weights.load), path)
    else:
        from radscale.models import make_encoder

        encoder = make_encoder({"family": "davit" if weights.load == "medimageinsight" else "vit"})
    if weights.image_size_px is not None:
        encoder.preprocessing = replace(encoder.preprocessing, image_size_px=weights.image_size_px)
    return encoder.config_dict()


def _is_here(design: "Design", name: str) -> bool:
    """Whether the file decides the architecture, and can be read."""
    weights = design.settings.open_weights[name]
    return weights.load in ("dinov2", "checkpoint", "rad-dino") and design.weights_path(name).exists()


def assumed_architectures(design: "Design") -> list[str]:
    """Open weights of any size (DINOv2, a checkpoint) that are not on this machine: planned as if they were a ViT-B/14."""
    return [
        name
        for name, weights in design.settings.open_weights.items()
        if weights.load in ("dinov2", "checkpoint") and not _is_here(design, name)
    ]


def print_plan(study: "Study", console: Console) -> None:
    """Encoders by arm and size, then every stage with its time, then the totals."""
    study.check(sources=False)
    costs, states = study.costs(), study.states()
    _print_encoders(study, costs, console)
    model = CostModel(study.design)
    _print_stages(study, model, console)
    for name in assumed_architectures(study.design):
        where = study.design.weights_path(name)
        console.print(
            f"[yellow]assumed[/] open_weights.{name}: {where.name} is not there, its size not known; planned as a ViT-B/14",
            highlight=False,
            soft_wrap=True,
        )
    _print_caches(model, console)
    hardware, training = study.settings.hardware, sum(cost.seconds for cost in costs) / 3600
    everything = sum(model.seconds.values()) / 3600
    console.print(
        f"Estimated for {hardware.name} at {hardware.sustained_tflops:g} TFLOP/s sustained per device "
        f"(`hardware` in the experiment; training reports what it reaches):",
        highlight=False,
        soft_wrap=True,
    )
    for what, hours in (("training of encoders", training), ("all steps", everything)):
        price = hardware.price_per_device_hour
        money = "" if price is None else f", {price * hours:,.0f} {hardware.currency}"
        side = (
            f", {duration(hours / hardware.num_devices)} on {hardware.num_devices} devices" if hardware.num_devices > 1 else ""
        )
        console.print(f"  {what}: {duration(hours)} of device time{side}{money}", highlight=False, soft_wrap=True)
    done = sum(state.status == "done" for state in states.values())
    console.print(f"{done} of {len(states)} steps are done", highlight=False, soft_wrap=True)


def _print_caches(model: CostModel, console: Console) -> None:
    """Disk that features take while encoders are probed, and which probes will be refused for it."""
    if not model.feature_caches:
        return
    name, largest = max(model.feature_caches.items(), key=lambda item: item[1].size_bytes)
    console.print(
        f"Disk for features: at most {largest.size_bytes / 1e9:,.2f} GB for one step ({name}), removed when it is done",
        highlight=False,
        soft_wrap=True,
    )
    refused = {cache.what: cache for cache in model.feature_caches.values() if cache.size_bytes > cache.limit_gb * 1e9}
    for what, cache in refused.items():
        console.print(
            f"[yellow]will be refused[/] {what}: {cache.size_bytes / 1e9:,.0f} GB of features, `cache_limit_gb` allows "
            f"{cache.limit_gb:g}; raise it, choose a smaller `grid` or `max_train`, or `cache_features: false`",
            highlight=False,
            soft_wrap=True,
        )


def print_proposal(study: "Study", gpu_hours: float, console: Console) -> None:
    """Sizes and replicates that fit into a number of device hours, all arms and their evaluation counted.

    Raises:
        InputError: not even four small subsets fit.
    """
    study.check(sources=False)
    model, design = CostModel(study.design), study.design
    trained = {run.arm: run for run in design.runs if run.subset_size}
    per_run = {step.name for run in design.runs if run.subset_size for step in run.steps}
    fixed = sum(seconds for name, seconds in model.seconds.items() if name not in per_run)

    evaluation = (
        sum(model.seconds[step.name] for run in trained.values() for step in run.steps if step is not run.encoder) / 3600
    )

    def hours(size: int) -> float:
        """One encoder of each arm, trained and evaluated."""
        starts = len(trained) * model.hardware.start_seconds
        return (sum(model.run(replace(run, subset_size=size))[3] for run in trained.values()) + starts) / 3600 + evaluation

    dataset = study.settings.pretraining_dataset
    available = round(model.num_images(dataset) * study.settings.datasets[dataset].splits.train)
    candidates = _round_sizes(min(study.settings.subset_sizes[0], max(available // 1000, 100)), available)
    always = f"{duration(fixed / 3600)} for data, open weights and analysis"
    try:
        found = propose_design(candidates, hours, gpu_hours - fixed / 3600, available)
    except InputError as error:
        raise InputError(
            f"--gpu-hours {gpu_hours:g}: without {always}, {error}. Evaluating one encoder of each arm takes "
            f"{duration(evaluation)}; `probe: {{max_train: ...}}` makes that cheaper"
        ) from None
    number = sum(found.replicates.values())
    table = Table(title=f"{gpu_hours:g} device hours: {number} encoders for each of {len(trained)} arms")
    for column in ("images", "replicates", "time of all arms"):
        table.add_column(column, justify="right")
    for size, count in found.replicates.items():
        table.add_row(f"{size:,}", str(count), duration(count * hours(size)))
    console.print(table)
    for line in (
        f"{duration(found.cost + fixed / 3600)} in all, of it {always}. Chosen to know the curve best at all {available:,} "
        f"training images: its spread there is {found.prediction_sd:.2f} times that of one encoder.",
        "To take it over, write into the experiment:",
        f"  subset_sizes: [{', '.join(map(str, found.replicates))}]",
        f"  replicates: {{{', '.join(f'{size}: {count}' for size, count in found.replicates.items())}}}",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _round_sizes(smallest: int, largest: int) -> list[int]:
    """1, 3, 10, 30, ... times a power of ten from about `smallest`, and `largest` itself."""
    steps = range(math.floor(2 * math.log10(smallest)), math.ceil(2 * math.log10(largest)) + 1)
    sizes = [10 ** (step // 2) * (3 if step % 2 else 1) for step in steps]
    return [size for size in sizes if smallest / 2 <= size < largest / 1.5] + [largest]


def _print_encoders(study: "Study", costs: list[RunCost], console: Console) -> None:
    price = study.settings.hardware.price_per_device_hour
    table = Table(title=f"{study.settings.title}: {len(costs)} encoders")
    columns = ["arm", "subset", "runs", "steps of a run", "images of a run", "compute of a run", "time of all runs"]
    for column in (*columns, *(["price of all runs"] if price is not None else []), "status"):
        table.add_column(column, justify="left" if column in ("arm", "status") else "right", no_wrap=False)
    groups: dict[tuple[str, int], list[RunCost]] = {}
    for cost in costs:
        groups.setdefault((cost.arm, cost.subset_size), []).append(cost)
    for (arm, size), runs in groups.items():
        first, hours = runs[0], sum(run.seconds for run in runs) / 3600
        cells = [arm, short_count(size) if size else "open", str(len(runs))]
        if first.steps:
            cells += [short_count(first.steps), short_count(first.samples_seen), compute(first.flops), duration(hours)]
            cells += [f"{price * hours:,.0f} {study.settings.hardware.currency}"] if price is not None else []
        else:
            cells += ["", "", "", "", *([""] if price is not None else [])]
        status = ", ".join(f"{sum(r.status == s for r in runs)} {s}" for s in dict.fromkeys(r.status for r in runs))
        table.add_row(*cells, status)
    console.print(table)


def _print_stages(study: "Study", model: CostModel, console: Console) -> None:
    from radscale.experiment.study import STAGES

    table = Table(title="Every stage (sums over its steps)")
    for column in ("stage", "steps", "estimated time", "measured, of steps done"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        steps = [step for step in study.steps if step.stage == stage]
        records = [record for step in steps if (record := study.store.record(step)) is not None]
        if steps:
            estimate = duration(sum(model.seconds[step.name] for step in steps) / 3600)
            measured = f"{duration(sum(r.seconds for r in records) / 3600)} of {len(records)}" if records else ""
            table.add_row(stage, str(len(steps)), estimate, measured)
    console.print(table)


def short_count(value: float) -> str:
    """`300`, `7.2k`, `3.5M`."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return f"{value:,.0f}"


def compute(flops: float) -> str:
    """FLOPs with a unit that a person can read."""
    for unit, name in ((1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP")):
        if flops >= unit:
            return f"{flops / unit:.3g} {name}"
    return f"{flops / 1e9:.3g} GFLOP"


def duration(hours: float) -> str:
    """Seconds, minutes or hours."""
    if hours >= 1:
        return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
