"""Whole runs on a small dataset: what they learn, that they resume bit for bit, and what they refuse."""

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blob_dataset import ENCODER, write_dataset
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
from radscale.pretraining.config import Augmentation, Dinov2Options, TextOptions
from radscale.training import load_encoder, save_checkpoint, trainer

OPTIONS = Dinov2Options(
    global_size_px=32, local_size_px=16, num_local_crops=2, num_prototypes=32, head_hidden=32, head_bottleneck=16, drop_path=0.2
)
ARCHITECTURE = {**ENCODER["architecture"], "drop_path": 0.2}
STOCHASTIC = {**ENCODER, "architecture": ARCHITECTURE}
"""With stochastic depth: a draw from any generator but the run's own would show."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip": {},
    "unicl": {"label_tasks": {"blob": "blob", "stripe": "stripe"}},
    "dinov2": {"dinov2": OPTIONS},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("pretraining") / "dataset")


def settings(objective: str, steps: int = 6, **changes: Any) -> PretrainingConfig:
    values = {"architecture": STOCHASTIC, "batch_size": 16, "image_size_px": 32, "learning_rate": 1e-3, "subset_size": 100}
    values |= {"budget": ComputeBudget.samples_seen(16 * steps), **OBJECTIVES[objective], **changes}
    return PretrainingConfig(objective=objective, **values)  # type: ignore[arg-type]


def pretrain(
    config: PretrainingConfig, data: Path, folder: Path, progress: Callable[[int, int, str], None] | None = None, **where: Any
) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    labels = data / "labels.parquet" if config.objective == "unicl" else None
    places = {"init": None, "labels": labels, "out": folder / "out", "work": folder / "work", **where}
    return run_pretraining(config, dataset=data, progress=progress, **places)


def digests(folder: Path) -> dict[str, str]:
    """Of everything but the log, which holds rates."""
    files = sorted(path for path in (folder / "out").rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_stopped_or_killed_and_run_again_ends_with_the_same_bytes(
    objective: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(objective)
    straight = pretrain(config, data, tmp_path / "straight")
    assert "model.safetensors" in digests(tmp_path / "straight")

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        pretrain(config, data, tmp_path / "stopped", stop)
    assert stopped.value.code == trainer.EXIT_INTERRUPTED

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if done == 5:
            raise Killed  # after the state of step 4 was written, before that of step 5

    monkeypatch.setattr(trainer.LoopSettings, "save_every_seconds", -1.0)
    config_kept = settings(objective)
    with pytest.raises(Killed):
        pretrain(config_kept, data, tmp_path / "stopped", kill)
    resumed = pretrain(config, data, tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "straight")
    assert resumed["final"] == straight["final"]


def test_a_state_of_another_run_is_not_resumed(data: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        pretrain(settings("clip"), data, tmp_path / "a", stop)
    other = settings("clip", learning_rate=3e-4)
    pretrain(other, data, tmp_path / "a")
    pretrain(other, data, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_seeds_and_replicates_matter_and_nothing_else_does(data: Path, tmp_path: Path) -> None:
    found = {}
    for name, config in {
        "first": settings("clip"),
        "again": settings("clip"),
        "seed": settings("clip", seed=1),
        "size": settings("clip", subset_size=60),
    }.items():
        pretrain(config, data, tmp_path / name)
        found[name] = digests(tmp_path / name)["model.safetensors"]
    assert found["first"] == found["again"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("objective", ["clip", "unicl"])
def test_contrastive_training_learns_which_text_belongs_to_an_image(objective: str, data: Path, tmp_path: Path) -> None:
    text, crops = TextOptions(identical_texts_are_positives=True), Augmentation(crop_scale=(0.95, 1.0))
    config = settings(objective, steps=200, batch_size=32, subset_size=None, text=text, augmentation=crops)
    facts = pretrain(config, data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    # Eight texts for 120 images: knowing the classes is worth more than half a nat over guessing, ln 32.
    assert lines[0]["loss"] == pytest.approx(3.466, abs=0.01)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.4
    assert facts["final"]["mean_image_cosine"] < 0.95


def test_dinov2_does_not_collapse(data: Path, tmp_path: Path) -> None:
    facts = pretrain(settings("dinov2", steps=40, subset_size=None), data, tmp_path)
    assert facts["final"]["feature_std"] > 0.01  # 0 if all images look alike to it
    assert facts["final"]["teacher_entropy"] > 0.5  # 0 if the teacher always names the same prototype


def test_achieved_budget_is_within_half_a_step_of_its_target(data: Path, tmp_path: Path) -> None:
    config = settings("clip", budget=ComputeBudget.flops(3e10))
    facts = pretrain(config, data, tmp_path)
    assert abs(facts["achieved"] - 3e10) <= 0.5 * config.batch_size * facts["flops_per_image"]
    assert facts["samples_seen"] == facts["steps"] * config.batch_size


def test_a_budget_in_seconds_is_kept_and_a_resumed_run_plans_the_same_steps(data: Path, tmp_path: Path) -> None:
    config = settings("clip", budget=ComputeBudget.gpu_seconds(1.5))
    planned = []

    def stop(done: int, total: int, what: str) -> None:
        planned.append(total)
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        pretrain(config, data, tmp_path, stop)
    facts = pretrain(config, data, tmp_path)
    assert facts["steps"] == planned[0]
    assert facts["steps"] > 2


def test_continued_training_keeps_what_it_started_from(data: Path, tmp_path: Path) -> None:
    """A step of no size exports the weights that it was given."""
    start = tmp_path / "start"
    encoder = build_encoder(ENCODER, seed=3)
    save_checkpoint(start, encoder, info={"objective": "none"})
    config = settings("clip", architecture=None, learning_rate=1e-12, weight_decay=0.0)
    pretrain(config, data, tmp_path, init=start)
    exported = load_encoder(str(tmp_path / "out")).state_dict()
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(exported[f"image_encoder.{name.removeprefix('backbone.')}"], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "clip", "subset_size": 5000}, "subset of 5,000 images: the dataset has 120"),
        ({"objective": "clip", "replicate": 4}, "replicate 4"),
        ({"objective": "clip", "batch_size": 128}, "fewer than batch_size 128"),
        ({"objective": "dinov2", "batch_size": 128}, "fewer than batch_size 128"),
        ({"objective": "unicl", "label_tasks": {"nosuch": "x"}}, "none of label_tasks"),
        ({"objective": "clip", "architecture": None}, "give weights to continue"),
    ],
)
def test_refused(change: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pretrain(settings(**change), data, tmp_path)


def test_a_backbone_without_its_head_is_not_trained_against_a_random_one(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    save_checkpoint(start, build_encoder(ENCODER, seed=3), info={"objective": "none"})
    with pytest.raises(InputError, match="head_warmup_fraction"):
        pretrain(settings("dinov2", architecture=None), data, tmp_path, init=start)
