"""The real objectives on two processes, as `torchrun` starts them, against one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretraining_of_ranks
from blob_dataset import ENCODER, write_dataset
from radscale.models import build_encoder
from radscale.training.weight_files import read_safetensors

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one` and `two` have the runs of as many processes."""
    folder = tmp_path_factory.mktemp("ranks")
    data = write_dataset(folder / "dataset")
    command = [*TORCHRUN, pretraining_of_ranks.__file__, str(data), str(folder / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    pretraining_of_ranks.run_all(data, folder / "one")
    return folder


@pytest.mark.parametrize("run", pretraining_of_ranks.RUNS)
def test_two_ranks_learn_what_one_does(run: str, folder: Path) -> None:
    """To 1e-5, where weights moved by up to 4e-4; to 1e-4 of its value, the loss."""
    one, two = (read_safetensors(folder / number / run / "out" / "model.safetensors") for number in ("one", "two"))
    moved = 0.0
    start = build_encoder(ENCODER, 0).state_dict()
    for name, value in one.items():
        if name.endswith("qkv.bias"):
            # Attention does not depend on the bias of its keys: the gradient is rounding, which AdamW makes a whole step of.
            query, _, values = value.chunk(3)
            other_query, _, other_values = two[name].chunk(3)
            value, two[name] = torch.cat([query, values]), torch.cat([other_query, other_values])
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        begun = start.get(f"backbone.{name.removeprefix('image_encoder.')}")
        moved = max(moved, 0.0 if begun is None or begun.shape != value.shape else float((value - begun).abs().max()))
    assert moved > 1e-4
    losses = []
    for number in ("one", "two"):
        lines = map(json.loads, (folder / number / run / "work" / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
