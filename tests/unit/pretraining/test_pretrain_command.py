"""`radscale pretrain` as a scheduler meets it: exit codes, one line, and going on."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from blob_dataset import ENCODER, write_dataset
from dinov2_yaml import DEFAULT
from radscale import pretraining
from radscale.cli import app
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.pretraining import PretrainingConfig
from radscale.training import load_dino_head, save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    write_dataset(folder / "data")
    save_checkpoint(folder / "start", build_encoder(ENCODER, seed=3), info={})
    (folder / "settings.yaml").write_text("batch_size: 16\nimage_size_px: 32\nlearning_rate: 1.0e-3\n")
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    places = ["pretrain", str(folder / "data"), "--init", str(folder / "start"), "--config", str(folder / "settings.yaml")]
    return [sys.executable, "-m", "radscale.cli", *places, "--objective", "clip", *arguments]


def pretrain(folder: Path, *arguments: str) -> tuple[int, str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(folder, *arguments), capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stdout, done.stderr.strip().replace("\n", " ")


def test_a_limit_of_time_asks_to_be_requeued_and_another_setting_is_named(folder: Path) -> None:
    out = ["--out", str(folder / "a")]
    code, _, line = pretrain(folder, *out, "--epochs", "1", "--max-seconds", "1")
    assert code == 75
    assert line == (
        "radscale: stopped by wall clock after step 1 of 8; its state is saved: run the same command again to go on"
    )
    code, _, line = pretrain(folder, *out, "--epochs", "2")
    assert code == 2
    assert "holds step 1 of another run (budget: 120 samples_seen -> 240 samples_seen; steps: 8 -> 15)" in line
    assert line.endswith("or add --restart to discard it")
    code, facts, _ = pretrain(folder, *out, "--epochs", "2", "--restart")
    assert code == 0
    assert "steps: 15" in facts
    assert (folder / "a" / "model.safetensors").exists()
    assert not (folder / "a.partial").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_with_a_state_and_a_code_of_its_own(number: signal.Signals, code: int, folder: Path) -> None:
    out = folder / number.name
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, "--out", str(out), "--epochs", "10000"), stderr=subprocess.PIPE, text=True, env=environment
    )
    log = out.with_name(out.name + ".partial") / "work" / "metrics.jsonl"
    until = time.monotonic() + 90
    while not (log.exists() and log.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    _, line = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name} after step" in line
    assert list(log.parent.glob("state.step=*.pt"))


def test_the_files_of_a_recipe_bring_settings_and_budget(folder: Path) -> None:
    sizes = {"global_crops_size": 32, "local_crops_size": 16, "local_crops_number": 1}
    head = {"head_n_prototypes": 32, "head_hidden_dim": 32, "head_bottleneck_dim": 16}
    mine = {
        "crops": sizes,
        "dino": head,
        "train": {"batch_size_per_gpu": 8, "OFFICIAL_EPOCH_LENGTH": 3},
        "optim": {"epochs": 1, "warmup_epochs": 0},
    }
    (folder / "ssl_default_config.yaml").write_text(yaml.safe_dump(DEFAULT))
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    (folder / "scratch.yaml").write_text(yaml.safe_dump({"architecture": ENCODER, "precision": "fp32"}))
    recipe = ["--recipe", str(folder / "ssl_default_config.yaml"), "--recipe", str(folder / "mine.yaml"), "--recipe-gpus", "2"]
    start = ["pretrain", str(folder / "data"), "--from-scratch", "--config", str(folder / "scratch.yaml"), *recipe]
    result = CliRunner().invoke(app, [*start, "--objective", "dinov2", "--out", str(folder / "recipe")])
    assert result.exit_code == 0, result.output
    assert "steps: 3" in result.output
    assert "samples seen: 48" in result.output
    head_of = load_dino_head(folder / "recipe")
    assert head_of is not None
    assert head_of.sizes == {"in_features": 32, "num_prototypes": 32, "hidden": 32, "bottleneck": 16}
    refused = CliRunner().invoke(app, [*start, "--objective", "clip", "--out", str(folder / "refused")])
    assert isinstance(refused.exception, InputError)
    assert "--recipe is of DINOv2, the objective is clip" in str(refused.exception)


def test_a_preset_lies_under_the_settings_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PretrainingConfig] = []
    monkeypatch.setattr(pretraining, "run_pretraining", lambda config, **_: seen.append(config) or {})
    (folder / "preset.yaml").write_text("preset: medimageinsight\nbatch_size: 16\ntext: {view_prefix: false}\n")
    start = ["pretrain", str(folder / "data"), "--init", str(folder / "start"), "--objective", "clip", "--epochs", "1"]
    CliRunner().invoke(app, [*start, "--config", str(folder / "preset.yaml"), "--out", str(folder / "preset")])
    assert (seen[0].batch_size, seen[0].ema_decay, seen[0].image_size_px) == (16, 0.999, 518)
    assert (seen[0].text.view_prefix, seen[0].text.sections) == (False, ("impression", "findings"))
    (folder / "unknown.yaml").write_text("preset: raddino\n")
    result = CliRunner().invoke(app, [*start, "--config", str(folder / "unknown.yaml"), "--out", str(folder / "unknown")])
    assert "preset 'raddino' is not known; allowed: medimageinsight, rad-dino" in str(result.exception)


def test_the_state_of_another_objective_is_refused_and_stays(folder: Path) -> None:
    out = folder / "clip_first"
    code, _, _ = pretrain(folder, "--out", str(out), "--epochs", "1", "--max-seconds", "1")
    assert code == 75
    states = list((folder / "clip_first.partial" / "work").glob("state.step=*.pt"))
    (folder / "dino.yaml").write_text(
        "batch_size: 16\nprecision: fp32\ndinov2: {global_size_px: 32, local_size_px: 16, head_warmup_fraction: 0.3}\n"
    )
    start = ["pretrain", str(folder / "data"), "--init", str(folder / "start"), "--config", str(folder / "dino.yaml")]
    result = CliRunner().invoke(app, [*start, "--objective", "dinov2", "--epochs", "1", "--out", str(out)])
    assert isinstance(result.exception, InputError)
    assert re.search(r"holds step \d+ of another run \(objective: clip -> dinov2;.* or add --restart", str(result.exception))
    assert states == list((folder / "clip_first.partial" / "work").glob("state.step=*.pt"))
    (folder / "dino.yaml").write_text("batch_size: 16\nprecision: fp32\ndinov2: {global_size_px: 32, local_size_px: 20}\n")
    result = CliRunner().invoke(app, [*start, "--objective", "dinov2", "--epochs", "1", "--out", str(folder / "crops")])
    assert "dinov2.local_size_px is 20; it must be a multiple of the encoder's patch size 8" in str(result.exception)


def test_texts_that_are_nearly_all_equal_are_one_note(folder: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", num_train=32, num_test=2)
    reports = pq.read_table(data / "reports.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**row, "text": "Normal.", "findings": "Normal."} for row in reports]), data / "reports.parquet"
    )
    start = ["pretrain", str(data), "--init", str(folder / "start"), "--config", str(folder / "settings.yaml")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = CliRunner().invoke(app, [*start, "--objective", "clip", "--epochs", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output.count("note objective clip: 91% of the texts are the same one") == 1
