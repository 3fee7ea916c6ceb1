"""Started by `torchrun` in tests, with a dataset and a folder: the same small runs that one process makes."""

import sys
from pathlib import Path
from typing import Any

from blob_dataset import ENCODER
from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
from radscale.pretraining.config import Dinov2Options
from radscale.training import start_fabric

STEPS, BATCH = 4, 16
# Without KoLeo, whose neighbours are those on a device.
DINOV2 = {
    "global_size_px": 32,
    "local_size_px": 16,
    "num_local_crops": 2,
    "num_prototypes": 32,
    "head_hidden": 32,
    "head_bottleneck": 16,
    "koleo_weight": 0.0,
    "drop_path": 0.3,
    "momentum": (0.5, 0.5),
}
RUNS: dict[str, dict[str, Any]] = {
    "clip": {"objective": "clip"},
    "unicl": {"objective": "unicl", "label_tasks": {"blob": "blob", "stripe": "stripe"}},
    "dinov2 centering": {"objective": "dinov2", "dinov2": Dinov2Options(**DINOV2)},
    "dinov2 sinkhorn": {"objective": "dinov2", "dinov2": Dinov2Options(**DINOV2, centering="sinkhorn")},
}


def run_all(dataset: Path, folder: Path) -> None:
    fabric = start_fabric()
    for name, objective in RUNS.items():
        config = PretrainingConfig(
            architecture=ENCODER,
            batch_size=BATCH,
            image_size_px=32,
            learning_rate=1e-4,
            budget=ComputeBudget.samples_seen(STEPS * BATCH),
            **objective,
        )
        places = {"out": folder / name / "out", "work": folder / name / "work"}
        facts = run_pretraining(config, dataset=dataset, labels=dataset / "labels.parquet", init=None, fabric=fabric, **places)
        assert facts["num_devices"] == fabric.world_size


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]))
