"""Embeddings of files, datasets and lists beside direct calls of the encoder; resuming; what cannot be used."""

import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from blob_dataset import ENCODER
from dicom_makers import make_dicom
from radscale import cli
from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.probing import EmbeddingConfig, embed_images, embedding, run_embedding
from radscale.probing.embedding_sources import FileSource, open_source
from radscale.training import load_encoder, save_checkpoint
from radscale.training.reading import read_ahead

DAVIT = {
    "family": "davit",
    "architecture": {
        "image": {"depths": [1, 1, 1, 1], "widths": [8, 16, 16, 32], "num_heads": [1, 2, 2, 4], "window_size": 3},
        "text": {"width": 16, "depth": 1, "num_heads": 2},
        "embedding_dim": 12,
    },
    "preprocessing": {"image_size_px": 32, "resize": "squash"},
}


def picture(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    """Its values span 0 to 255, so that reading changes nothing."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    image[0, :2] = 0, 255
    return image


@pytest.fixture
def folder(tmp_path):
    """Seven images in two folders, and a table that is none."""
    place = tmp_path / "images"
    (place / "b").mkdir(parents=True)
    for number in range(7):
        cv2.imwrite(str(place / ("b" if number % 2 else "") / f"{number}.png"), picture(number))
    (place / "metadata.csv").write_text("a,b\n1,2\n")
    (place / ".hidden.png").write_bytes(b"no image")
    return place


@pytest.fixture(scope="module")
def davit_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("embedding") / "davit"
    save_checkpoint(place, build_encoder(DAVIT, seed=0), info={})
    return place


IDS = ["0.png", "2.png", "4.png", "6.png", "b/1.png", "b/3.png", "b/5.png"]


def run(encoder, images, out, **settings):
    names = {"split", "parts", "num_workers", "progress"}
    config = EmbeddingConfig(**{"batch_size": 2, **{key: value for key, value in settings.items() if key not in names}})
    rest = {key: value for key, value in settings.items() if key in names}
    return run_embedding(config, encoder=encoder, images=images, out=out, device="cpu", **rest)


@pytest.mark.parametrize("workers", [0, 3])
def test_rows_are_the_encoders_own_in_the_order_of_the_paths(encoder_folder, folder, tmp_path, workers):
    facts = run(encoder_folder, folder, tmp_path / "e.parquet", features=("embedding", "mean"), num_workers=workers)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["id"].to_pylist() == IDS
    encoder = load_encoder(str(encoder_folder))
    for row in table.to_pylist():
        with torch.no_grad():
            pixels = encoder.preprocess([picture(int(row["id"].removeprefix("b/")[0]))])
            tokens = encoder.backbone.forward_tokens(pixels)
            np.testing.assert_allclose(row["embedding"], encoder.encode_image(pixels)[0], atol=1e-6)
            np.testing.assert_allclose(row["mean"], tokens["patches"][0].mean(0), atol=1e-5)
    assert facts["images"] == 7
    assert facts["excluded"] == {}
    assert 0 <= facts["waiting_share"] <= 1
    assert facts["images_per_second"] > 0


def test_patches_and_maps_of_both_architectures(encoder_folder, davit_folder, folder, tmp_path):
    for name, place in (("vit", encoder_folder), ("davit", davit_folder)):
        out = tmp_path / f"{name}.safetensors"
        run(place, folder, out, features=("embedding", "mean", "patches", "maps"), dtype="float32")
        found, encoder = load_file(out), load_encoder(str(place))
        assert bytes(found["ids"]).decode().split("\n")[:-1] == IDS
        with torch.no_grad():
            pixels = encoder.preprocess([picture(3)])
            maps = encoder.forward_features(pixels)
            last = maps[3][0].permute(1, 2, 0)
            patches = last if name == "davit" else encoder.backbone.norm(last)
            np.testing.assert_allclose(found["embedding"][5], encoder.encode_image(pixels)[0], atol=1e-6)
        np.testing.assert_allclose(found["patches"][5], patches, atol=1e-5)
        np.testing.assert_allclose(found["mean"][5], patches.mean((0, 1)), atol=1e-5)
        for layer in range(4):
            np.testing.assert_allclose(found[f"map_{layer}"][5], maps[layer][0], atol=1e-5)


def test_half_precision_on_disk_is_the_default_of_patches(encoder_folder, folder, tmp_path):
    run(encoder_folder, folder, tmp_path / "half.safetensors", features=("patches", "embedding"))
    run(encoder_folder, folder, tmp_path / "whole.safetensors", features=("patches", "embedding"), dtype="float32")
    half, whole = load_file(tmp_path / "half.safetensors"), load_file(tmp_path / "whole.safetensors")
    assert half["patches"].dtype == np.float16
    assert half["embedding"].dtype == np.float32
    np.testing.assert_array_equal(half["patches"], whole["patches"].astype(np.float16))


def test_a_dataset_in_the_order_of_its_manifest(encoder_folder, blob_dataset, tmp_path):
    data, encoder = Dataset(blob_dataset), load_encoder(str(encoder_folder))
    run(encoder_folder, blob_dataset, tmp_path / "e.parquet", split="test", batch_size=32)
    table = pq.read_table(tmp_path / "e.parquet")
    rows = data.select(split="test")
    assert table["id"].to_pylist() == data.manifest["sample_id"].take(rows).to_pylist()
    assert set(table["view"].to_pylist()) == {"posteroanterior", "lateral"}
    with torch.no_grad():
        expected = encoder.encode_image(encoder.preprocess(data.read_images(rows)))
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected, atol=1e-6)


def test_lists_name_files_beside_them_and_views(encoder_folder, folder, tmp_path):
    (folder / "some.txt").write_text("b/3.png\n\n0.png\n")
    (folder / "some.csv").write_text("image_path,view\nb/3.png,AP\n0.png,LL\n2.png,\n")
    run(encoder_folder, folder / "some.txt", tmp_path / "text.parquet")
    run(encoder_folder, folder / "some.csv", tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "text.parquet")["id"].to_pylist() == ["b/3.png", "0.png"]
    assert pq.read_table(tmp_path / "table.parquet")["view"].to_pylist() == ["anteroposterior", "lateral", ""]


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
@pytest.mark.parametrize("killed_after", [1, 4, 7])
def test_a_killed_run_goes_on_to_the_same_bytes(encoder_folder, folder, tmp_path, monkeypatch, suffix, killed_after):
    (folder / "1_broken.png").write_bytes(b"no image")
    monkeypatch.setattr(embedding, "PART_IMAGES", 2)
    run(encoder_folder, folder, tmp_path / f"whole{suffix}")

    def kill(done: int, total: int, what: str) -> None:
        if done >= killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(encoder_folder, folder, tmp_path / f"killed{suffix}", progress=kill)
    assert not (tmp_path / f"killed{suffix}").exists()
    facts = run(encoder_folder, folder, tmp_path / f"killed{suffix}")
    assert facts["resumed"] == -(-killed_after // 2) * 2
    for name in (f"killed{suffix}", "killed.exclusions.parquet"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("killed", "whole")).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_killed_while_it_joins_goes_on(encoder_folder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART_IMAGES", 2)
    run(encoder_folder, folder, tmp_path / "whole.parquet")
    with monkeypatch.context() as patch:

        def kill(*arguments: object, **more: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(embedding, "_finish", kill)
        with pytest.raises(KeyboardInterrupt):
            run(encoder_folder, folder, tmp_path / "e.parquet")
    facts = run(encoder_folder, folder, tmp_path / "e.parquet")
    assert facts["resumed"] == 7
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_unfinished_run_is_not_continued_with_anything_else(encoder_folder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART_IMAGES", 2)

    def kill(done: int, total: int, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(encoder_folder, folder, tmp_path / "e.parquet", progress=kill)
    with pytest.raises(InputError, match=r"batch_size: 2 -> 3.*remove .*e.parquet.partial to start again"):
        run(encoder_folder, folder, tmp_path / "e.parquet", batch_size=3)
    save_checkpoint(tmp_path / "other", build_encoder(ENCODER, seed=1), info={"objective": "none"})
    with pytest.raises(InputError, match=r"had other settings \(encoder: "):
        run(tmp_path / "other", folder, tmp_path / "e.parquet")
    (folder / "b" / "9.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"images: .*num_images: 7 -> 8"):
        run(encoder_folder, folder, tmp_path / "e.parquet")


def test_two_runs_do_not_write_one_file(encoder_folder, folder, tmp_path):
    def again(done: int, total: int, what: str) -> None:
        with pytest.raises(InputError, match="another run is writing it"):
            run(encoder_folder, folder, tmp_path / "e.parquet")

    run(encoder_folder, folder, tmp_path / "e.parquet", progress=again)
    with pytest.raises(InputError, match=r"e\.parquet: exists"):
        run(encoder_folder, folder, tmp_path / "e.parquet")


def test_parts_are_a_folder_that_reads_as_one(encoder_folder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART_IMAGES", 4)
    run(encoder_folder, folder, tmp_path / "one.parquet")
    run(encoder_folder, folder, tmp_path / "many.parquet", parts=True)
    assert sorted(path.name for path in (tmp_path / "many.parquet").iterdir()) == [
        "_settings.json",
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert pq.read_table(tmp_path / "many.parquet").equals(pq.read_table(tmp_path / "one.parquet"))


def test_parts_bound_the_memory():
    """Whole batches, at most 64 MiB, at most 8,192 images; a batch that is larger is a part of its own."""
    assert embedding._part_size(4 * 1024, 32) == 8192
    assert embedding._part_size(37 * 37 * 768 * 2, 16) == 16 * (64 * 2**20 // (37 * 37 * 768 * 2) // 16)
    assert embedding._part_size(64 << 20, 32) == 32


def test_reading_ahead_keeps_order_and_stays_within_its_depth():
    begun = []
    results = read_ahead(lambda item: begun.append(item) or item * 2, range(1000), 3, depth=5)
    assert next(results) == 0
    assert len(begun) <= 6
    assert list(results) == [2 * item for item in range(1, 1000)]
    stopped = read_ahead(lambda item: begun.append(item) or item, range(1000, 2000), 2, depth=4)
    next(stopped)
    stopped.close()
    assert max(begun) < 1010


def test_bad_files_are_rows_and_the_others_are_embedded(encoder_folder, folder, tmp_path):
    cv2.imwrite(str(folder / "tiny.png"), picture(0, 3, 3))
    cv2.imwrite(str(folder / "flat.png"), np.full((40, 40), 7, np.uint8))
    cv2.imwrite(str(folder / "strip.png"), picture(0, 20, 200))
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.dcm").write_bytes(b"")
    facts = run(encoder_folder, folder, tmp_path / "e.parquet")
    rows = {row["id"]: (row["reason"], row["detail"]) for row in pq.read_table(tmp_path / "e.exclusions.parquet").to_pylist()}
    assert {name: reason for name, (reason, _) in rows.items()} == {
        "tiny.png": "too_small",
        "flat.png": "constant_image",
        "strip.png": "unsupported",
        "text.jpg": "unreadable",
        "empty.dcm": "unreadable",
    }
    assert rows["tiny.png"][1] == "3 x 3 px, the least is 8"
    assert facts["images"] == 7
    assert facts["excluded"] == {"constant_image": 1, "too_small": 1, "unreadable": 2, "unsupported": 1}
    assert pq.read_table(tmp_path / "e.parquet")["id"].to_pylist() == IDS


def test_damage_in_a_dataset_costs_its_images_alone(encoder_folder, blob_dataset, tmp_path):
    import shutil

    data = shutil.copytree(blob_dataset, tmp_path / "dataset")
    row = pq.read_table(data / "manifest.parquet").slice(3, 1).to_pylist()[0]
    with (data / row["shard"]).open("r+b") as shard:
        shard.seek(row["offset"])
        shard.write(b"\0" * row["size_bytes"])
    facts = run(encoder_folder, data, tmp_path / "e.parquet", batch_size=50)
    assert (facts["images"], facts["excluded"]) == (199, {"unreadable": 1})
    assert pq.read_table(tmp_path / "e.exclusions.parquet")["id"].to_pylist() == [row["sample_id"]]


def test_every_kind_of_file_gives_the_same_picture(tmp_path):
    grey = picture(4)
    wide = grey.astype(np.uint16) * 200 + 300
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([grey] * 3 + [np.random.default_rng(0).integers(0, 256, grey.shape)]))
    cv2.imwrite(str(tmp_path / "wide.tif"), wide)
    (tmp_path / "scan.dcm").write_bytes(make_dicom(wide))
    (tmp_path / "1.2.840.1").write_bytes(make_dicom(wide.max() + wide.min() - wide, PhotometricInterpretation="MONOCHROME1"))
    source = open_source(tmp_path)
    assert len(source.ids) == 6
    for position in range(6):
        np.testing.assert_array_equal(source.read(position)[0], grey)


def test_dicom_padding_and_pixels_that_are_not_square(tmp_path):
    pixels = picture(5, 40, 40).astype(np.uint16) + 100
    pixels[:, :6] = 4000
    (tmp_path / "a.dcm").write_bytes(make_dicom(pixels, PixelPaddingValue=4000, PixelSpacing=[0.2, 0.1], ViewPosition="PA"))
    image, view = FileSource(tmp_path, ["a.dcm"]).read(0)
    assert image.shape == (80, 40)
    assert view == "posteroanterior"
    assert image[:, :3].max() < 60  # padding takes the lowest value; 4000 would have been the brightest


def test_python_gives_arrays_for_arrays_and_paths(encoder_folder, folder):
    encoder = load_encoder(str(encoder_folder))
    found = embed_images(encoder, [picture(0), folder / "b" / "1.png", str(folder / "2.png")], batch_size=2)
    with torch.no_grad():
        expected = encoder.encode_image(encoder.preprocess([picture(0), picture(1), picture(2)]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert embed_images(encoder, [picture(0)], features="patches").shape == (1, 4, 4, 32)
    with pytest.raises(InputError, match=r"image 1: shape \(40, 50, 3\); give grey images"):
        embed_images(encoder, [picture(0), np.zeros((40, 50, 3), np.uint8)])
    with pytest.raises(InputError, match=r"gone\.png: .*leave this image out \(missing_file\)"):
        embed_images(encoder, [folder / "gone.png"])
    with pytest.raises(InputError, match="no images to embed"):
        embed_images(encoder, [])


def test_an_encoder_that_gives_no_numbers_is_refused(encoder_folder):
    encoder = load_encoder(str(encoder_folder))
    with torch.no_grad():
        encoder.backbone.norm.weight.fill_(float("inf"))
    with pytest.raises(InputError, match=r"encoder \(.*random-vit\): embedding has infinite or undefined numbers"):
        embed_images(encoder, [picture(0)])


def test_bf16_is_near_and_not_equal(encoder_folder, folder, tmp_path):
    run(encoder_folder, folder, tmp_path / "a.parquet")
    run(encoder_folder, folder, tmp_path / "b.parquet", precision="bf16-mixed")
    a, b = (np.stack(pq.read_table(tmp_path / name)["embedding"].to_numpy()) for name in ("a.parquet", "b.parquet"))
    assert 0 < np.abs(a - b).max() < 0.02


def test_the_disk_is_asked_before_anything_is_computed(encoder_folder, folder, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(embedding.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"GB free on disk; free some, or take --parts"):
        run(encoder_folder, folder, tmp_path / "e.parquet")


def test_the_file_says_how_it_was_made(encoder_folder, folder, tmp_path):
    run(encoder_folder, folder, tmp_path / "e.parquet")
    settings = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"radscale"])
    assert settings["features"] == ["embedding"]
    assert settings["encoder"] == embedding.encoder_fingerprint(load_encoder(str(encoder_folder)))
    assert str(tmp_path) not in json.dumps(settings)


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    result = CliRunner().invoke(cli.app, ["embed", *map(str, arguments)])
    if isinstance(result.exception, InputError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_command_line(encoder_folder, folder, tmp_path):
    (folder / "text.jpg").write_text("not an image")
    code, output = command(encoder_folder, folder, "--out", tmp_path / "e.parquet", "--device", "cpu")
    assert code == 0, output
    assert "7 images, 1 excluded (1 unreadable; see" in output
    assert "images/s, the encoder waited for images" in output
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}", "--out", "{tmp}/e.npz"], "must end in .parquet, .safetensors or .csv"),
        (["{images}", "--out", "{tmp}/e.csv"], "a CSV holds the scores of --labels only"),
        (["{images}", "--out", "{tmp}/e.parquet", "--features", "patches"], "write patches to .safetensors"),
        (["{images}", "--out", "{tmp}/e.parquet", "--features", "cls"], "'cls' is not known; choose among embedding"),
        (["{images}", "--out", "{tmp}/e.parquet", "--split", "test"], "is not a dataset"),
        (["{images}", "--out", "{tmp}/e.parquet", "--batch-size", "0"], "batch_size is 0"),
        (["{images}", "--out", "{tmp}/e.parquet", "--precision", "fp8"], "precision 'fp8': choose among 32-true"),
        (["{images}", "--out", "{tmp}/e.parquet", "--labels", "a,b"], "a 'vit' encoder reads images only"),
        (["{tmp}/empty", "--out", "{tmp}/e.parquet"], "empty: no images in it; PNG, JPEG, TIFF and DICOM files are read"),
        (["{tmp}/nowhere", "--out", "{tmp}/e.parquet"], "nowhere: no such file or folder"),
        (["{tmp}/tiny.png", "--out", "{tmp}/e.parquet"], "tiny.png: 3 x 3 px, the least is 8 (too_small)"),
        (["{tmp}/text.png", "--out", "{tmp}/e.parquet"], "text.png: not a PNG, JPEG or TIFF image that can be decoded"),
        (["{tmp}/list.csv", "--out", "{tmp}/e.parquet"], "list.csv: no column path, image_path"),
        (["{tmp}/bad.txt", "--out", "{tmp}/e.parquet"], "none of 2 images can be used (2 missing_file); the first is x.png"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(encoder_folder, folder, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "tiny.png"), picture(0, 3, 3))
    (tmp_path / "text.png").write_text("words")
    (tmp_path / "list.csv").write_text("name\n1\n")
    (tmp_path / "bad.txt").write_text("x.png\ny.png\n")
    code, output = command(encoder_folder, *(text.format(images=folder, tmp=tmp_path) for text in arguments))
    assert code == 2
    assert message in output
    assert "\n" not in output.strip()
    assert not list(tmp_path.glob("e.*"))
