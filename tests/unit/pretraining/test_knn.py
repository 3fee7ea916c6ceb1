import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from blob_dataset import write_dataset
from radscale.datasets import Dataset, read_label_table
from radscale.errors import InputError
from radscale.pretraining import ComputeBudget, PretrainingConfig, run_pretraining
from radscale.pretraining.config import Dinov2Options, KnnOptions
from radscale.pretraining.knn import KnnMonitor, held_out_rows, knn_scores
from radscale.training import load_encoder


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 5, 40])
def test_uniform_votes_are_scikit_learns(k: int) -> None:
    train, test = features(40, 0), features(30, 1)
    labels = torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(2)).float()
    actual = knn_scores(train, labels, test, k=k, temperature=None)
    for task in range(3):
        reference = KNeighborsClassifier(k, weights="uniform", metric="cosine").fit(train, labels[:, task].int())
        np.testing.assert_allclose(actual[:, task], reference.predict_proba(test)[:, 1], atol=1e-6)


def test_weighted_votes_are_scikit_learns() -> None:
    train, test = features(40, 0), features(30, 1)
    labels = (features(40, 3)[:, :1] > 0).float()
    reference = KNeighborsClassifier(7, weights=lambda distance: np.exp((1 - distance) / 0.07), metric="cosine")
    expected = reference.fit(train, labels[:, 0].int()).predict_proba(test)[:, 1]
    np.testing.assert_allclose(knn_scores(train, labels, test, k=7)[:, 0], expected, atol=1e-5)


def test_unknown_labels_have_no_vote() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    labels = torch.tensor([[float("nan"), 1.0], [1.0, float("nan")], [0.0, float("nan")]])
    scores = knn_scores(train, labels, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), k=2, temperature=None)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 1.0], [0.5, 0.5]]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_dataset(tmp_path_factory.mktemp("knn") / "dataset"))


def test_held_out_images_are_of_other_patients_and_never_of_the_test_split(dataset: Dataset) -> None:
    subset = dataset.subset_rows(61, 0)  # cuts a patient of two images in half
    rows = held_out_rows(dataset, subset, 1000)
    manifest = dataset.manifest.to_pylist()
    assert len(rows) == 58
    assert {manifest[row]["split"] for row in rows} == {"train"}
    assert not {manifest[row]["patient_id"] for row in rows} & {manifest[row]["patient_id"] for row in subset}
    assert held_out_rows(dataset, subset, 10).tolist() == rows[:10].tolist()
    with pytest.raises(InputError, match="knn: the dataset has no validation split"):
        held_out_rows(dataset, dataset.subset_rows(120, 0), 10)


def test_perfect_features_score_one_and_useless_ones_the_prevalence(dataset: Dataset) -> None:
    labels = read_label_table(dataset.path / "labels.parquet")
    monitor = KnnMonitor(dataset, labels, dataset.subset_rows(20, 0), KnnOptions(min_positives=5, k=3))
    assert set(monitor.tasks) == {"blob", "stripe"}  # rare has too few positives

    def see(images: list[np.ndarray]) -> torch.Tensor:
        return torch.tensor([[float(image.max() == 250), float(image.min() == 10), 0.1] for image in images])

    assert monitor.evaluate(see)["knn_auprc"] > 0.99
    blind = monitor.evaluate(lambda images: torch.ones(len(images), 3))
    prevalence = np.nanmean(monitor.targets[torch.from_numpy(monitor.judged)].numpy(), axis=0)
    for task, share in zip(monitor.tasks, prevalence, strict=True):
        assert blind[f"knn_auprc_{task}"] == pytest.approx(share, abs=1e-6)
    with pytest.raises(InputError, match="knn: none of 3 tasks has 50 positives"):
        KnnMonitor(dataset, labels, dataset.subset_rows(20, 0), KnnOptions(min_positives=50))


@pytest.mark.parametrize("objective", ["clip", "dinov2"])
def test_a_run_votes_before_during_and_after_and_learns_the_same(objective: str, dataset: Dataset, tmp_path: Path) -> None:
    from blob_dataset import ENCODER

    options = Dinov2Options(
        global_size_px=32, local_size_px=16, num_local_crops=1, num_prototypes=16, head_hidden=16, head_bottleneck=8
    )
    weights, knn = [], KnnOptions(min_positives=5)
    for every in (2, 0):
        config = PretrainingConfig(
            objective=objective,  # type: ignore[arg-type]
            budget=ComputeBudget.samples_seen(8 * 4),
            batch_size=8,
            image_size_px=32,
            subset_size=40,
            architecture=ENCODER,
            dinov2=options,
            knn=dataclasses.replace(knn, every_steps=every),
        )
        folder = tmp_path / str(every)
        for name in ("out", "work"):
            (folder / name).mkdir(parents=True)
        run_pretraining(config, dataset=dataset.path, labels=dataset.path, init=None, out=folder / "out", work=folder / "work")
        weights.append((folder / "out" / "model.safetensors").read_bytes())
    lines = [json.loads(line) for line in (tmp_path / "2" / "out" / "metrics.jsonl").read_text().splitlines()]
    if objective == "dinov2":
        assert lines[0]["expected_random_dino_local"] == pytest.approx(np.log(16) * 2 / 4, rel=1e-4)
    votes = {line["step"]: line["knn_auprc"] for line in lines if "knn_auprc" in line}
    assert set(votes) == {0, 2, 4}
    assert all(0 < value <= 1 for value in votes.values())
    assert weights[0] == weights[1]
    if objective == "dinov2":
        return  # its features are still alike but for rounding, so that neighbours are too
    encoder = load_encoder(str(tmp_path / "2" / "out"))
    monitor = KnnMonitor(dataset, read_label_table(dataset.path), dataset.subset_rows(40, 0), knn)
    preprocess = dataclasses.replace(encoder.preprocessing, image_size_px=32)
    last = monitor.evaluate(lambda images: encoder.encode_image(preprocess(images)))
    assert votes[4] == pytest.approx(last["knn_auprc"], abs=1e-5)  # of what is exported, not of what is trained
