"""One pretraining run: from a dataset and weights to a checkpoint, with the compute it was given and the compute it used."""

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from radscale.datasets import Dataset, read_label_table
from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, build_encoder
from radscale.pretraining.compute_budget import ComputeBudget, steps_for, training_flops_per_sample
from radscale.pretraining.config import PretrainingConfig
from radscale.pretraining.contrastive import ContrastiveObjective
from radscale.pretraining.dinov2 import Dinov2Objective
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.knn import KnnMonitor
from radscale.pretraining.texts import TrainingRows, label_text, report_text, training_rows, view_prefix
from radscale.training import LoopSettings, cosine_schedule, load_dino_head, load_encoder, save_checkpoint, train

CALIBRATION_STEPS = 3
CALIBRATION = "calibration.json"


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

    Returns:
        Facts for the record: target and achieved budget, steps, samples seen, seconds, images per second, final losses, and
        the number of PyTorch's threads: sums are split among them, so that only runs with as many have equal bytes.

    Raises:
        InputError: data, weights and settings that do not go together.
    """
    data = Dataset(dataset)
    rows = data.select(split="train") if config.subset_size is None else data.subset_rows(config.subset_size, config.replicate)
    images = SubsetImages(data, rows.tolist(), config.max_memory_gb)
    encoder, head, from_scratch = _start(config, init, init_name)
    weights = _digest(encoder, head)
    flops = training_flops_per_sample(config, encoder)

    knn = None
    if config.knn.every_steps:
        if labels is None:
            raise InputError("knn.every_steps needs a label table; give labels, or set it to 0")
        knn = KnnMonitor(data, read_label_table(labels), rows, config.knn)

    def make(encoder: Encoder, head: DinoHead | None, total_steps: int) -> ContrastiveObjective | Dinov2Objective:
        """The objective, which changes the modules that it is given."""
        if config.objective == "dinov2":
            return Dinov2Objective(encoder, head, images, config, total_steps, from_scratch=from_scratch, knn=knn)
        return ContrastiveObjective(encoder, images, _rows(config, data, rows, labels), config, from_scratch=from_scratch)

    seconds_per_sample = None
    if config.budget.unit == "gpu_seconds":
        seconds_per_sample = _calibrate(lambda steps: make(*copy.deepcopy((encoder, head)), steps), config, work)
    steps = steps_for(config.budget, config.batch_size, flops_per_sample=flops, seconds_per_sample=seconds_per_sample)
    objective = make(encoder, head, steps)
    identity = _identity(config, data, rows, steps, weights, objective)
    loop = _loop_settings(config, steps, new_head=head is None)
    result = train(objective, loop, work=work, identity=identity, progress=progress)

    samples = steps * config.batch_size
    achieved = {"samples_seen": float(samples), "flops": samples * flops, "gpu_seconds": result.seconds}
    facts: dict[str, Any] = {
        "objective": config.objective,
        "num_images": len(images),
        "steps": steps,
        "samples_seen": samples,
        "flops_per_image": flops,
        "unit": config.budget.unit,
        "target": config.budget.amount,
        "achieved": achieved[config.budget.unit],
        "num_threads": torch.get_num_threads(),
        "training_seconds": round(result.seconds, 2),
        "images_per_second": round(samples / max(result.seconds, 1e-9), 1),
        "final": {name: float(f"{value:.6g}") for name, value in result.last.items()},
    }
    info = {"objective": config.objective, "samples_seen": samples, "num_images": len(images)}
    if isinstance(objective, Dinov2Objective):
        exported, exported_head = objective.export()
        save_checkpoint(out, exported, head=exported_head, info=info)
    else:
        facts["num_texts"] = len(objective.rows.text)
        facts["num_label_texts"] = int((objective.rows.label > 0).sum())
        facts["truncated_text_share"] = round(objective.num_truncated / len(objective.rows.text), 4)
        save_checkpoint(out, objective.export(), info=info)
    shutil.copyfile(work / "metrics.jsonl", out / "metrics.jsonl")
    return facts


def _start(config: PretrainingConfig, init: Path | None, init_name: str | None) -> tuple[Encoder, DinoHead | None, bool]:
    if init is None:
        if config.architecture is None:
            raise InputError("give weights to continue (init), or an architecture to train from scratch")
        return build_encoder(config.architecture, config.seed), None, True
    encoder = load_encoder(str(init)) if init_name is None else load_encoder(init_name, init)
    head = load_dino_head(init) if config.objective == "dinov2" and init.is_dir() else None
    return encoder, head, False


def _rows(config: PretrainingConfig, data: Dataset, rows: np.ndarray, labels: Path | None) -> TrainingRows:
    manifest = data.manifest.select(["sample_id", "study_id", "view", "view_position"]).take(rows)
    studies = manifest["study_id"].to_pylist()
    sections = _sections(data, labels)
    reports = [report_text(sections.get(study, {}), config.text) for study in studies]
    names = [""] * len(studies)
    if config.objective == "unicl":
        tasks, positives = _positives(labels, config)
        keys = zip(manifest["sample_id"].to_pylist(), studies, strict=True)
        names = [label_text(positives.get(("sample", s), set()) | positives.get(("study", t), set()), tasks) for s, t in keys]
        if not any(names):
            raise InputError(
                f"objective unicl: none of label_tasks ({', '.join(tasks)}) is positive in the {len(studies):,} images of the "
                "subset; name tasks that the label table has, or take a larger subset"
            )
    elif not any(reports):
        raise InputError("objective clip: no image of the subset has a report; ingest reports, or use unicl or dinov2")
    prefixes = [""] * len(studies)
    if config.text.view_prefix:
        views = zip(manifest["view_position"].to_pylist(), manifest["view"].to_pylist(), strict=True)
        prefixes = [view_prefix(position or "", view or "") for position, view in views]
    return training_rows(reports, names, prefixes, identical_texts_are_positives=config.text.identical_texts_are_positives)


def _sections(data: Dataset, labels: Path | None) -> dict[str, dict[str, str]]:
    """Report sections by study: those that `radscale extract` split, else as they came."""
    import pyarrow.parquet as pq

    split = None if labels is None else (labels if labels.is_dir() else labels.parent) / "sections.parquet"
    table = pq.read_table(split) if split is not None and split.exists() else data.reports()
    return {row["study_id"]: row for row in table.to_pylist()}


def _positives(labels: Path | None, config: PretrainingConfig) -> tuple[dict[str, str], dict[tuple[str, str], set[str]]]:
    """Words of the label tasks, and the positive ones of each study and sample."""
    if labels is None:
        raise InputError("objective unicl needs a label table; give labels (see `radscale extract`)")
    table = read_label_table(labels)
    wanted = config.label_tasks
    if wanted == "all":
        wanted = {task: task.replace("_", " ") for task in sorted(set(table["task"].to_pylist()))}
    found: dict[tuple[str, str], set[str]] = {}
    columns = (table[name].to_pylist() for name in ("level", "id", "task", "state"))
    for level, key, task, state in zip(*columns, strict=True):
        if state == "positive" and task in wanted:
            found.setdefault((level, key), set()).add(task)
    return wanted, found


def _loop_settings(config: PretrainingConfig, steps: int, *, new_head: bool) -> LoopSettings:
    warmup = min(round(config.warmup_fraction * steps), steps - 1)
    final_decay = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    frozen: dict[str, int] = {}
    if config.objective == "dinov2":
        frozen["backbone"] = round(config.dinov2.head_warmup_fraction * steps)
        if new_head:
            frozen["head.last_layer"] = round(config.dinov2.prototype_freeze_fraction * steps)
    return LoopSettings(
        learning_rate=cosine_schedule(config.learning_rate, config.final_learning_rate, steps, warmup),
        weight_decay=cosine_schedule(config.weight_decay, final_decay, steps),
        clip_norm=config.clip_norm,
        frozen=frozen,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[config.precision],
        images_per_step=config.batch_size,
    )


def _calibrate(make: Callable[[int], ContrastiveObjective | Dinov2Objective], config: PretrainingConfig, work: Path) -> float:
    """Seconds of one image on this hardware, measured once per run and kept, so that a resumed run plans the same steps."""
    path = work / CALIBRATION
    if path.exists():
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds_per_sample"])
    trial = work / "trial"
    seconds = []
    for steps in (1, 1 + CALIBRATION_STEPS):  # the first trial warms up
        shutil.rmtree(trial, ignore_errors=True)  # of a session that was killed here
        objective = make(steps)
        started = time.monotonic()
        train(objective, _loop_settings(config, steps, new_head=False), work=trial, identity="trial")
        seconds.append(time.monotonic() - started)
    shutil.rmtree(trial)
    value = max(seconds[1] - seconds[0], seconds[1] / (2 + CALIBRATION_STEPS)) / (CALIBRATION_STEPS * config.batch_size)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"seconds_per_sample": value}), encoding="utf-8")
    temporary.replace(path)
    return value


def _digest(*modules: nn.Module | None) -> str:
    """SHA-256 of names and weights."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in (module.state_dict() if module is not None else {}).items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(
    config: PretrainingConfig,
    data: Dataset,
    rows: np.ndarray,
    steps: int,
    weights: str,
    objective: ContrastiveObjective | Dinov2Objective,
) -> str:
    """Names this run: a state of other settings, weights, images, texts or another number of steps is not resumed."""
    facts: dict[str, Any] = {
        "settings": {**asdict(config), "budget": [config.budget.unit, config.budget.amount]},
        "steps": steps,
        "weights": weights,
        "images": data.manifest["sha256"].take(rows).to_pylist(),
    }
    if isinstance(objective, ContrastiveObjective):
        pairs = objective.rows
        facts["pairs"] = [pairs.image.tolist(), pairs.text, pairs.label.tolist()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


__all__ = ["ComputeBudget", "run_pretraining"]
