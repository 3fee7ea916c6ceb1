"""Everything in an experiment that a stage would refuse, found before anything starts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from radscale.errors import InputError
from radscale.experiment.build import build
from radscale.experiment.settings import DicomSource, ImagesSource, PhantomSource

if TYPE_CHECKING:
    from radscale.experiment.design import Design


def check_settings(design: "Design") -> None:
    """Build the settings of every stage once.

    Raises:
        InputError: names the section of the experiment file, the key and what is allowed.
    """
    _check_datasets(design)
    _check_pretraining(design)
    _check_probes(design)


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
            build(PretrainingConfig, {**settings, "budget": one}, where)
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
