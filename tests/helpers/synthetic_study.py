"""Prediction tables of an invented study whose scaling law is known: skill grows with the logarithm of the subset."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.analysis import PREDICTION_SCHEMA
from radscale.analysis.summary import summarise

ARMS: dict[str, dict[str, Any]] = {
    "open": {"label": "Open <model>", "objective": "open_weights", "open_weights_arm": None},
    "clip": {"label": "CLIP", "objective": "clip", "open_weights_arm": "open"},
    "dinov2": {"label": "DINOv2", "objective": "dinov2", "open_weights_arm": "open"},
}
TASKS = {"effusion": "Effusion", "edema": "Edema & more"}
NUM_SAMPLES = 600


def write_predictions(folder: Path, gains: dict[str, float], seed: int = 0) -> list[Path]:
    """One table per encoder; an arm's skill is 1 + gain * ln(n / 100), the open model's is 1."""
    rng = np.random.default_rng(seed)
    targets = {task: rng.random(NUM_SAMPLES) < 0.2 for task in TASKS}
    shared = {task: rng.normal(size=NUM_SAMPLES) for task in TASKS}
    encoders = [("open", 0, 0)]
    encoders += [(arm, n, r) for arm in gains for n in (100, 1000, 10_000) for r in range(3 if n < 10_000 else 1)]
    paths = []
    for arm, size, replicate in encoders:
        skill = 1.0 if arm == "open" else 1.0 + gains[arm] * np.log(size / 100) + 0.03 * rng.normal()
        rows = []
        for task in TASKS:
            for probe_seed in (0, 1):
                logits = skill * targets[task] + shared[task] + 0.2 * rng.normal(size=NUM_SAMPLES)
                rows += [
                    {
                        "arm": arm,
                        "objective": ARMS[arm]["objective"],
                        "subset_size": size,
                        "replicate": replicate,
                        "seed": probe_seed,
                        "task": task,
                        "sample_id": f"s{i:04}",
                        "patient_id": f"p{i // 2}",
                        "target": int(targets[task][i]),
                        "prediction": float(1 / (1 + np.exp(-logits[i]))),
                    }
                    for i in range(NUM_SAMPLES)
                ]
        path = folder / f"{arm}_{size}_{replicate}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA), path)
        paths.append(path)
    return paths


def write_manifest(folder: Path) -> Path:
    """What the subgroups need of a dataset."""
    rows = [
        {
            "sample_id": f"s{i:04}",
            "sex": "FM"[i % 2],
            "age_years": 15 + i % 80,
            "manufacturer": ("Alpha", "Beta")[i % 3 > 0],
            "care_setting": None,
        }
        for i in range(NUM_SAMPLES)
    ]
    schema = pa.schema([("sample_id", pa.string()), ("sex", pa.string()), ("age_years", pa.int32())])
    schema = schema.append(pa.field("manufacturer", pa.string())).append(pa.field("care_setting", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "manifest.parquet")
    return folder


def analyse(folder: Path, gains: dict[str, float]) -> Path:
    """The analysis tables of such a study."""
    (folder / "predictions").mkdir(parents=True)
    out = folder / "analysis"
    out.mkdir()
    paths = write_predictions(folder / "predictions", gains)
    excluded = [{"evaluation": "findings", "task": "hernia", "reason": "0 positives in test; at least 10 needed"}]
    arms = {name: facts for name, facts in ARMS.items() if name == "open" or name in gains}
    manifests = {"findings": write_manifest(folder)}
    summarise({"findings": paths}, arms, manifests, out, num_bootstrap=100, excluded_tasks=excluded)
    return out
