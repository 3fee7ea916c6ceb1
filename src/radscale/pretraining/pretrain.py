"""One pretraining run: from a dataset and weights to a checkpoint, with the compute it was given and the compute it used."""

import copy
import gc
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from radscale.datasets import Dataset, read_label_table
from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, build_encoder
from radscale.pretraining.compute_budget import ComputeBudget, steps_for, training_flops_per_sample
from radscale.pretraining.config import PretrainingConfig
from radscale.pretraining.contrastive import ContrastiveObjective, context_length
from radscale.pretraining.dinov2 import Dinov2Objective
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.knn import KnnMonitor
from radscale.pretraining.texts import read_training_rows
from radscale.training import LoopSettings, cosine_schedule, load_dino_head, load_encoder, save_checkpoint, start_fabric, train
from radscale.training.distributed import Ranks
from radscale.training.health import (
    METRICS,
    TENSORBOARD,
    Observer,
    check_tensorboard,
    device_memory_gb,
    peak_memory_gb,
    reset_peak_memory,
)
from radscale.training.trainer import EarlierState, OutOfMemoryError
from radscale.training.weight_files import write_json

CALIBRATION_WARMUP, CALIBRATION_STEPS = 2, 8
CALIBRATION = "calibration.json"
BUDGET_TOLERANCE = 0.02
MEMORY_RESERVE = 0.05
"""Of a GPU, for what its allocator cannot use."""
Objective = ContrastiveObjective | Dinov2Objective


def run_pretraining(
    config: PretrainingConfig,
    *,
    dataset: Path,
    labels: Path | None,
    init: Path | None,
    init_name: str | None = None,
    out: Path,
    work: Path,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = warnings.warn,
    fabric: Fabric | None = None,
    earlier_state: EarlierState = "resume",
    max_seconds: float | None = None,
) -> dict[str, Any]:
    """Train one encoder and write its checkpoint.

    Three cases, never mixed: a state of this very run in `work` is resumed; else weights in `init` are continued; else
    `config.architecture` is trained from scratch.

    Args:
        config: see `PretrainingConfig`.
        dataset: folder made by `radscale ingest`.
        labels: label table for UniCL (file or folder), or its `sections.parquet` beside it for the texts.
        init: checkpoint folder, or open weights of the model `init_name`.
        init_name: "dinov2", "rad-dino", "medimageinsight", or None for a radscale checkpoint.
        out: folder for the checkpoint.
        work: folder for the state of an unfinished run; it may be deleted when the run is done.
        progress: called with (done, all, what).
        say: called with one line for a person: alarms, a budget that was missed.
        fabric: devices, see `radscale.training.start_fabric`; None takes one. All processes of a run call this function with
            equal arguments; the first one writes.
        earlier_state: see `radscale.training.trainer.EarlierState`.
        max_seconds: end before so many seconds of wall clock with the state saved, for a scheduler's limit.

    Returns:
        Facts for the record: target and achieved budget, steps, samples seen, seconds, images per second, final losses, and
        the number of PyTorch's threads: sums are split among them, so that only runs with as many have equal bytes.

    Raises:
        InputError: data, weights and settings that do not go together.
        RunStopped: after a signal or at the end of `max_seconds`, with the state saved.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    if config.loop.tensorboard:
        check_tensorboard()
    fabric = fabric or start_fabric(precision=config.precision)
    ranks = Ranks.of(fabric)
    if config.batch_size % ranks.world_size:
        raise InputError(f"batch_size {config.batch_size} does not divide among {ranks.world_size} devices; take a multiple")
    data = Dataset(dataset)
    data.check_reviewed()
    rows = data.select(split="train") if config.subset_size is None else data.subset_rows(config.subset_size, config.replicate)
    loop = config.loop
    with SubsetImages(
        data, rows, config.max_memory_gb, read_ahead_gb=loop.read_ahead_gb, num_workers=loop.num_workers
    ) as images:
        return _train_on(
            images,
            config,
            rows=rows,
            labels=labels,
            init=init,
            init_name=init_name,
            out=out,
            work=work,
            progress=progress,
            say=say,
            fabric=fabric,
            earlier_state=earlier_state,
            deadline=deadline,
        )


def _train_on(
    images: SubsetImages,
    config: PretrainingConfig,
    *,
    rows: np.ndarray,
    labels: Path | None,
    init: Path | None,
    init_name: str | None,
    out: Path,
    work: Path,
    progress: Callable[[int, int, str], None] | None,
    say: Callable[[str], None],
    fabric: Fabric,
    earlier_state: EarlierState,
    deadline: float | None,
) -> dict[str, Any]:
    """`run_pretraining` on images that are open."""
    data, ranks = images.dataset, Ranks.of(fabric)
    encoder, head, from_scratch = _start(config, init, init_name)
    if config.loop.activation_checkpointing:
        encoder.set_activation_checkpointing(True)
    weights = _digest(encoder, head)
    flops = training_flops_per_sample(config, encoder)
    texts = None
    if config.objective != "dinov2":
        texts = read_training_rows(config, data, rows, labels, context_length(encoder, config))

    knn = None
    if config.knn.every_steps:
        if labels is None:
            raise InputError("knn.every_steps needs a label table; give labels, or set it to 0")
        knn = KnnMonitor(data, read_label_table(labels), rows, config.knn)

    def make(
        config: PretrainingConfig, encoder: Encoder, head: DinoHead | None, total_steps: int, knn: KnnMonitor | None = None
    ) -> Objective:
        """The objective, which changes the modules that it is given."""
        made: Objective
        if config.objective == "dinov2":
            made = Dinov2Objective(encoder, head, images, config, total_steps, from_scratch=from_scratch, ranks=ranks, knn=knn)
        else:
            assert texts is not None
            made = ContrastiveObjective(encoder, images, texts, config, from_scratch=from_scratch, ranks=ranks, knn=knn)
        images.follow(made.images_of_step, 0, total_steps)
        if config.loop.compile:
            _compile_blocks(made)
        return made

    def trial(config: PretrainingConfig, steps: int) -> list[float]:
        """Train a copy and forget it; the time after each step."""
        times: list[float] = []
        loop = replace(_loop_settings(config, steps, new_head=False), save_every_seconds=float("inf"))
        train(
            make(config, *copy.deepcopy((encoder, head)), steps),
            loop,
            work=work / "trial",
            identity={},
            fabric=fabric,
            observer=Observer(progress=lambda *_: times.append(time.monotonic())),
            earlier_state="discard",
        )
        if ranks.is_first:
            shutil.rmtree(work / "trial")
        return times

    seconds_per_sample = None
    if config.budget.unit == "gpu_seconds":
        seconds_per_sample = _calibrate(lambda steps: trial(config, steps), config.batch_size, ranks, work, earlier_state)
    steps = steps_for(config.budget, config.batch_size, flops_per_sample=flops, seconds_per_sample=seconds_per_sample)
    objective = make(config, encoder, head, steps, knn)
    for line in texts.remarks(config.objective) if texts is not None and ranks.is_first else ():
        say(line)
    alarms: list[str] = []

    def say_and_keep(line: str) -> None:
        alarms.append(line)
        say(line)

    observer = Observer(
        progress=progress if ranks.is_first else None,
        say=say_and_keep,
        input_facts=lambda: {"waiting_share": images.waiting_share},
        sample_ids=lambda step: images.sample_ids(objective.images_of_step(step)),
    )
    try:
        result = train(
            objective,
            replace(_loop_settings(config, steps, new_head=head is None), same_ranks_because=_rank_dependence(config)),
            work=work,
            identity=_identity(config, data, rows, steps, weights, objective),
            fabric=fabric,
            observer=observer,
            earlier_state=earlier_state,
            deadline=deadline,
        )
    except OutOfMemoryError as error:
        problem = str(error)
        result = None
    if result is None:  # here and not in the handler, whose traceback holds on to the memory
        del objective, observer
        raise OutOfMemoryError(problem + (_advice(config, trial) if ranks.world_size == 1 else ""))

    samples = steps * config.batch_size
    amounts = {"samples_seen": float(samples), "flops": samples * flops, "gpu_seconds": result.device_seconds}
    achieved = amounts[config.budget.unit]
    facts: dict[str, Any] = {
        "objective": config.objective,
        "num_images": len(images),
        "steps": steps,
        "samples_seen": samples,
        "flops_per_image": flops,
        "unit": config.budget.unit,
        "target": config.budget.amount,
        "achieved": achieved,
        "achieved_share": round(achieved / config.budget.amount, 4),
        "num_devices": ranks.world_size,
        "num_threads": torch.get_num_threads(),
        "training_seconds": round(result.seconds, 2),
        "device_seconds": round(result.device_seconds, 2),
        "images_per_second": round(samples / max(result.seconds, 1e-9), 1),
        "alarms": alarms,
        "final": {name: float(f"{value:.6g}") for name, value in result.last.items()},
    }
    if ranks.is_first and config.budget.unit == "gpu_seconds" and abs(achieved / config.budget.amount - 1) > BUDGET_TOLERANCE:
        say(
            f"budget: used {achieved:.4g} of {config.budget.amount:.4g} device seconds; the machine was not as fast as when it "
            "was calibrated. Equal compute is exact with a budget in FLOPs or samples seen"
        )
    info = {"objective": config.objective, "samples_seen": samples, "num_images": len(images)}
    if isinstance(objective, ContrastiveObjective):
        facts |= objective.facts()
    if ranks.is_first:
        if isinstance(objective, Dinov2Objective):
            exported, exported_head = objective.export()
            save_checkpoint(out, exported, head=exported_head, info=info)
        else:
            save_checkpoint(out, objective.export(), info=info)
        shutil.copyfile(work / METRICS, out / METRICS)
        if config.loop.tensorboard:
            shutil.copytree(work / TENSORBOARD, out / TENSORBOARD, dirs_exist_ok=True)
    ranks.wait()
    return facts


def _start(config: PretrainingConfig, init: Path | None, init_name: str | None) -> tuple[Encoder, DinoHead | None, bool]:
    if init is None:
        if config.architecture is None:
            raise InputError("give weights to continue (init), or an architecture to train from scratch")
        return build_encoder(config.architecture, config.seed), None, True
    encoder = load_encoder(str(init)) if init_name is None else load_encoder(init_name, init)
    head = load_dino_head(init) if config.objective == "dinov2" and init.is_dir() else None
    return encoder, head, False


def _loop_settings(config: PretrainingConfig, steps: int, *, new_head: bool) -> LoopSettings:
    warmup = min(round(config.warmup_fraction * steps), steps - 1)
    final_decay = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    frozen: dict[str, int] = {}
    rise: dict[str, int] = {}
    if config.objective == "dinov2":
        frozen["backbone"] = round(config.dinov2.head_warmup_fraction * steps)
        if frozen["backbone"]:
            # AdamW's first steps are of the full rate in every weight; at the schedule's peak they undo what was learned.
            rise["backbone"] = warmup
        if new_head:
            frozen["head.last_layer"] = round(config.dinov2.prototype_freeze_fraction * steps)
    return LoopSettings(
        learning_rate=cosine_schedule(config.learning_rate, config.final_learning_rate, steps, warmup),
        weight_decay=cosine_schedule(config.weight_decay, final_decay, steps),
        clip_norm=config.clip_norm,
        frozen=frozen,
        rise=rise,
        images_per_step=config.batch_size,
        log_every=config.loop.log_every,
        save_every_seconds=config.loop.save_every_seconds,
        keep_states=config.loop.keep_states,
        tensorboard=config.loop.tensorboard,
    )


def _compile_blocks(objective: Objective) -> None:
    """The blocks of all its networks, a teacher's too: they are many and alike, so that little is compiled, once."""
    for network in (value for value in vars(objective).values() if isinstance(value, nn.Module)):
        for module in network.modules():
            if type(module).__name__.endswith("Block"):
                module.compile()


def _rank_dependence(config: PretrainingConfig) -> str:
    """What another number of devices would average otherwise; "" where only the rounding of sums differs."""
    koleo = config.objective == "dinov2" and config.dinov2.koleo_weight > 0
    return "KoLeo is taken among the images of one device" if koleo else ""


def _calibrate(
    trial: Callable[[int], list[float]], batch_size: int, ranks: Ranks, work: Path, earlier_state: EarlierState
) -> float:
    """Device seconds of one image on this hardware, measured once per run and kept, so that a resumed run plans the same steps.
    They are not counted as training."""
    path = work / CALIBRATION
    known = None
    if path.exists() and earlier_state != "discard":
        known = float(json.loads(path.read_text(encoding="utf-8"))["seconds_per_sample"])
    known = ranks.collect(known)[0]
    if known is not None:
        return known
    times = trial(CALIBRATION_WARMUP + CALIBRATION_STEPS)
    seconds = (times[-1] - times[CALIBRATION_WARMUP - 1]) / CALIBRATION_STEPS
    value = ranks.collect(seconds * ranks.world_size / batch_size)[0]
    if ranks.is_first:
        write_json(path, {"seconds_per_sample": value})
    return value


def _advice(config: PretrainingConfig, trial: Callable[[PretrainingConfig, int], list[float]]) -> str:
    """The largest batch that fits, from the memory of two steps that are known to be small."""
    peaks = {}
    try:
        for images in (2, 4):
            gc.collect()
            reset_peak_memory()
            trial(replace(config, batch_size=images, budget=ComputeBudget.samples_seen(images)), 1)
            peaks[images] = peak_memory_gb()
    except OutOfMemoryError:
        return "; not even 4 images fit: take a smaller encoder or smaller images"
    return f"; about {images_that_fit(device_memory_gb(), peaks[2], peaks[4])} would fit as they are now"


def images_that_fit(memory_gb: float, peak_of_2_gb: float, peak_of_4_gb: float) -> int:
    """Images of a step on a device: weights and optimizer are the same for every batch, the rest grows with it.

    Args:
        memory_gb: of the device.
        peak_of_2_gb: most memory of a step with 2 images.
        peak_of_4_gb: most memory of a step with 4 images.
    """
    per_image = (peak_of_4_gb - peak_of_2_gb) / 2
    fixed = peak_of_2_gb - 2 * per_image
    return max(4, int(((1 - MEMORY_RESERVE) * memory_gb - fixed) / per_image)) if per_image > 0 else 4


def _digest(*modules: nn.Module | None) -> str:
    """SHA-256 of names and weights."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in (module.state_dict() if module is not None else {}).items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(
    config: PretrainingConfig, data: Dataset, rows: np.ndarray, steps: int, weights: str, objective: Objective
) -> dict[str, Any]:
    """Names this run, fact by fact: a state of other settings, weights, images, texts or another number of steps is of another
    run. How it is logged, saved and fed with images is left out."""
    settings = asdict(config)
    compiled = settings.pop("loop")["compile"]
    for name in ("budget", "max_memory_gb"):
        settings.pop(name)
    facts = {**_flat(settings), "budget": f"{config.budget.amount:g} {config.budget.unit}", "loop.compile": compiled}
    facts |= {"steps": steps, "weights": weights, "images of the subset": data.fingerprint(rows)}
    if isinstance(objective, ContrastiveObjective):
        facts["texts"] = objective.rows.digest()
    return facts


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(list(value)) if isinstance(value, list | tuple) else value
    return flat


__all__ = ["ComputeBudget", "run_pretraining"]
