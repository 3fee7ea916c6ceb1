"""A step of DINOv2 from files to updated weights, the peer with the same network, head, crops and batch.

Both run as programs, on the same images, and are timed by their own logs: the peer's licence (AGPL) and its dependencies
keep it out of this process.
"""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml

from radscale.benchmarks.loader import write_made_dataset
from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.datasets import Dataset

LIGHTLY_TRAIN = "RADSCALE_LIGHTLY_TRAIN"
"""Environment variable: where the peer's program is, if not on the PATH."""
WARM_UP_STEPS = 2

Run = Callable[[int], float]


def dinov2_cases(options: Options) -> list[Case]:
    """ViT-B/14 on a GPU; on a processor ViT-S/14, in bfloat16 too where it multiplies that. New heads, random weights."""
    if torch.cuda.is_available():
        sizes: dict[str, Any] = {"name": "vitb14", "width": 768, "num_heads": 12, "batch": 32, "steps": 20}
        precisions = ["bf16"]
    else:
        sizes = {"name": "vits14", "width": 384, "num_heads": 6, "batch": 4, "steps": 5}
        precisions = ["fp32", "bf16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["fp32"]
    sizes |= {"batch": 2, "global_px": 56, "local_px": 28, "steps": 2} if options.quick else {"global_px": 224, "local_px": 98}
    return [_case({**sizes, "precision": precision}, options) for precision in precisions]


def _case(sizes: dict[str, Any], options: Options) -> Case:
    units = sizes["batch"] * sizes["steps"]
    crops = f"2 x {sizes['global_px']} and 8 x {sizes['local_px']} px"
    return Case(
        title=f"DINOv2 step, {sizes['name']}, {sizes['batch']} images of {crops}, "
        f"{'cuda' if torch.cuda.is_available() else 'cpu'}, {sizes['precision']}",
        unit="image",
        workload=lambda number: number,
        contestants=[
            Contestant("radscale", "radscale", partial(_ours, sizes, options), units, own_clock=True),
            Contestant("lightly-train", "lightly-train", partial(_lightly_train, sizes, options), units, own_clock=True),
        ],
        rounds=options.repeat or (1 if options.quick else 3),
        warm_up=False,
        note=f"Reading, augmenting, teacher, student, 65,536 prototypes, losses, AdamW and the moving average; the first "
        f"{WARM_UP_STEPS} steps of a run are not counted. Ours augments grey images, the peer colour ones",
    )


def _folder(options: Options, sizes: dict[str, Any]) -> Path:
    """Made images as a dataset and as files, the same for both."""
    temporary = tempfile.TemporaryDirectory(prefix="radscale-dinov2-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    write_made_dataset(folder / "dataset", 2 * sizes["batch"] * (sizes["steps"] + WARM_UP_STEPS), 256, options.seed)
    return folder


def _ours(sizes: dict[str, Any], options: Options) -> Run:
    folder = _folder(options, sizes)
    num_steps = sizes["steps"] + WARM_UP_STEPS
    vit = {"image_size_px": 518, "patch_size_px": 14, "depth": 12, "width": sizes["width"], "num_heads": sizes["num_heads"]}
    settings = {
        "architecture": {"family": "vit", "architecture": vit, "preprocessing": {"image_size_px": sizes["global_px"]}},
        "batch_size": sizes["batch"],
        "precision": sizes["precision"],
        "dinov2": {"global_size_px": sizes["global_px"], "local_size_px": sizes["local_px"]},
        "loop": {"log_every": 1, "compile": torch.cuda.is_available()},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    size = num_steps * sizes["batch"]
    command = [
        sys.executable,
        "-m",
        "radscale.cli",
        "pretrain",
        str(folder / "dataset"),
        "--objective",
        "dinov2",
        "--from-scratch",
    ]
    command += ["--size", str(size), "--epochs", "1", "--config", str(folder / "config.yaml")]

    def run(number: int) -> float:
        out = folder / f"run{number}"
        _call([*command, "--out", str(out)])
        lines = [json.loads(line) for line in next(out.rglob("metrics.jsonl")).read_text().splitlines()]
        return sum(sizes["batch"] / line["images_per_second"] for line in lines if line["step"] > WARM_UP_STEPS)

    return run


def _lightly_train(sizes: dict[str, Any], options: Options) -> Run:
    """Its own command line, its defaults for all that is not named.

    Raises:
        ImportError: the program is not there.
    """
    program = shutil.which(os.environ.get(LIGHTLY_TRAIN, "lightly-train"))
    if program is None:
        raise ImportError
    folder = _folder(options, sizes)
    dataset = Dataset(folder / "dataset")
    (folder / "images").mkdir()
    for row in range(len(dataset)):
        (folder / "images" / f"{row}.png").write_bytes(dataset.read_bytes(row))
    num_steps = sizes["steps"] + WARM_UP_STEPS
    command = [program, "pretrain", f"data={folder / 'images'}", f"model=dinov2/{sizes['name']}-noreg-notpretrained"]
    command += ["method=dinov2", f"batch_size={sizes['batch']}", "epochs=1", f"trainer_args.max_steps={num_steps}"]
    command += [f"transform_args.image_size=[{sizes['global_px']},{sizes['global_px']}]", "model_args.drop_path_rate=0.0"]
    command += [f"transform_args.local_view.view_size=[{sizes['local_px']},{sizes['local_px']}]", "model_args.img_size=518"]
    command += ["method_args.student_freeze_last_layer_steps=0", "loggers.jsonl={}", "trainer_args.log_every_n_steps=1"]
    command += [f"precision={'bf16-mixed' if sizes['precision'] == 'bf16' else '32-true'}"]

    def run(number: int) -> float:
        out = folder / f"run{number}"
        _call([*command, f"out={out}"])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        timed = [line for line in lines if "profiling/batch_time" in line][WARM_UP_STEPS:]
        return sizes["steps"] * fmean(line["profiling/batch_time"] + line["profiling/data_time"] for line in timed)

    return run


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{Path(command[0]).name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}"
        )
