from types import SimpleNamespace

import numpy as np
import pytest
import torch

from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.training import features
from radscale.training.features import ComputedFeatures, cache_size_bytes, cached_features
from radscale.training.open_weights import load_encoder


@pytest.fixture
def encoder(encoder_folder):
    return load_encoder(str(encoder_folder)).eval()


def test_cache_holds_the_features_in_the_order_of_the_rows(blob_dataset, encoder, tmp_path):
    computed = ComputedFeatures(Dataset(blob_dataset), np.array([5, 2, 9, 7, 3]), encoder, grid=2, batch_size=2)
    cached = cached_features(tmp_path / "features.npy", computed).read(np.array([4, 0]))
    assert cached.shape == (2, 4, 4 * 32)
    assert cached.dtype == torch.float32
    torch.testing.assert_close(cached, computed.read(np.array([4, 0])), rtol=1e-3, atol=1e-3)


def test_features_are_the_normalised_maps_of_the_encoder(blob_dataset, encoder):
    data = Dataset(blob_dataset)
    with torch.no_grad():
        maps = encoder.forward_features(encoder.preprocess(data.read_images([3])))
    found = ComputedFeatures(data, np.array([3]), encoder, grid=4).read(np.array([0]))
    for number, feature_map in enumerate(maps):
        cell = feature_map[0, :, 1, 2]
        expected = (cell - cell.mean()) / (cell.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[0, 1 * 4 + 2, 32 * number : 32 * (number + 1)], expected, rtol=1e-3, atol=1e-4)


def test_estimate_is_the_size_on_disk(blob_dataset, encoder, tmp_path):
    path = tmp_path / "features.npy"
    cached_features(path, ComputedFeatures(Dataset(blob_dataset), np.arange(10), encoder, grid=3))
    assert path.stat().st_size == cache_size_bytes(10, 9, 128) + 128


def test_reading_ahead_changes_nothing(blob_dataset, encoder, tmp_path):
    for workers in (0, 3):
        computed = ComputedFeatures(Dataset(blob_dataset), np.arange(50), encoder, grid=2, batch_size=4, num_workers=workers)
        cached_features(tmp_path / f"{workers}.npy", computed)
    assert (tmp_path / "0.npy").read_bytes() == (tmp_path / "3.npy").read_bytes()


def test_refuses_what_the_disk_cannot_hold(blob_dataset, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000))
    with pytest.raises(InputError, match=r"GB free on disk; choose a smaller `grid`"):
        cached_features(tmp_path / "f.npy", ComputedFeatures(Dataset(blob_dataset), np.arange(10), encoder, grid=2))
    assert not (tmp_path / "f.npy").exists()


def test_an_encoder_that_gives_no_numbers_is_refused(blob_dataset, encoder):
    with torch.no_grad():
        encoder.backbone.blocks[1].mlp.fc2.weight.fill_(float("inf"))
    with pytest.raises(InputError, match=r"encoder \(.*random-vit\): its features are infinite or undefined"):
        ComputedFeatures(Dataset(blob_dataset), np.array([3]), encoder, grid=4).read(np.array([0]))


def test_an_interrupted_cache_is_gone_on_with(blob_dataset, encoder, tmp_path, monkeypatch):
    computed = ComputedFeatures(Dataset(blob_dataset), np.arange(30), encoder, grid=2, batch_size=4)
    cached_features(tmp_path / "straight.npy", computed)
    path, done = tmp_path / "killed.npy", []

    def stop_at_20(count):
        done.append(count)
        if count == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(features, "SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        cached_features(path, computed, progress=stop_at_20)
    assert not path.exists()
    cached_features(path, computed, progress=done.append)
    assert done == [4, 8, 12, 16, 20, 24, 28, 30]
    assert path.read_bytes() == (tmp_path / "straight.npy").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"straight.npy", "killed.npy"}
