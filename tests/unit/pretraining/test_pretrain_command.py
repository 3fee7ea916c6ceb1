"""`radscale pretrain` as a scheduler meets it: exit codes, one line, and going on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blob_dataset import ENCODER, write_dataset
from radscale.models import build_encoder
from radscale.training import save_checkpoint


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
