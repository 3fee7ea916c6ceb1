"""Everything in an experiment that a stage would refuse, found before anything starts."""

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
            build(PhantomConfig, design.archives[name].config, where)
        elif isinstance(dataset.source, DicomSource | ImagesSource):
            config = {key: value for key, value in design.datasets[name].config.items() if key != "public"}
            build(IngestConfig, config, f"{where}.settings")


def _check_pretraining(design: "Design") -> None:
    from radscale.models import make_encoder
    from radscale.pretraining import ComputeBudget, PretrainingConfig

    one = ComputeBudget.samples_seen(1)
    for name, arm in design.settings.arms.items():
        build(PretrainingConfig, {**design.pretraining_settings(arm.objective, arm.settings), "budget": one}, f"arms.{name}")
    for name, weights in design.settings.open_weights.items():
        if weights.pretrain_on is None:
            continue
        where = f"open_weights.{name}"
        settings = design.pretraining_settings(str(weights.objective), weights.settings)
        build(PretrainingConfig, {**settings, "budget": one}, where)
        try:
            import torch

            with torch.device("meta"):
                make_encoder(weights.architecture or {})
        except InputError as error:
            raise InputError(f"{where}.architecture: {error}") from None


def _check_probes(design: "Design") -> None:
    from radscale.probing import ProbeConfig

    for plan in design.runs[0].probe.config["plans"]:
        probe = build(ProbeConfig, {**plan["probe"], "task_sets": plan["task_sets"]}, "probe")
        replace(probe, subset_size=design.settings.subset_sizes[-1])
