"""The whole study at its smallest, through the command line: straight, and killed in every stage."""

import csv
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radscale.metrics import average_precision

pytestmark = pytest.mark.xdist_group("study")
RADSCALE = [sys.executable, "-m", "radscale.cli"]
NOT_COMPARED = {"record.json", "metrics.jsonl", "archives.json"}
"""They hold times of day, seconds and rates; or (pseudonymous) in which folder an archive stands."""
COMPARED = (
    "phantom",
    "datasets",
    "extraction",
    "agreement",
    "open_weights",
    "budget",
    "pretraining",
    "masks",
    "probing",
    "segmentation",
    "analysis",
    "pictures",
    "similarity",
)
KILLED_IN = ("phantom", "datasets", "open_weights", "pretraining", "probing", "segmentation")


def start(*arguments: str | Path, threads: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RADSCALE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )


def radscale(*arguments: str | Path) -> tuple[int, str]:
    process = start(*arguments)
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def digests(out: Path) -> dict[str, str]:
    """Of every result: archives, shards, tables, weights, predictions, analyses."""
    files = [path for stage in COMPARED for path in sorted((out / stage).rglob("*")) if path.is_file()]
    kept = [path for path in files if path.name not in NOT_COMPARED]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke") / "out"
    code, output = radscale("run", "smoke", "--out", out)
    assert code == 0, output[-3000:]
    return out


def test_it_ends_with_a_report_and_has_nothing_left_to_do(study: Path) -> None:
    code, output = radscale("run", "smoke", "--out", study)
    assert code == 0
    assert str(study / "report" / "report.html") in output.replace("\n", "")
    _, status = radscale("status", "smoke", "--out", study)
    counts = status.strip().splitlines()[-1]
    assert re.fullmatch(r"\d+ done", counts), counts


def test_the_report_is_one_file_without_any_outside_reference(study: Path) -> None:
    html = (study / "report" / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", html)) | set(re.findall(r"url\(([^)]+)\)", html))
    assert {a for a in addresses if not a.startswith(("data:", "#", "figures/", "tables/"))} == set()
    assert len(html) < 15e6
    for name in (study / "report" / "figures").iterdir():
        assert name.suffix in (".svg", ".pdf", ".png"), name


def test_the_number_of_workers_and_the_threads_of_the_machine_decide_nothing(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("run", "smoke", "--out", out, "--workers", "1", threads=2)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    assert different(study, out) == []


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(study: Path, tmp_path: Path) -> None:
    out, seed = tmp_path / "out", random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    for stage in KILLED_IN:
        process = start("run", "smoke", "--out", out)
        wait_for_step(process, out, stage)
        time.sleep(moments.uniform(0, 0.7))
        assert process.poll() is None, f"too fast to be killed in {stage} (seed {seed})"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kill_a_worker(out)
    code, output = radscale("run", "smoke", "--out", out)
    assert code == 0, f"seed {seed}: {output[-3000:]}"
    assert different(study, out) == [], f"seed {seed}"


def kill_a_worker(out: Path) -> None:
    """The step of a worker that the system ends (out of memory) fails, and the others go on."""
    process = start("run", "smoke", "--out", out)
    deadline = time.monotonic() + 120
    while not (workers := workers_of(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 1
    assert output.count("its process was ended by SIGKILL") == 2, "once when it happened, once in the summary"


def test_a_report_killed_while_it_is_written_leaves_the_old_one_whole(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study, out, symlinks=True)
    assert radscale("report", "smoke", "--out", out)[0] == 0
    before = contents(out / "report")
    for delay in (0.0, 0.5, 1.0, 2.0):
        process = start("report", "smoke", "--out", out)
        deadline = time.monotonic() + 60
        while not list(out.glob(".report-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert contents(out / "report") == before
    assert radscale("report", "smoke", "--out", out)[0] == 0
    assert contents(out / "report") == before
    assert list(out.glob(".report-*")) == []


def different(expected: Path, actual: Path) -> list[str]:
    """Results that only one of two studies has, or that differ in a byte."""
    one, other = digests(expected), digests(actual)
    assert len(one) > 100
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_for_step(process: subprocess.Popen[str], out: Path, stage: str) -> None:
    """Until a step of the stage is at work."""
    deadline = time.monotonic() + 120
    while not any((path / "work").exists() for path in (out / ".partial").glob(f"{stage}*")):
        assert process.poll() is None, f"ended before {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(run: int) -> list[int]:
    """Processes that the fork server of a run made."""
    text = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in text.splitlines())}
    return [pid for pid, parent in parents.items() if parents.get(parent) == run]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_in_one_line_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    process = start("run", "smoke", "--out", tmp_path / "out")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / ".partial").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped; what is done stays done" in output.splitlines()[-1]
    assert "Traceback" not in output
    deadline = time.monotonic() + 30
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(process.pid) == []


def processes_of(session: int) -> list[str]:
    """Command lines of the living processes of a session."""
    lines = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(None, 2) for line in lines]
    return [words[2] for words in found if words[0] == str(session) and not words[1].startswith("Z")]


@pytest.mark.parametrize("verb", ["run", "status", "report"])
def test_a_folder_of_somebody_else_is_refused_and_untouched(tmp_path: Path, verb: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    code, output = radscale(verb, "smoke", "--out", tmp_path)
    assert code == 2
    assert "holds files that no run of an experiment made" in output
    assert (tmp_path / "report" / "mine.txt").read_text() == "mine"


def test_shuffled_labels_score_the_prevalence(study: Path, tmp_path: Path) -> None:
    """If labels say nothing about images, every encoder's AUPRC is the prevalence: nothing leaks into the score."""
    from radscale.probing import ProbeConfig, run_probing

    dataset = study / "datasets" / "own"
    manifest = pq.read_table(dataset / "manifest.parquet").to_pylist()
    rng = np.random.default_rng(0)
    tasks = [f"chance {number}" for number in range(16)]
    rows = [
        {"level": "sample", "id": row["sample_id"], "task": task, "state": "positive" if rng.random() < 0.3 else "negative"}
        for row in manifest
        for task in tasks
    ]
    table = pa.Table.from_pylist([{**row, "engine": "chance"} for row in rows])
    pq.write_table(table, tmp_path / "labels.parquet")
    excess: dict[str, list[float]] = {}
    for encoder in ("davit-public", "vit-public"):
        config = ProbeConfig(task_sets={"all": tasks}, seeds=(0, 1), epochs=8, width=16, grid=4, min_positives=2)
        run_probing(config, encoder=study / "open_weights" / encoder, dataset=dataset, labels=tmp_path, out=tmp_path / encoder)
        predictions = pq.read_table(next((tmp_path / encoder).glob("*.parquet"))).to_pandas()
        for (task, _), group in predictions.groupby(["task", "seed"]):
            # A random order has an expected AP a little above the prevalence; that of this very size is drawn, not assumed.
            orders = [average_precision(group["target"], rng.random(len(group))) for _ in range(200)]
            score = average_precision(group["target"], group["prediction"])
            excess.setdefault(task, []).append(score - float(np.mean(orders)))
    per_task = np.array([np.mean(values) for values in excess.values()])
    assert len(per_task) >= 10
    # Tasks are independent, seeds and encoders are not.
    assert abs(per_task.mean()) < 3 * per_task.std(ddof=1) / len(per_task) ** 0.5
    assert abs(per_task.mean()) < 0.05


def test_tasks_that_cannot_be_judged_are_named_and_never_scored_zero(study: Path) -> None:
    with (study / "analysis" / "excluded_tasks.csv").open() as file:
        excluded = list(csv.DictReader(file))
    with (study / "analysis" / "results.csv").open() as file:
        scored = {(row["evaluation"], row["task"]) for row in csv.DictReader(file)}
    assert excluded, "so small a study has tasks without positives"
    html = (study / "report" / "report.html").read_text(encoding="utf-8")
    for row in excluded:
        assert (row["evaluation"], row["task"]) not in scored
        assert row["reason"].split(",")[0] in html
