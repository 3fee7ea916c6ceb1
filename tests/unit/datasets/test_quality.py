"""Outliers and near duplicates: against plain loops, and what setting images aside does to a dataset."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import NearestNeighbors
from typer.testing import CliRunner

from dicom_makers import SECRET
from radscale.cli import app
from radscale.datasets import Dataset, IngestConfig, ingest, verify_dataset
from radscale.datasets.quality import (
    QualityConfig,
    _by_view,
    assess,
    group_numbers,
    knn_distances,
    near_pairs,
    perceptual_hash,
    pixel_features,
)
from radscale.datasets.set_aside import put_back, set_aside
from radscale.errors import InputError

CONFIG = IngestConfig(
    kind="images",
    image_size_px=32,
    columns={"image": "image_path", "patient": "patient_id"},
    labels={"finding": "categorical"},
    view_from_pixels="never",  # these are no X-rays
    burned_in_text="keep",
)


@pytest.fixture
def folder(image_folder: Callable[..., Path], tmp_path: Path) -> Path:
    ingest(CONFIG, image_folder(40), tmp_path / "ds", secret=SECRET)
    return tmp_path / "ds"


def test_distances_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features = pixel_features(rng.integers(0, 256, (60, 48, 48)).astype(np.uint8))
    own = np.where(np.arange(60) < 40, np.arange(60), -1)
    found = knn_distances(features, own, features[:40], k=5)
    neighbours = NearestNeighbors(n_neighbors=6).fit(features[:40])
    distances, _ = neighbours.kneighbors(features)
    expected = np.where(own >= 0, distances[:, 5], distances[:, 4])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [0, 2, 4])
def test_no_pair_of_near_hashes_is_missed(bits: int) -> None:
    rng = np.random.default_rng(bits)
    base = rng.integers(0, 2**63, 40).astype(np.uint64)
    hashes = np.repeat(base, 5)
    for index in range(len(hashes)):
        for bit in rng.choice(64, rng.integers(0, 6), replace=False):
            hashes[index] ^= np.uint64(1) << np.uint64(bit)
    pairs = {tuple(pair) for pair in near_pairs(hashes, bits).tolist()}
    expected = {
        (i, j) for i, j in itertools.combinations(range(len(hashes)), 2) if int(hashes[i] ^ hashes[j]).bit_count() <= bits
    }
    assert pairs == expected
    assert expected


def test_a_hash_survives_what_changes_no_content(picture: np.ndarray) -> None:
    image = cv2.resize((255 * (picture / picture.max())).astype(np.uint8), (300, 360))
    others = [cv2.resize(image, (200, 240)), (image // 2 + 20).astype(np.uint8), cv2.GaussianBlur(image, (5, 5), 0)]
    for other in others:
        assert (perceptual_hash(image) ^ perceptual_hash(other)).bit_count() <= 4
    assert (perceptual_hash(image) ^ perceptual_hash(np.ascontiguousarray(image[::-1]))).bit_count() > 4


def test_groups_are_chains_of_pairs() -> None:
    groups = group_numbers(np.array([[1, 4], [4, 6], [2, 3]]), 8)
    np.testing.assert_array_equal(groups, [-1, 0, 1, 1, 0, -1, 0, -1])


def test_a_strange_image_has_the_highest_score_and_copies_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 64
    rows = ["file,patient"]
    images = {}
    for number in range(30):
        lungs = sum(np.exp(-(((x - centre - 0.02 * rng.normal()) / 0.15) ** 2)) for centre in (0.3, 0.7))
        images[f"{number}.png"] = (120 * lungs * (1 - 0.3 * y) + 20 * rng.random((64, 64))).astype(np.uint8)
    images["copy.png"] = cv2.GaussianBlur(images["3.png"], (3, 3), 0)
    images["strange.png"] = (255 * (np.sin(40 * y) > 0)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / "images" / name), image)
        rows.append(f"{name},{name}")
    (tmp_path / "images" / "t.csv").write_text("\n".join(rows) + "\n")
    columns = {"image": "file", "patient": "patient"}
    config = replace(CONFIG, table="t.csv", image_size_px=64, columns=columns, labels={})
    ingest(config, tmp_path / "images", tmp_path / "ds", secret=SECRET)
    dataset = Dataset(tmp_path / "ds")
    found = assess(dataset, QualityConfig(neighbours=5), tmp_path).to_pydict()
    strange = int(np.argmax(found["outlier_score"]))
    assert np.corrcoef(dataset.read_image(strange).ravel(), images["strange.png"].ravel())[0, 1] > 0.9
    groups = [row for row, group in enumerate(found["near_duplicate_group"]) if group is not None]
    assert len(groups) == 2
    assert all(found["across_patients"][row] for row in groups)
    assert sum(found["across_patients"]) == 2
    assert not (tmp_path / "thumbnails.npy").exists()


def test_embeddings_take_the_place_of_pixels(folder: Path, tmp_path: Path) -> None:
    count = len(Dataset(folder))
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    vectors[7] = -20 * vectors.mean(axis=0)
    found = assess(Dataset(folder), QualityConfig(neighbours=3), tmp_path, embeddings=vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances, _ = NearestNeighbors(n_neighbors=4).fit(unit).kneighbors(unit)
    np.testing.assert_allclose(found["outlier_score"].to_numpy(), distances[:, 3], atol=1e-3)
    with pytest.raises(InputError, match=f"embeddings of {count - 1} images, the dataset has {count}"):
        assess(Dataset(folder), QualityConfig(), tmp_path, embeddings=vectors[1:])


def tables(folder: Path) -> dict[str, pa.Table]:
    return {path.name: pq.read_table(path) for path in folder.glob("*.parquet")}


def test_set_aside_the_dataset_holds_and_subsets_stay_nested(folder: Path) -> None:
    before = Dataset(folder)
    samples = before.column("sample_id").to_pylist()
    order = [samples[row] for row in before.subset_rows(before.num_train, 0)]
    chosen = [samples[3], samples[20], order[0], order[5]]
    split_of = dict(zip(samples, before.column("split").to_pylist(), strict=True))
    counts = set_aside(folder, dict.fromkeys(chosen, ("outlier", "score 0.9 above 0.5")))
    after = Dataset(folder)
    assert verify_dataset(folder) == []
    assert counts["images"] == len(after) == len(before) - len(set(chosen))
    assert counts["excluded"]["outlier"] == len(set(chosen))
    assert counts["images"] + sum(counts["excluded"].values()) == counts["inputs"]
    assert not set(chosen) & set(after.column("sample_id").to_pylist())
    kept = [after.column("sample_id")[int(row)].as_py() for row in after.subset_rows(after.num_train, 0)]
    assert kept == [sample for sample in order if sample not in chosen]
    splits = zip(after.column("sample_id").to_pylist(), after.column("split").to_pylist(), strict=True)
    assert all(split_of[sample] == split for sample, split in splits)


def test_put_back_it_is_as_it_was(folder: Path) -> None:
    before = tables(folder)
    samples = before["manifest.parquet"]["sample_id"].to_pylist()
    set_aside(folder, {samples[0]: ("outlier", "a")})
    set_aside(folder, {samples[9]: ("near_duplicate", "b"), samples[2]: ("outlier", "c")})
    assert pq.read_table(folder / "set_aside.parquet")["detail"].to_pylist() == ["a", "c", "b"]
    put_back(folder, ("outlier", "near_duplicate"))
    after = tables(folder)
    assert after.pop("set_aside.parquet").num_rows == 0
    assert {name: table.to_pylist() for name, table in after.items()} == {name: t.to_pylist() for name, t in before.items()}
    assert verify_dataset(folder) == []
    with pytest.raises(InputError, match="no image is set aside"):
        put_back(folder, ("outlier", "near_duplicate"))


def test_what_is_set_aside_does_not_come_back_with_new_files(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = image_folder(30)
    table = source / "metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-5]))
    first = ingest(CONFIG, source, tmp_path / "ds", secret=SECRET)["images"]
    samples = Dataset(tmp_path / "ds").column("sample_id").to_pylist()
    set_aside(tmp_path / "ds", {samples[4]: ("outlier", "strange")})
    table.write_text("".join(lines))
    counts = ingest(CONFIG, source, tmp_path / "ds", secret=SECRET, add=True)
    assert (counts["images"], counts["excluded"]["outlier"]) == (first + 5 - 1, 1)
    assert samples[4] not in Dataset(tmp_path / "ds").column("sample_id").to_pylist()
    assert verify_dataset(tmp_path / "ds") == []


def test_setting_aside_refuses_strangers_and_everything(folder: Path) -> None:
    bytes_before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="1 of 1 images to set aside are not in it"):
        set_aside(folder, {"nobody": ("outlier", "")})
    everything = dict.fromkeys(Dataset(folder).column("sample_id").to_pylist(), ("outlier", ""))
    with pytest.raises(InputError, match=f"all of its {len(everything)} images would be set aside"):
        set_aside(folder, everything)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == bytes_before


def test_lateral_images_are_compared_with_lateral_ones() -> None:
    """A cluster of the minority is not strange, unless it is too small to tell."""
    rng = np.random.default_rng(0)
    frontal, lateral = rng.normal([5, 0, 0], 0.1, (100, 3)), rng.normal([0, 5, 0], 0.1, (30, 3))
    vectors = np.concatenate([frontal, lateral]).astype(np.float32)
    views = ["frontal", "lateral"]
    parts = _by_view(np.repeat([0, 1], [100, 30]), views, neighbours=20)
    assert [(rows.tolist(), candidates.tolist()) for rows, candidates in parts] == [
        (list(range(100)), list(range(100))),
        (list(range(100, 130)), list(range(100, 130))),
    ]
    few = _by_view(np.repeat([0, 1], [100, 30]), views, neighbours=40)
    assert len(few[1][1]) == len(vectors)
    unknown = _by_view(np.repeat([0, 1, -1], [90, 30, 10]), ["unknown", "lateral"], neighbours=20)
    assert [len(candidates) for _, candidates in unknown] == [130, 130, 30]


def test_the_command_assesses_sets_aside_and_puts_back(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["outliers", str(folder), *map(str, arguments)])
        if done.exit_code:
            return str(done.exception)
        return done.output

    assert "give one of --out" in run()
    assert "need --quality" in run("--out", tmp_path / "q", "--set-aside-above", 1)
    count = len(Dataset(folder))
    run("--out", tmp_path / "q")
    assert {path.name for path in (tmp_path / "q").iterdir()} == {"quality.parquet", "outliers.html"}
    table = pq.read_table(tmp_path / "q" / "quality.parquet")
    assert table["sample_id"].to_pylist() == Dataset(folder).column("sample_id").to_pylist()
    page = (tmp_path / "q" / "outliers.html").read_text(encoding="utf-8")
    assert page.count("<figure") == count
    cut = float(np.sort(table["outlier_score"].to_numpy())[-4])
    assert "nothing to set aside" in run("--quality", tmp_path / "q" / "quality.parquet")
    run("--quality", tmp_path / "q" / "quality.parquet", "--set-aside-above", cut)
    assert len(Dataset(folder)) == count - 3
    assert "3 of 3 images to set aside are not in it" in run(
        "--quality", tmp_path / "q" / "quality.parquet", "--set-aside-above", cut
    )
    run("--put-back")
    assert len(Dataset(folder)) == count
    assert verify_dataset(folder) == []
