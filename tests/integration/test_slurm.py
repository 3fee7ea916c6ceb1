"""The documented job scripts on a real Slurm of one node: stopped, requeued, killed, done as if nothing had happened."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blob_dataset import ENCODER, write_dataset
from dirty_archive import digests
from radscale.models import build_encoder
from radscale.phantom import PhantomConfig, generate_archive
from radscale.training import save_checkpoint

ROOT = Path(__file__).parents[2]
START_SLURM = ROOT / "tests" / "slurm" / "start_slurm.sh"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
RADSCALE = [sys.executable, "-m", "radscale.cli"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason="needs Slurm, as root: apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which `srun` and `sbatch` find a cluster of two cores."""
    folder = tmp_path_factory.mktemp("slurm")
    process = subprocess.Popen([START_SLURM, folder, "2"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_dataset(folder / "data")
    save_checkpoint(folder / "start", build_encoder(ENCODER, seed=3), info={})
    (folder / "settings.yaml").write_text("batch_size: 16\nimage_size_px: 32\nlearning_rate: 1.0e-3\n")
    return folder


def pretrain(folder: Path, out: str) -> list[str]:
    """150 steps."""
    places = ["--init", str(folder / "start"), "--config", str(folder / "settings.yaml"), "--out", str(folder / out)]
    return ["pretrain", str(folder / "data"), "--objective", "clip", *places, "--epochs", "20"]


@pytest.fixture(scope="module")
def straight(folder: Path, cluster: dict[str, str]) -> bytes:
    """Weights of two processes of `srun` that nobody stopped."""
    done = subprocess.run(
        ["srun", "-n", "2", *RADSCALE, *pretrain(folder, "straight")], capture_output=True, text=True, timeout=200, env=cluster
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "devices: 2" in done.stdout
    return (folder / "straight" / "model.safetensors").read_bytes()


def test_srun_trains_what_torchrun_trains(folder: Path, straight: bytes) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "radscale.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *pretrain(folder, "torchrun")], capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "torchrun" / "model.safetensors").read_bytes() == straight


def test_a_job_that_is_signalled_goes_back_into_the_queue_and_ends_with_the_same_weights(
    folder: Path, straight: bytes, cluster: dict[str, str]
) -> None:
    (folder / "job.sh").write_text(job_script(folder, "requeued"))
    sent = subprocess.run(
        ["sbatch", "--parsable", "job.sh"], cwd=folder, capture_output=True, text=True, timeout=60, env=cluster, check=True
    )
    number = sent.stdout.strip()

    def asked(*command: str) -> str:
        return subprocess.run([*command, number], capture_output=True, text=True, timeout=60, env=cluster).stdout

    log, states = folder / "requeued.partial" / "work" / "metrics.jsonl", folder / "requeued.partial" / "work"
    wait(lambda: log.exists() and log.stat().st_size > 0)
    asked("scancel", "--signal=USR1")  # to the processes of srun, as --signal=USR1@300 does
    wait(lambda: "Restarts=1" in asked("scontrol", "show", "job"))
    assert list(states.glob("state.step=*.pt"))
    # Slurm holds a requeued job for two minutes; a job that starts within the second of its requeue has no valid credential.
    wait(lambda: "JobState=PENDING" in asked("scontrol", "show", "job"))
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now+5"], env=cluster, timeout=60, check=True)
    wait(lambda: "JobState=COMPLETED" in asked("scontrol", "show", "job"), folder / "job.out")
    said = (folder / "job.out").read_text()
    stopped = re.findall(r"stopped by SIGUSR1 after step (\d+) of 150; its state is saved", said)
    assert len(stopped) == 1, said
    assert "ExitCode=0:0" in asked("scontrol", "show", "job")
    assert (folder / "requeued" / "model.safetensors").read_bytes() == straight


def job_script(folder: Path, out: str) -> str:
    """The documented one, for one node of two cores without GPUs, and this folder."""
    documented = (ROOT / "docs" / "training.md").read_text()
    script = re.search(r"#!/bin/bash\n#SBATCH.*?(?=```)", documented, re.DOTALL)
    assert script is not None
    text = script.group()
    for old, new in (
        ("--nodes=2", "--nodes=1"),
        ("--ntasks-per-node=8", "--ntasks-per-node=2"),
        ("#SBATCH --gpus-per-node=8\n", "#SBATCH --output=job.out\n"),
        ("--cpus-per-task=12", "--cpus-per-task=1"),
        ("--time=24:00:00", "--time=00:20:00"),
    ):
        assert old in text
        text = text.replace(old, new)
    command = re.search(r"radscale pretrain .*?rad-dino-centre", text, re.DOTALL)
    assert command is not None
    return text.replace(command.group(), " ".join([*RADSCALE, *pretrain(folder, out)]))


def wait(until: Callable[[], bool], log: Path | None = None, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, log.read_text() if log is not None and log.exists() else "waited for too long"
        time.sleep(0.1)


def test_an_array_ingests_what_one_machine_does(tmp_path: Path, cluster: dict[str, str]) -> None:
    """The script of docs/ingest.md; the first part is killed, and the job that ends it all decodes what is missing."""
    generate_archive(PhantomConfig(num_patients=12, seed=1), tmp_path / "archive")
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    (tmp_path / "key").chmod(0o600)

    def command(out: str) -> str:
        return " ".join([*RADSCALE, "ingest", "archive", "--out", out, "--secret", "key"])

    documented = (ROOT / "docs" / "ingest.md").read_text()
    script = re.search(r"#!/bin/bash\n#SBATCH --array.*?(?=```)", documented, re.DOTALL)
    last = re.search(r'sbatch --dependency=afterany:JOB --wrap "(.*?)"', documented)
    assert script is not None
    assert last is not None
    text = script.group().replace("--array=1-16 --cpus-per-task=16", "--array=1-4 --cpus-per-task=1 --output=part.%a")
    text = text.replace("/16", "/4").replace("--workers 16", "--workers 1")
    assert (
        text.count("radscale ingest ARCHIVE --out DATASET") == 1 == last.group(1).count("radscale ingest ARCHIVE --out DATASET")
    )
    text = text.replace("radscale ingest ARCHIVE --out DATASET", command("ds"))
    (tmp_path / "array.sh").write_text(text.replace("srun", '[ "$SLURM_ARRAY_TASK_ID" = 1 ] && exit 1\nsrun'))

    def send(*arguments: str) -> str:
        sent = ["sbatch", "--parsable", *arguments]
        done = subprocess.run(sent, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=cluster)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    array = send("array.sh")
    wrapped = last.group(1).replace("radscale ingest ARCHIVE --out DATASET", command("ds"))
    number = send(f"--dependency=afterany:{array}", "--output=last", "--wrap", wrapped)

    def ended() -> bool:
        shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, timeout=60, env=cluster)
        return "JobState=COMPLETED" in shown.stdout or "JobState=FAILED" in shown.stdout

    wait(ended)
    said = (tmp_path / "last").read_text() + "".join(path.read_text() for path in tmp_path.glob("part.*"))
    assert len(list(tmp_path.glob("part.[234]"))) == 3, said
    subprocess.run(command("alone").split(), cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert digests(tmp_path / "ds") == digests(tmp_path / "alone"), said
