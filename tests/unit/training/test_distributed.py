"""Two processes on this machine, as `torchrun` starts them, against one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import run_of_ranks
from radscale.errors import InputError
from radscale.training import Ranks, start_fabric, train
from radscale.training.checkpointing import TrainingStates
from radscale.training.distributed import average_gradients, buckets

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, run_of_ranks.__file__, str(out)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def found(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"rank={rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_learn_what_one_does(two_ranks: Path, tmp_path: Path) -> None:
    """A contrastive loss of gathered rows, a part that only one rank's rows use, clipping, decay. Sums are split otherwise."""
    alone = run_of_ranks.Pairs()
    train(alone, run_of_ranks.settings(), work=tmp_path, identity={})
    together = torch.load(two_ranks / "weights.pt", weights_only=True)
    start = run_of_ranks.Pairs().state()
    for part, weights in alone.state().items():
        for name, value in weights.items():
            torch.testing.assert_close(together[part][name], value, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(value, start[part][name], atol=1e-3)
    for folder in (two_ranks / "work", tmp_path):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 4, 6]
    assert lines[-1]["own"] == pytest.approx(
        json.loads((two_ranks / "work" / "metrics.jsonl").read_text().splitlines()[-1])["own"], rel=1e-5
    )


def test_gradients_are_averaged_in_buckets(two_ranks: Path) -> None:
    for rank in found(two_ranks):
        assert rank["gradients"] == [[1.5] * 3, [[2.0, 2.0]] * 2, None]


def test_a_loss_that_is_no_number_on_one_rank_ends_all(two_ranks: Path) -> None:
    first, second = (rank["non_finite"] for rank in found(two_ranks))
    assert first.startswith("NonFiniteLossError: loss is nan (contrast ")
    assert "at step 3 with images image28, image29, image30, image31, in rank=1.non_finite.json" in first
    assert second.startswith("OtherProcessError: ")
    details = json.loads((two_ranks / "bad" / "rank=1.non_finite.json").read_text())
    assert details["sample_ids"] == ["image28", "image29", "image30", "image31"]


def test_ranks_that_start_from_other_weights_are_refused(two_ranks: Path) -> None:
    first, second = (rank["different"] for rank in found(two_ranks))
    assert first.startswith("OtherProcessError")
    assert second.startswith("InputError: rank 1 differs from rank 0 (weights: w0 -> w1)")


def test_a_signal_to_one_rank_ends_all_at_the_same_step(two_ranks: Path) -> None:
    assert [rank["stopped"] for rank in found(two_ranks)] == [["SIGUSR1", 2]] * 2
    assert [path.name for path in TrainingStates(two_ranks / "s").paths()] == ["state.step=000000002.pt"]


def test_a_state_of_two_ranks_goes_on_with_one_where_that_is_exact(two_ranks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    state = TrainingStates(two_ranks / "s").newest()
    assert state is not None
    TrainingStates(work).save(2, state)
    refused = run_of_ranks.settings(same_ranks_because="stochastic depth is drawn on each device")
    with pytest.raises(
        InputError, match=r"started on 2 devices and cannot go on with 1: stochastic depth is drawn .* --restart"
    ):
        train(run_of_ranks.Pairs(), refused, work=work, identity={})
    resumed, straight = run_of_ranks.Pairs(), run_of_ranks.Pairs()
    train(resumed, run_of_ranks.settings(), work=work, identity={})
    train(straight, run_of_ranks.settings(), work=tmp_path / "straight", identity={})
    for one, other in zip(resumed.net.parameters(), straight.net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_one_rank_has_nothing_to_say() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    alone = Ranks()
    average_gradients([parameter], alone)
    assert parameter.grad.tolist() == [1, 1]
    assert (alone.any(True), alone.any(False), alone.first_of("x"), alone.collect(3)) == (True, False, "x", [3])


def test_buckets_hold_one_type_in_order_up_to_their_size() -> None:
    tensors = [torch.zeros(n, dtype=dtype) for n, dtype in ((2, torch.float32), (9, torch.float32), (1, torch.float64))]
    tensors += [torch.zeros(1), torch.zeros(1)]
    found = [[tensor.numel() for tensor in bucket] for bucket in buckets(tensors, bucket_bytes=16)]
    assert found == [[2], [9], [1, 1], [1]]


def test_devices_that_the_launcher_did_not_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(InputError, match=r"started on 2 nodes with 4 processes each, but --devices 3 --num-nodes 2"):
        start_fabric(devices=3)


def test_a_single_process_inside_a_job_of_many_tasks_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    fabric = start_fabric()
    assert Ranks.of(fabric) == Ranks(0, 1)


def test_processes_of_srun_that_nodes_do_not_share_evenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(InputError, match=r"srun started 3 processes on 2 nodes; .* --ntasks-per-node"):
        start_fabric()
