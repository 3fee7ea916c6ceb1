"""Everything in an experiment that a stage would refuse, found before anything starts."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from radscale.errors import InputError
from radscale.experiment.build import build
from radscale.experiment.settings import DicomSource, ImagesSource, PhantomSource
from radscale.experiment.yaml_lines import Location

if TYPE_CHECKING:
    from radscale.experiment.design import Design

OF_A_RUN = {
    "budget": "`budget` of the experiment",
    "subset_size": "`subset_sizes`",
    "replicate": "`replicates`",
    "objective": "`objective` of the arm or of the open weights",
    "architecture": "`architecture` of the open weights",
}
OF_A_PROBE = {
    "tasks": "`tasks` of the evaluation",
    "task_sets": "`evaluations`",
    "arm": "`arms`",
    "objective": "`objective` of the arm",
    "subset_size": "`subset_sizes`",
    "replicate": "`replicates`",
}
ESTIMATE_IS_SURE = 1.5
"""Times the limit: how many images are frontal and have labels is known later."""
OF_A_SEGMENTATION = {key: value for key, value in OF_A_PROBE.items() if key != "task_sets"} | {
    "tasks": "`tasks` of the segmentation"
}


def check_settings(design: "Design") -> None:
    """Build the settings of every stage once.

    Raises:
        InputError: names the section of the experiment file, the key and what is allowed.
    """
    _check_reserved(design)
    _check_datasets(design)
    _check_pretraining(design)
    _check_probes(design)
    _check_segmentations(design)
    _check_tasks(design)


def check_feature_caches(design: "Design") -> None:
    """Probes come after the training that costs the most: what will not fit then is said before it.

    Raises:
        InputError: features of a probe or a segmentation far beyond their limit, as far as images can be counted beforehand.
    """
    from radscale.experiment.costs import CostModel

    for step, cache in CostModel(design).feature_caches.items():
        if cache.size_bytes > ESTIMATE_IS_SURE * cache.limit_gb * 1e9:
            section = step.split("/")[0].replace("probing", "probe").replace("segmentation", "segment")
            raise InputError(
                f"{section}: '{cache.what}' needs about {cache.size_bytes / 1e9:,.2f} GB of features for one encoder; "
                f"`cache_limit_gb` is {cache.limit_gb:g}. Raise it if the disk has room, choose a smaller `grid` or "
                "`max_train`, or `cache_features: false`"
            )


def _check_reserved(design: "Design") -> None:
    """Settings that the study itself decides are refused, not silently replaced."""
    settings = design.settings
    places: list[tuple[tuple[str, ...], dict[str, Any], dict[str, str]]] = [
        (("pretraining",), settings.pretraining, OF_A_RUN),
        (("probe",), settings.probe, OF_A_PROBE),
        (("segment",), settings.segment, OF_A_SEGMENTATION),
    ]
    places += [(("arms", name, "settings"), arm.settings, OF_A_RUN) for name, arm in settings.arms.items()]
    places += [(("open_weights", name, "settings"), w.settings, OF_A_RUN) for name, w in settings.open_weights.items()]
    places += [(("evaluations", name, "probe"), e.probe, OF_A_PROBE) for name, e in settings.evaluations.items()]
    places += [
        (("segmentations", name, "settings"), s.settings, OF_A_SEGMENTATION) for name, s in settings.segmentations.items()
    ]
    for place, given, reserved in places:
        for key in given:
            if key in reserved:
                raise InputError(f"{design.locate([(*place, key)])}: the study decides it; state {reserved[key]} instead")


def _check_tasks(design: "Design") -> None:
    """Tasks that evaluations and label texts name are among those of the labels, where these are known beforehand."""
    settings = design.settings
    for name, evaluation in settings.evaluations.items():
        if not isinstance(evaluation.tasks, str):
            for index, task in enumerate(evaluation.tasks):
                _check_task(design, evaluation.dataset, task, ("evaluations", name, "tasks", index))
    for name, arm in settings.arms.items():
        tasks = design.pretraining_settings(arm.objective, arm.settings).get("label_tasks", {})
        for task in tasks if arm.objective == "unicl" and isinstance(tasks, dict) else ():
            places: list[Location] = [("arms", name, "settings", "label_tasks", task), ("pretraining", "label_tasks", task)]
            _check_task(design, settings.pretraining_dataset, task, *places)


def _check_task(design: "Design", dataset: str, task: str, *places: Location) -> None:
    known = design.known_tasks(dataset)
    if known is not None and task not in known:
        close = difflib.get_close_matches(task, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(
            f"{design.locate(list(places))}: '{task}' is not a task of the labels of '{dataset}'; "
            f"{hint}it has {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
        )


def _check_datasets(design: "Design") -> None:
    from radscale.datasets import IngestConfig
    from radscale.phantom import PhantomConfig

    for name, dataset in design.settings.datasets.items():
        where = f"datasets.{name}.source"
        if isinstance(dataset.source, PhantomSource):
            with _located(design, where, [f"{where}.settings", where]):
                build(PhantomConfig, design.archives[name].config, where)
        elif isinstance(dataset.source, DicomSource | ImagesSource):
            config = {key: value for key, value in design.datasets[name].config.items() if key != "public"}
            with _located(design, where, [f"{where}.settings", where, f"datasets.{name}", ""]):
                build(IngestConfig, config, where)


def _check_pretraining(design: "Design") -> None:
    import torch

    from radscale.models import make_encoder
    from radscale.pretraining import ComputeBudget, PretrainingConfig

    one = ComputeBudget.samples_seen(1)
    for name, arm in design.settings.arms.items():
        where = f"arms.{name}"
        with _located(design, where, [f"{where}.settings", "pretraining", where]):
            settings = design.pretraining_settings(arm.objective, arm.settings)
            config = build(PretrainingConfig, {**settings, "budget": one}, where)
            smallest, pairs = design.settings.subset_sizes[0], 2 if arm.objective == "unicl" else 1
            if smallest * pairs < config.batch_size:
                raise InputError(
                    f"batch_size is {config.batch_size:,}, more pairs than {smallest:,} images have for {arm.objective}; "
                    "take a smaller batch or larger subset_sizes"
                )
    for name, weights in design.settings.open_weights.items():
        if weights.pretrain_on is None:
            continue
        where = f"open_weights.{name}"
        with _located(design, where, [f"{where}.settings", "pretraining", where]):
            settings = design.pretraining_settings(str(weights.objective), weights.settings)
            build(PretrainingConfig, {**settings, "budget": one}, where)
        with _located(design, f"{where}.architecture", [f"{where}.architecture"]), torch.device("meta"):
            make_encoder(weights.architecture or {})


def _check_probes(design: "Design") -> None:
    from radscale.probing import ProbeConfig

    for plan in design.runs[0].probe.config["plans"]:
        places = [*(f"evaluations.{name}.probe" for name in plan["task_sets"]), "probe"]
        with _located(design, "probe", places):
            probe = build(ProbeConfig, {**plan["probe"], "task_sets": plan["task_sets"]}, "probe")
            replace(probe, subset_size=design.settings.subset_sizes[-1])


def _check_segmentations(design: "Design") -> None:
    from radscale.segmentation import SegmentationConfig

    for name in design.settings.segmentations:
        with _located(design, "segment", [f"segmentations.{name}.settings", f"segmentations.{name}", "segment"]):
            build(SegmentationConfig, design.segmentation_settings(name), "segment")


@contextmanager
def _located(design: "Design", where: str, sections: list[str]) -> Iterator[None]:
    """Put file and line before a refusal: of the key it names, in the first of `sections` that states it."""
    try:
        yield
    except InputError as error:
        place, _, problem = str(error).partition(": ")
        if not place.startswith(where) or not problem:
            place, problem = where, str(error)
        keys = place[len(where) :].strip(".").split(".") if place != where else []
        # What a stage refuses as a whole begins with the key: "batch_size is -3; ..."
        keys = keys or re.findall(r"^[a-z_0-9.]+(?= (?:is|must|has))", problem)[:1]
        found = [[*filter(None, section.split(".")), *keys] for section in sections]
        locations = [tuple(int(key) if key.isdigit() else key for key in location) for location in found]
        fallback = [tuple(filter(None, section.split("."))) for section in sections]
        raise InputError(f"{design.locate([*locations, *fallback])}: {problem}") from None
