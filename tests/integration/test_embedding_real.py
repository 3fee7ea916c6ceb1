"""Real DINOv2 weights on real X-rays: our embeddings beside transformers' own, and what a linear probe makes of both."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from radscale.probing import EmbeddingConfig, run_embedding

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
REAL_IMAGES = DATA / "pediatric_cxr"
REAL_WEIGHTS = Path(os.environ.get("RADSCALE_DINOV2", "dinov2"))
NUM_TRAIN, NUM_TEST = 250, 150

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared_data,
    pytest.mark.skipif(
        not (REAL_IMAGES / "metadata.csv").exists(), reason="set RADSCALE_SHARED_DATA to a folder with pediatric_cxr"
    ),
    pytest.mark.skipif(
        not (REAL_WEIGHTS / "config.json").exists(), reason="set RADSCALE_DINOV2 to a Hugging Face folder of DINOv2"
    ),
]


def draw_patients() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Training images, and test images of other patients."""
    with (REAL_IMAGES / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    train = rows[:NUM_TRAIN]
    patients = {row["patient_id"] for row in train}
    return train, [row for row in rows[NUM_TRAIN:] if row["patient_id"] not in patients][:NUM_TEST]


def transformers_features(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """CLS token and mean patch token of transformers' model and its PIL image processor; images stretched to 0..255."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(REAL_WEIGHTS).eval()
    processor = AutoImageProcessor.from_pretrained(REAL_WEIGHTS, backend="pil")
    found = []
    for path in paths:
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float32)
        grey = np.rint((grey - grey.min()) * (255 / (grey.max() - grey.min()))).astype(np.uint8)
        with torch.inference_mode():
            pixels = processor(Image.fromarray(grey).convert("RGB"), return_tensors="pt")["pixel_values"]
            tokens = model(pixels).last_hidden_state[0]
        found.append(torch.stack([tokens[0], tokens[1:].mean(0)]).numpy())
    cls, mean = np.stack(found, axis=1)
    return cls / np.linalg.norm(cls, axis=1, keepdims=True), mean


def aurocs(features: np.ndarray, findings: np.ndarray) -> dict[str, float]:
    scaled = StandardScaler().fit(features[:NUM_TRAIN]).transform(features)
    scores = {}
    for finding in np.unique(findings):
        classifier = LogisticRegression(C=0.01, max_iter=1000)
        classifier.fit(scaled[:NUM_TRAIN], findings[:NUM_TRAIN] == finding)
        scores[finding] = float(
            roc_auc_score(findings[NUM_TRAIN:] == finding, classifier.predict_proba(scaled[NUM_TRAIN:])[:, 1])
        )
    return scores


def test_embeddings_of_real_images_are_transformers_own(tmp_path: Path) -> None:
    train, test = draw_patients()
    paths = [REAL_IMAGES / row["image_path"] for row in (*train, *test)]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    config = EmbeddingConfig(features=("embedding", "mean"))
    run_embedding(config, encoder=("dinov2", REAL_WEIGHTS), images=tmp_path / "list.txt", out=tmp_path / "e.parquet")
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["id"].to_pylist() == [str(path) for path in paths]
    ours = [np.stack(table[name].to_numpy()) for name in ("embedding", "mean")]
    theirs = transformers_features(paths)
    for a, b in zip(ours, theirs, strict=True):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        print(f"least cosine {cosine.min():.6f}")
        assert cosine.min() > 0.9995
    findings = np.array([row["finding"] for row in (*train, *test)])
    found, expected = aurocs(np.hstack(ours), findings), aurocs(np.hstack(theirs), findings)
    print(found, expected)
    assert found == pytest.approx(expected, abs=0.01)
    assert found["normal"] > 0.95  # .971 on 300 images; random weights: .890
