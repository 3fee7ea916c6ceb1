"""Tables of an invented segmentation whose truth is known: distances of one arm fall with the subset, of another they rise."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.segmentation.evaluation import SEGMENTATION_SCHEMA
from synthetic_study import ARMS

TASKS = {"SGC": 0.1, "ETT": 0.4}
"""Share of images with each device."""
NUM_IMAGES = 240
SLOPES = {"clip": -3.0, "dinov2": 1.5}
"""Px of Hausdorff distance for each factor of e in images."""


def write_segmentations(folder: Path, seed: int = 0) -> list[Path]:
    """One table per encoder; images without a device are empty on both sides, except for false alarms of the open model."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    present = {task: rng.random(NUM_IMAGES) < share for task, share in TASKS.items()}
    hard = {task: rng.normal(0, 6, NUM_IMAGES) for task in TASKS}
    encoders = [("open", 0, 0), *((arm, n, r) for arm in SLOPES for n in (100, 1000, 10_000) for r in range(2))]
    paths = []
    for arm, size, replicate in encoders:
        level = 60 + (SLOPES[arm] * np.log(size / 50) if size else 0.0) + 0.3 * rng.normal()
        rows = []
        for task in TASKS:
            for probe_seed in (0, 1):
                for i in range(NUM_IMAGES):
                    predicted = bool(present[task][i]) or (arm == "open" and i % 10 == 0)
                    drawn = bool(present[task][i]) or predicted
                    distance = max(level + hard[task][i] + rng.normal(), 0.0) if drawn else float("nan")
                    rows.append(
                        {
                            **{"arm": arm, "objective": ARMS[arm]["objective"], "subset_size": size, "replicate": replicate},
                            **{"seed": probe_seed, "task": task, "sample_id": f"s{i:04}", "patient_id": f"p{i // 2}"},
                            **{"present": bool(present[task][i]), "predicted": predicted},
                            **{"hausdorff_px": distance, "hd95_px": distance / 2, "tip_distance_px": float("nan")},
                            **{"dice": 1 - distance / 200, "cldice": 1 - distance / 150, "component_error": 0.0},
                        }
                    )
        path = folder / f"{arm}_{size}_{replicate}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SEGMENTATION_SCHEMA), path)
        paths.append(path)
    return paths
