"""Whole runs on a small dataset: what they learn, that they resume bit for bit, and what they refuse."""

import dataclasses
import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blob_dataset import ENCODER, write_dataset
from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models import DinoHead, build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
from radscale.pretraining import pretrain as pretrain_module
from radscale.pretraining.config import Augmentation, ContrastiveOptions, Dinov2Options, LoopOptions, TextOptions
from radscale.pretraining.contrastive import ContrastiveObjective
from radscale.pretraining.texts import read_training_rows
from radscale.training import NonFiniteLossError, RunStopped, load_dino_head, load_encoder, save_checkpoint, trainer
from radscale.training.checkpointing import TrainingStates
from radscale.training.stopping import EXIT_INTERRUPTED
from radscale.training.trainer import OutOfMemoryError

OPTIONS = Dinov2Options(
    global_size_px=32, local_size_px=16, num_local_crops=2, num_prototypes=32, head_hidden=32, head_bottleneck=16, drop_path=0.2
)
ARCHITECTURE = {**ENCODER["architecture"], "drop_path": 0.2}
STOCHASTIC = {**ENCODER, "architecture": ARCHITECTURE}
"""With stochastic depth: a draw from any generator but the run's own would show."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip": {},
    "unicl": {"label_tasks": {"blob": "blob", "stripe": "stripe"}, "contrastive": ContrastiveOptions(micro_batch_size=5)},
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


class Killed(BaseException):
    """What no handler catches: the process ends here without another word."""


def end_at(step: int, how: str) -> Callable[[int, int, str], None]:
    """Stop politely (SIGTERM) or die after `step` steps."""

    def progress(done: int, total: int, what: str) -> None:
        if done == step:
            if how == "killed":
                raise Killed
            signal.raise_signal(signal.SIGTERM)

    return progress


def tensors(value: Any, name: str = "") -> dict[str, Any]:
    """All leaves of nested dicts and lists by their path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, item in items for path, leaf in tensors(item, f"{name}/{key}").items()}
    return {name: value}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_stopped_and_killed_at_any_step_ends_with_the_same_bytes(
    objective: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(objective)
    straight = pretrain(config, data, tmp_path / "straight")
    assert "model.safetensors" in digests(tmp_path / "straight")
    with pytest.raises(SystemExit) as stopped:
        pretrain(config, data, tmp_path / "stopped", end_at(2, "stopped"))
    assert stopped.value.code == EXIT_INTERRUPTED
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_module, "_loop_settings", saving_every_step(pretrain_module._loop_settings))
        with pytest.raises(Killed):
            pretrain(config, data, tmp_path / "stopped", end_at(4, "killed"))  # the state is that of step 3
    steps_done: list[int] = []
    with pytest.raises(SystemExit):
        pretrain(
            config, data, tmp_path / "stopped", lambda done, *_: (steps_done.append(done), end_at(6, "stopped")(done, 6, ""))
        )
    assert steps_done == [4, 5, 6]
    resumed = pretrain(config, data, tmp_path / "stopped")  # nothing is left to do but to write the result
    assert digests(tmp_path / "stopped") == digests(tmp_path / "straight")
    assert resumed["final"] == straight["final"]


def saving_every_step(make: Callable[..., trainer.LoopSettings]) -> Callable[..., trainer.LoopSettings]:
    return lambda *args, **kwargs: dataclasses.replace(make(*args, **kwargs), save_every_seconds=-1.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_resumed_run_passes_through_the_same_states(objective: str, data: Path, tmp_path: Path) -> None:
    """Model, average or teacher, centres and optimizer, in every bit, at a step drawn for each objective."""
    rng = np.random.default_rng(len(objective))
    first, last = sorted(rng.choice(np.arange(1, 8), 2, replace=False).tolist())
    config = settings(objective, steps=8)
    for folder, steps in (("straight", [last]), ("resumed", [first, last])):
        for step in steps:
            with pytest.raises(SystemExit):
                pretrain(config, data, tmp_path / folder, end_at(step, "stopped"))
    states = [TrainingStates(tmp_path / folder / "work").newest() for folder in ("straight", "resumed")]
    times = ("/seconds", "/device_seconds")
    one, other = ({path: leaf for path, leaf in tensors(state).items() if path not in times} for state in states)
    assert one.keys() == other.keys()
    assert any("teacher" in path or "average" in path for path in one)
    assert any("exp_avg_sq" in path for path in one)
    for path, leaf in one.items():
        assert torch.equal(leaf, other[path]) if isinstance(leaf, torch.Tensor) else leaf == other[path], path


@pytest.mark.parametrize("changed", ["weights", "texts"])
def test_a_state_belongs_to_its_weights_and_texts(changed: str, data: Path, tmp_path: Path) -> None:
    for seed in (3, 4):
        save_checkpoint(tmp_path / f"start{seed}", build_encoder(ENCODER, seed=seed), info={})
    reports = [pq.read_table(data / "reports.parquet").to_pylist() for _ in range(2)]
    for row in reports[1]:
        row["findings"] = row["findings"].replace("blob", "lump")
    for index, rows in enumerate(reports):
        (tmp_path / f"labels{index}").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"labels{index}" / "sections.parquet")
    config = settings("clip", architecture=None)
    before = {"init": tmp_path / "start3", "labels": tmp_path / "labels0"}
    after = {**before, "init": tmp_path / "start4"} if changed == "weights" else {**before, "labels": tmp_path / "labels1"}
    with pytest.raises(SystemExit):
        pretrain(config, data, tmp_path / "a", end_at(3, "stopped"), **before)
    with pytest.raises(InputError, match=f"step 3 of another run \\({changed}: changed\\); .* or add --restart"):
        pretrain(config, data, tmp_path / "a", **after)
    pretrain(config, data, tmp_path / "a", **after, earlier_state="resume_or_restart")
    pretrain(config, data, tmp_path / "b", **after)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_timing_trials_leave_the_weights_and_the_head_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    save_checkpoint(start, build_encoder(ENCODER, seed=3), head=DinoHead(32, 32, 32, 16), info={})
    plain = settings("dinov2", steps=4, architecture=None)
    pretrain(plain, data, tmp_path / "plain", init=start)
    monkeypatch.setattr(pretrain_module, "steps_for", lambda *args, **kwargs: 4)
    timed = dataclasses.replace(plain, budget=ComputeBudget.gpu_seconds(1))
    facts = pretrain(timed, data, tmp_path / "timed", init=start)
    assert facts["target"] == 1
    assert digests(tmp_path / "timed") == digests(tmp_path / "plain")
    assert not (tmp_path / "timed" / "work" / "trial").exists()


def test_prototypes_of_a_random_head_stay_at_first_and_those_of_a_given_one_do_not(data: Path, tmp_path: Path) -> None:
    head = DinoHead(32, 32, 32, 16)
    head.reset_parameters(torch.Generator().manual_seed(0))  # what a run of seed 0 would draw
    save_checkpoint(tmp_path / "with", build_encoder(ENCODER, seed=3), head=head, info={})
    save_checkpoint(tmp_path / "without", build_encoder(ENCODER, seed=3), info={})
    # Both halves of the run: a backbone at rest lets the run begin without a head.
    options = dataclasses.replace(OPTIONS, prototype_freeze_fraction=1.0, head_warmup_fraction=1.0)
    config = settings("dinov2", architecture=None, dinov2=options)
    moved = {}
    for name in ("with", "without"):
        pretrain(config, data, tmp_path / f"run-{name}", init=tmp_path / name)
        exported = load_dino_head(tmp_path / f"run-{name}" / "out")
        assert exported is not None
        assert not torch.equal(exported.mlp[0].weight, head.mlp[0].weight)
        moved[name] = not torch.equal(exported.last_layer.weight_v, head.last_layer.weight_v)
    assert moved == {"with": True, "without": False}


def test_a_head_warm_up_keeps_the_backbone_in_every_bit(data: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "start", build_encoder(ENCODER, seed=3), info={})
    options = dataclasses.replace(OPTIONS, head_warmup_fraction=1.0, momentum=(0.5, 0.5))
    pretrain(settings("dinov2", architecture=None, dinov2=options), data, tmp_path / "run", init=tmp_path / "start")
    before, after = (load_encoder(str(folder)) for folder in (tmp_path / "start", tmp_path / "run" / "out"))
    after_state = after.state_dict()
    assert all(torch.equal(value, after_state[name]) for name, value in before.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_crops": -1}, "num_local_crops is -1"),
        ({"global_scale": (0.9, 0.3)}, "global_scale is"),
        ({"mask_ratio": (0.1, 1.5)}, "mask_ratio is"),
        ({"student_temperature": 0.0}, "student_temperature is 0.0"),
        ({"centering": "mean"}, "centering is mean; it must be centering or sinkhorn"),
        ({"blur_probability": (0.5, 0.1)}, "blur_probability is"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"head_warmup_fraction": 1.1}, "head_warmup_fraction is 1.1"),
    ],
)
def test_dinov2_options_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^dinov2.{message}"):
        Dinov2Options(**change)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_loss_that_is_no_number_stops_the_run_with_one_line(objective: str, data: Path, tmp_path: Path) -> None:
    config = settings(objective, steps=50, learning_rate=1e25, clip_norm=None)
    with pytest.raises(NonFiniteLossError, match=r"at step \d+.*try a lower learning rate") as stopped:
        pretrain(config, data, tmp_path)
    assert isinstance(stopped.value, InputError)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_state_of_another_run_is_not_resumed(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        pretrain(settings("clip"), data, tmp_path / "a", end_at(3, "stopped"))
    other = settings("clip", learning_rate=3e-4)
    with pytest.raises(InputError, match=r"learning_rate: 0.001 -> 0.0003"):
        pretrain(other, data, tmp_path / "a")
    pretrain(other, data, tmp_path / "a", earlier_state="discard")
    pretrain(other, data, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_run_goes_on_with_other_settings_of_the_loop(data: Path, tmp_path: Path) -> None:
    """How it is logged, saved and fitted into memory is no part of what is learned."""
    with pytest.raises(SystemExit):
        pretrain(settings("clip"), data, tmp_path / "a", end_at(3, "stopped"))
    leaner = LoopOptions(log_every=1, activation_checkpointing=True, keep_states=3)
    pretrain(settings("clip", loop=leaner, max_memory_gb=1e-9), data, tmp_path / "a")
    pretrain(settings("clip"), data, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_run_ends_before_its_wall_clock_limit(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStopped) as stopped:
        pretrain(settings("clip"), data, tmp_path, max_seconds=1)
    assert (stopped.value.reason, stopped.value.step) == ("wall clock", 1)


def test_a_bad_step_names_its_images(data: Path, tmp_path: Path) -> None:
    config = settings("clip", steps=50, learning_rate=1e25, clip_norm=None)
    with pytest.raises(
        NonFiniteLossError, match=r"at step \d+ with images [0-9a-f]{16}, .* and 11 more, all in non_finite.json"
    ):
        pretrain(config, data, tmp_path)
    found = json.loads((tmp_path / "work" / "non_finite.json").read_text())
    subset = Dataset(data).manifest["sample_id"].to_pylist()[:100]
    assert len(found["sample_ids"]) == config.batch_size
    assert set(found["sample_ids"]) <= set(subset)


def test_a_step_that_is_too_large_for_the_memory_says_how_many_images_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of 1 GB, where weights take 0.2 GB and an image 0.1 GB."""
    sizes: list[int] = []
    real = ContrastiveObjective.loss

    def loss(self: ContrastiveObjective, step: int) -> Any:
        sizes.append(self.config.batch_size)
        if self.config.batch_size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, step)

    monkeypatch.setattr(ContrastiveObjective, "loss", loss)
    monkeypatch.setattr(pretrain_module, "peak_memory_gb", lambda: 0.2 + 0.1 * sizes[-1])
    monkeypatch.setattr(pretrain_module, "device_memory_gb", lambda: 1.0)
    expected = "^out of memory on cpu with 16 images per device; .*; about 7 would fit as they are now$"
    with pytest.raises(OutOfMemoryError, match=expected):
        pretrain(settings("clip"), data, tmp_path)
    assert not (tmp_path / "work" / "trial").exists()


def test_a_batch_is_shared_among_devices_evenly(data: Path, tmp_path: Path) -> None:
    fabric = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(InputError, match="batch_size 16 does not divide among 3 devices"):
        pretrain(settings("clip"), data, tmp_path, fabric=fabric)


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


@pytest.mark.parametrize("centering", ["centering", "sinkhorn"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_half_precision_learns_nearly_the_same(objective: str, centering: str, data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"augmentation": Augmentation(recipe="medimageinsight")}
    if objective == "dinov2":
        changes = {"dinov2": dataclasses.replace(OPTIONS, centering=centering)}
    # KoLeo aside: at random weights all images look alike, and it is the logarithm of distances that are mere rounding.
    compared = ("dino_global", "dino_local", "ibot") if objective == "dinov2" else ("loss",)
    first = {}
    for precision in ("fp32", "bf16"):
        facts = pretrain(settings(objective, precision=precision, **changes), data, tmp_path / precision)
        assert np.isfinite(facts["final"]["loss"])
        lines = (tmp_path / precision / "out" / "metrics.jsonl").read_text().splitlines()
        line = next(line for line in map(json.loads, lines) if "loss" in line)
        first[precision] = [line[name] for name in compared]
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.01)
    assert first["bf16"] != first["fp32"]
    for weights in (load_encoder(str(tmp_path / "bf16" / "out")).state_dict()).values():
        assert weights.dtype == torch.float32


@pytest.mark.parametrize("objective", ["clip", "unicl"])
def test_contrastive_training_learns_which_text_belongs_to_an_image(objective: str, data: Path, tmp_path: Path) -> None:
    text, crops = TextOptions(identical_texts_are_positives=True), Augmentation(crop_scale=(0.95, 1.0))
    config = settings(objective, steps=200, batch_size=32, subset_size=None, text=text, augmentation=crops)
    facts = pretrain(config, data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    # Eight texts for 120 images: knowing the classes is worth more than half a nat over guessing, ln 32.
    assert [lines[0]["step"], lines[1]["step"]] == [1, 10]
    assert lines[1]["loss"] == pytest.approx(3.466, abs=0.01)
    assert lines[-1]["loss"] < lines[1]["loss"] - 0.4
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


def test_a_budget_in_seconds_is_turned_into_steps_and_a_resumed_run_plans_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock of its own: the steps that warm up take a second each, all others 0.1 s.
    warmup = pretrain_module.CALIBRATION_WARMUP
    clock = iter([*range(1, warmup + 1), *(warmup + 0.1 * (1 + step) for step in range(pretrain_module.CALIBRATION_STEPS))])
    monkeypatch.setattr(pretrain_module, "time", SimpleNamespace(monotonic=clock.__next__))
    config = settings("clip", budget=ComputeBudget.gpu_seconds(1.5))
    planned = []

    def stop(done: int, total: int, what: str) -> None:
        planned.append(total)
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        pretrain(config, data, tmp_path, stop)
    facts = pretrain(config, data, tmp_path)
    assert facts["steps"] == planned[0] == 15
    assert facts["achieved"] == pytest.approx(facts["device_seconds"], abs=0.01)
    assert facts["device_seconds"] == facts["training_seconds"]  # one device


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


def test_all_label_tasks_are_those_of_the_table_in_the_words_of_their_keys(data: Path, tmp_path: Path) -> None:
    def texts(label_tasks: Any) -> str:
        config = settings("unicl", label_tasks=label_tasks)
        return read_training_rows(config, Dataset(data), np.arange(60), data / "labels.parquet", 77).digest()

    tasks = set(pq.read_table(data / "labels.parquet")["task"].to_pylist())
    assert texts("all") == texts({task: task.replace("_", " ") for task in sorted(tasks)}) != texts({"blob": "blob"})
    assert pretrain(settings("unicl", steps=1, label_tasks="all"), data, tmp_path)["num_label_texts"] > 0
