"""A small dataset folder, written from its description alone: what readers of the schema must be able to read."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IMAGE_SIZE_PX = 32
ENCODER = {
    "family": "vit",
    "architecture": {"image_size_px": IMAGE_SIZE_PX, "patch_size_px": 8, "width": 32, "depth": 4, "num_heads": 2},
    "preprocessing": {"image_size_px": IMAGE_SIZE_PX, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3},
}


def draw_image(rng: np.random.Generator, has_blob: bool, has_stripe: bool) -> np.ndarray:
    """Noise, with a bright square at a random place and a bright row if asked for."""
    image = rng.integers(60, 120, (IMAGE_SIZE_PX, IMAGE_SIZE_PX)).astype(np.uint8)
    if has_blob:
        y, x = rng.integers(0, IMAGE_SIZE_PX - 10, 2)
        image[y : y + 10, x : x + 10] = 250
    if has_stripe:
        image[rng.integers(0, IMAGE_SIZE_PX - 3) :][:3] = 10
    return image


def write_dataset(folder: Path, num_train: int = 120, num_test: int = 80, seed: int = 0) -> Path:
    """A dataset folder as docs/data_format.md describes it: tasks blob, stripe and rare; every tenth image is lateral."""
    rng = np.random.default_rng(seed)
    (folder / "shards").mkdir(parents=True)
    rows, labels, reports, shard = [], [], [], io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for index in range(num_train + num_test):
            blob, stripe = rng.random(2) < (0.4, 0.3)
            png = cv2.imencode(".png", draw_image(rng, blob, stripe))[1].tobytes()
            sample = f"{hashlib.sha256(b'%d' % index).hexdigest()[:16]}"
            member = tarfile.TarInfo(f"{sample}.png")
            member.size = len(png)
            offset = shard.tell() + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(png))
            rows.append(
                {
                    "sample_id": sample,
                    "study_id": f"study{index}",
                    "patient_id": f"patient{index // 2}",
                    "split": "train" if index < num_train else "test",
                    "view": "lateral" if index % 10 == 9 else "frontal",
                    "view_position": "LATERAL" if index % 10 == 9 else "PA",
                    "width_px": IMAGE_SIZE_PX,
                    "height_px": IMAGE_SIZE_PX,
                    "shard": "shards/000000.tar",
                    "offset": offset,
                    "size_bytes": len(png),
                    "sha256": hashlib.sha256(png).hexdigest(),
                    "rank_0": index if index < num_train else None,
                }
            )
            said = [name for name, there in (("a blob", blob), ("a stripe", stripe)) if there] or ["nothing"]
            text = f"There is {' and '.join(said)}."
            reports.append({"study_id": f"study{index}", "patient_id": f"patient{index // 2}", "text": text, "findings": text})
            states = {"blob": blob, "stripe": stripe, "rare": index in (3, 4, num_train + 1)}
            for task, positive in states.items():
                state = "uncertain" if task == "stripe" and index % 7 == 6 else ("positive" if positive else "negative")
                labels.append({"level": "study", "id": f"study{index}", "task": task, "state": state, "engine": "truth"})
    (folder / "shards" / "000000.tar").write_bytes(shard.getvalue())
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    pq.write_table(pa.Table.from_pylist(labels), folder / "labels.parquet")
    pq.write_table(pa.Table.from_pylist(reports), folder / "reports.parquet")
    settings = {"name": "blobs", "schema_version": 1, "image_size_px": IMAGE_SIZE_PX}
    (folder / "dataset.json").write_text(json.dumps(settings))
    return folder
