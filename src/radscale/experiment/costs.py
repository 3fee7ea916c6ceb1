"""What a study costs, before it starts: images seen, FLOPs, hours, money. What is finished is shown as it was."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from radscale.experiment.build import build
from radscale.experiment.steps import budget_amount

if TYPE_CHECKING:
    from radscale.execution import ArtifactStore
    from radscale.experiment.design import Design
    from radscale.experiment.settings import OpenWeights
    from radscale.experiment.study import Study


@dataclass(frozen=True)
class RunCost:
    """One training run."""

    arm: str
    label: str
    subset_size: int
    """0 for open weights."""
    replicate: int
    steps: int
    samples_seen: float
    flops: float
    device_hours: float
    price: float | None
    status: str


def planned_costs(design: "Design", store: "ArtifactStore") -> list[RunCost]:
    """Every training run with its cost; FLOPs follow from the architectures, hours from the stated sustained rate."""
    flops = {name: _flops_per_image(design, name) for name in design.settings.arms}
    costs = []
    for run in design.runs:
        facts = design.arm_facts[run.arm]
        if run.subset_size == 0:
            costs.append(_free(run.arm, facts["label"], store.state(run.encoder).status))
            continue
        arm = design.settings.arms[run.arm]
        settings = design.pretraining_settings(arm.objective, arm.settings)
        reference = design.settings.budget.reference or run.arm
        per_image = {"arm_flops_per_image": flops[run.arm], "reference_flops_per_image": flops[reference]}
        budget = design.settings.budget.model_dump(exclude_none=True)
        amount = budget_amount(budget, run.subset_size, per_image)
        seconds = _seconds(design, budget["unit"], amount, flops[run.arm])
        samples = seconds * design.settings.hardware.sustained_tflops * 1e12 / flops[run.arm]
        batch = int(settings.get("batch_size", 1280))
        hours = seconds / 3600
        price = design.settings.hardware.price_per_device_hour
        costs.append(
            RunCost(
                run.arm,
                facts["label"],
                run.subset_size,
                run.replicate,
                max(1, round(samples / batch)),
                samples,
                samples * flops[run.arm],
                hours,
                None if price is None else price * hours,
                store.state(run.encoder).status,
            )
        )
    return costs


def _seconds(design: "Design", unit: str, amount: float, flops_per_image: float) -> float:
    """Device seconds of a budget at the sustained rate of the hardware."""
    rate = design.settings.hardware.sustained_tflops * 1e12
    return {"gpu_seconds": amount, "flops": amount / rate, "samples_seen": amount * flops_per_image / rate}[unit]


def _free(arm: str, label: str, status: str) -> RunCost:
    return RunCost(arm, label, 0, 0, 0, 0.0, 0.0, 0.0, None, status)


def _flops_per_image(design: "Design", name: str) -> float:
    import torch

    from radscale.models import make_encoder
    from radscale.pretraining import ComputeBudget, PretrainingConfig, training_flops_per_sample

    arm = design.settings.arms[name]
    settings = {**design.pretraining_settings(arm.objective, arm.settings), "budget": ComputeBudget.samples_seen(1)}
    config = build(PretrainingConfig, settings, f"arms.{name}")
    with torch.device("meta"):
        encoder = make_encoder(_architecture(design, design.settings.open_weights[arm.start]))
    return training_flops_per_sample(config, encoder)


def _architecture(design: "Design", weights: "OpenWeights") -> dict[str, Any]:
    """Of open weights that may not be here yet: as their publisher made them."""
    if weights.architecture is not None:
        return weights.architecture
    path = design.resolve(str(weights.weights))
    if weights.load in ("dinov2", "checkpoint", "rad-dino") and path.exists():
        from radscale.training.open_weights import load_encoder

        encoder = load_encoder(str(path)) if weights.load == "checkpoint" else load_encoder(weights.load, path)
        if weights.image_size_px is not None:
            encoder.preprocessing = replace(encoder.preprocessing, image_size_px=weights.image_size_px)
        return encoder.config_dict()
    return {"family": "davit" if weights.load == "medimageinsight" else "vit"}


def print_plan(study: "Study", console: Console) -> None:
    """The runs grouped by arm and size, other steps in a line, and the totals."""
    study.check(sources=False)
    costs = study.costs()
    hardware = study.settings.hardware
    states = study.states()
    priced = hardware.price_per_device_hour is not None
    table = Table(title=f"{study.settings.title}: {len(costs)} encoders; steps, images and compute are per run")
    for column in ("arm", "subset", "runs", "steps", "images", "compute", "time", *(["price"] if priced else []), "status"):
        table.add_column(column, justify="left" if column in ("arm", "status") else "right", no_wrap=column != "arm")
    groups: dict[tuple[str, int], list[RunCost]] = {}
    for cost in costs:
        groups.setdefault((cost.arm, cost.subset_size), []).append(cost)
    for (arm, size), runs in groups.items():
        first = runs[0]
        status = ", ".join(f"{sum(r.status == s for r in runs)} {s}" for s in dict.fromkeys(r.status for r in runs))
        if size == 0:
            table.add_row(arm, "open", "", "", "", "", "", *([""] if priced else []), status)
            continue
        cells = [arm, short_count(size), str(len(runs)), short_count(first.steps), short_count(first.samples_seen)]
        cells += [compute(first.flops), duration(sum(r.device_hours for r in runs))]
        if priced:
            cells.append(f"{sum(r.price or 0 for r in runs):,.0f} {hardware.currency}")
        table.add_row(*cells, status)
    console.print(table)
    hours = sum(cost.device_hours for cost in costs)
    money = f", {sum(cost.price or 0 for cost in costs):,.0f} {hardware.currency}" if priced else ""
    console.print(
        f"pretraining on {hardware.name}: {duration(hours)} of device time at {hardware.sustained_tflops:g} TFLOP/s sustained, "
        f"{duration(hours / hardware.num_devices)} on {hardware.num_devices} devices{money}",
        highlight=False,
        soft_wrap=True,
    )
    done = sum(state.status == "done" for state in states.values())
    besides = f"besides: {len(states) - len(costs)} steps of data, probes and analysis; {done} of {len(states)} steps are done"
    console.print(besides, highlight=False, soft_wrap=True)


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
