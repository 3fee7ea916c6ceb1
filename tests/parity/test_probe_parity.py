"""The probe against scikit-learn: its table recomputed, its classifier beside logistic regression on the same features."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from blob_dataset import ENCODER, write_dataset
from radscale.datasets import Dataset, IngestConfig, ingest
from radscale.models import build_encoder
from radscale.probing import ProbeConfig, ProbeShape, predict, run_probing, train_probe
from radscale.training import load_encoder, save_checkpoint

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
REAL_IMAGES = DATA / "pediatric_cxr"
REAL_WEIGHTS = Path(os.environ.get("RADSCALE_DINOV2", "dinov2"))


class ArrayFeatures:
    def __init__(self, array: np.ndarray) -> None:
        self.array = torch.from_numpy(array)

    def read(self, positions: np.ndarray) -> torch.Tensor:
        return self.array[positions]


def test_scores_of_the_result_are_scikit_learns_on_the_table(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "dataset")
    save_checkpoint(tmp_path / "encoder", build_encoder(ENCODER, seed=0), info={})
    config = ProbeConfig(tasks=("blob", "stripe"), seeds=(0, 3), epochs=1, min_steps=1, learning_rate=1e-4)
    result = run_probing(config, encoder=tmp_path / "encoder", dataset=data, labels=data, out=tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    for task, facts in result["task_sets"]["tasks"]["tasks"].items():
        for seed, score in zip(config.seeds, facts["auprc"], strict=True):
            rows = table[(table.task == task) & (table.seed == seed)]
            assert score == pytest.approx(average_precision_score(rows.target, rows.prediction), rel=1e-9)
            assert score < 1  # a perfect score would not tell two formulas apart


@pytest.mark.parametrize("prevalence", [0.5, 0.1])
def test_on_one_token_it_is_as_good_as_logistic_regression(prevalence: float) -> None:
    """One cell leaves the attention nothing to choose: the model is linear. AUROC within .01 of the best penalty's."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 1, 40)).astype(np.float32) * rng.uniform(0.1, 5, 40).astype(np.float32)
    signal = (x[:, 0] / x[:, 0].std(0)) @ rng.standard_normal(40) / 4
    threshold = np.quantile(signal, 1 - prevalence)
    y = (signal + rng.logistic(size=3000) > threshold).astype(np.float32)[:, None]
    shape = ProbeShape(in_channels=(10,) * 4, grid=1, width=128, num_tasks=1)
    features = ArrayFeatures(x)
    probe = train_probe(features, y[:1500], shape, seeds=(0, 1), batch_size=128)
    ours = predict(probe, features, np.arange(1500, 3000))[..., 0]
    scaled = StandardScaler().fit(x[:1500, 0]).transform(x[:, 0])
    best = max(
        roc_auc_score(y[1500:, 0], LogisticRegression(C=c).fit(scaled[:1500], y[:1500, 0]).predict_proba(scaled[1500:])[:, 1])
        for c in (0.01, 0.1, 1)
    )
    for prediction in ours:
        assert roc_auc_score(y[1500:, 0], prediction) > best - 0.01


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(
    not (REAL_IMAGES / "metadata.csv").exists(), reason="set RADSCALE_SHARED_DATA to a folder with pediatric_cxr"
)
@pytest.mark.skipif(
    not (REAL_WEIGHTS / "config.json").exists(), reason="set RADSCALE_DINOV2 to a Hugging Face folder of DINOv2"
)
def test_on_real_images_it_is_as_good_as_logistic_regression(tmp_path: Path) -> None:
    """DINOv2 features of real X-rays: mean AUROC of three classes within .01 of scikit-learn's on CLS and mean patch token.

    Measured: .8415 against .8421, and .8318 with 25 steps of training, which is what this test is to catch.
    """
    archive = tmp_path / "archive"
    (archive / "images").mkdir(parents=True)
    with (REAL_IMAGES / "metadata.csv").open() as source, (archive / "metadata.csv").open("w", newline="") as target:
        rows = list(csv.DictReader(source))
        writer = csv.DictWriter(target, fieldnames=list(rows[0]))
        writer.writeheader()
        for index in np.random.default_rng(0).permutation(len(rows))[:600]:
            writer.writerow(rows[index])
            shutil.copy(REAL_IMAGES / rows[index]["image_path"], archive / "images")
    settings = IngestConfig(
        kind="images",
        image_size_px=224,
        labels={"finding": "categorical"},
        default_view="frontal",
        train_fraction=0.5,
        validation_fraction=0.0,
        test_fraction=0.5,
    )
    data = tmp_path / "dataset"
    ingest(settings, archive, data, secret=b"key of a public set")
    config = ProbeConfig(tasks="all", seeds=(0, 1, 2), grid=6, width=128)
    weights = ("dinov2", REAL_WEIGHTS)
    result = run_probing(config, encoder=weights, dataset=data, labels=data, out=tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()

    dataset, encoder = Dataset(data), load_encoder(*weights)
    features = {}
    for split in ("train", "test"):
        for images in np.array_split(dataset.select(split=split), 20):
            with torch.no_grad():
                tokens = encoder.backbone.forward_tokens(encoder.preprocess(dataset.read_images(images)))
            pooled = torch.cat([tokens["cls"], tokens["patches"].mean(1)], dim=1).numpy()
            features |= dict(zip(dataset.manifest["sample_id"].take(images).to_pylist(), pooled, strict=True))
    positives = pq.read_table(data / "labels.parquet").to_pandas().query("state == 'positive'")
    assert set(positives.level) == {"sample"}
    task_of = dict(zip(positives.id, positives.task, strict=True))
    train = dataset.manifest["sample_id"].take(dataset.select(split="train")).to_pylist()
    scaler = StandardScaler().fit([features[sample] for sample in train])
    ours, theirs = [], []
    for task in result["task_sets"]["all"]["tasks"]:
        of_task = table[table.task == task]
        ours += [roc_auc_score(rows.target, rows.prediction) for _, rows in of_task.groupby("seed")]
        test = of_task[of_task.seed == 0]
        x = scaler.transform([features[sample] for sample in test.sample_id])
        classifier = LogisticRegression(C=0.01, max_iter=1000)  # the best penalty on 900 other images
        classifier.fit(scaler.transform([features[sample] for sample in train]), [task_of[sample] == task for sample in train])
        theirs.append(roc_auc_score(test.target, classifier.predict_proba(x)[:, 1]))
    print(f"probe {np.mean(ours):.4f}, logistic regression {np.mean(theirs):.4f}")
    assert len(theirs) == 3
    assert np.mean(ours) > np.mean(theirs) - 0.01
