"""A whole segmentation on the small dataset, and what it refuses."""

import csv
import shutil

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from blob_dataset import ENCODER
from radscale.cli import app
from radscale.datasets import Dataset
from radscale.datasets.masks import MaskTable, encode_mask
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.segmentation import SEGMENTATION_SCHEMA, SegmentationConfig, run_segmentation
from radscale.segmentation.segment import plan_segmentation
from radscale.training.checkpointing import save_checkpoint
from radscale.training.open_weights import load_encoder

CONFIG = SegmentationConfig(seeds=(0, 1), epochs=20, batch_size=8, num_overlays=2, upsampling=4, kernel_size=3)


@pytest.fixture(scope="module")
def result(encoder_folder, blob_dataset, blob_masks, tmp_path_factory):
    out = tmp_path_factory.mktemp("segmentation") / "out"
    steps = []
    facts = run_segmentation(
        CONFIG,
        encoder=encoder_folder,
        dataset=blob_dataset,
        masks=blob_masks,
        out=out,
        num_workers=2,
        progress=lambda done, total, what: steps.append((done, total, what)),
    )
    return facts, out, steps


def test_the_table_has_a_row_for_every_known_mask_and_seed(result, blob_dataset, blob_masks):
    facts, out, _ = result
    table = pq.read_table(out / "segmentation.parquet")
    assert table.schema.equals(SEGMENTATION_SCHEMA)
    data = Dataset(blob_dataset)
    masks = MaskTable(blob_masks, data)
    rows = data.select(split="test", view="frontal")
    known = masks.presence(rows)
    found = {(row["seed"], row["task"], row["sample_id"]): row for row in table.to_pylist()}
    assert len(found) == table.num_rows == 2 * np.isfinite(known).sum()
    for row, state in zip(rows, known, strict=True):
        sample = data.manifest["sample_id"][int(row)].as_py()
        for task, value in zip(masks.tasks, state, strict=True):
            if np.isfinite(value):
                assert found[0, task, sample]["present"] == bool(value)
                assert found[0, task, sample]["patient_id"] == data.manifest["patient_id"][int(row)].as_py()
    assert facts["num_test"] == len(rows)
    assert facts["tasks"]["blob"]["num_test_present"] == (known[:, 0] == 1).sum()


def test_it_finds_the_blobs_and_knows_their_absence(result):
    facts, _, _ = result
    values = {(row["task"], row["rule"], row["metric"]): row["value"] for row in facts["summary"]}
    assert values["blob", "present", "dice"] > 0.5
    assert values["blob", "count", "both_empty"] > values["blob", "count", "false_alarms"]
    assert values["blob", "count", "missed"] <= 1
    assert values["average", "any", "dice"] == pytest.approx(
        (values["blob", "any", "dice"] + values["stripe", "any", "dice"]) / 2
    )


def test_summary_overlays_and_progress_are_left_and_the_cache_is_not(result):
    facts, out, steps = result
    assert sorted(path.name for path in out.iterdir()) == [
        "heads.safetensors", "overlays", "segmentation.parquet", "summary.csv",
    ]  # fmt: skip
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(facts["summary"])
    for row, own in zip(rows, facts["summary"], strict=True):
        assert float(row["value"]) == pytest.approx(own["value"], rel=1e-9)
    sheet = cv2.imread(str(out / "overlays" / "blob.png"))
    assert sheet.ndim == 3
    # Coloured pixels in every row of tiles (below the two lines of text).
    coloured = (sheet.max(axis=2).astype(int) - sheet.min(axis=2) > 60).any(axis=1)
    assert all(part.any() for part in np.array_split(coloured[50:], 3))
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert {what for _, _, what in steps} == {"features", "head", "test images"}


def test_streaming_from_the_encoder_gives_the_same_as_the_cache(result, encoder_folder, blob_dataset, blob_masks, tmp_path):
    kept = {}
    for cached in (True, False):
        config = SegmentationConfig(seeds=(0,), epochs=2, cache_features=cached, feature_dtype="float32", num_overlays=0)
        run_segmentation(config, encoder=encoder_folder, dataset=blob_dataset, masks=blob_masks, out=tmp_path / str(cached))
        kept[cached] = pq.read_table(tmp_path / str(cached) / "segmentation.parquet")
        assert not (tmp_path / str(cached) / "overlays").exists()
    for name in ("dice", "hausdorff_px", "present"):
        np.testing.assert_allclose(np.asarray(kept[True][name]), np.asarray(kept[False][name]), rtol=1e-4)


def test_the_whole_image_is_seen_only_when_asked_for(blob_dataset, blob_masks, tmp_path):
    """An encoder that crops to the central half: blobs at the edge are out of its sight."""
    cropping = {
        **ENCODER,
        "preprocessing": {**ENCODER["preprocessing"], "resize": "shortest_edge_center_crop", "crop_fraction": 0.5},
    }
    save_checkpoint(tmp_path / "crops", build_encoder(cropping, seed=0), info={"objective": "none"})
    missed = {}
    for whole in (False, True):
        out = tmp_path / str(whole)
        run(tmp_path / "crops", blob_dataset, blob_masks, out, whole_image=whole, epochs=15, tasks=("blob",), upsampling=4)
        table = pq.read_table(out / "segmentation.parquet").to_pylist()
        missed[whole] = np.mean([row["dice"] for row in table if row["present"]])
    assert missed[True] > missed[False] + 0.1


def test_the_command_prints_counts_and_leaves_a_whole_folder(encoder_folder, blob_dataset, blob_masks, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text("epochs: 1\nseeds: [0]\nmin_steps: 5\nnum_overlays: 0\n")
    arguments = ["segment", str(encoder_folder), str(blob_dataset), "--masks", str(blob_masks), "--task", "blob"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert all(word in done.output for word in ("Hausdorff", "missed", "alarms", "empty"))
    assert "108 training images, 72 test images" in done.output
    assert set(pq.read_table(tmp_path / "out" / "segmentation.parquet")["task"].to_pylist()) == {"blob"}
    assert not (tmp_path / "out.partial").exists()


def run(encoder, dataset, masks, out, **settings):
    config = SegmentationConfig(**{"seeds": (0,), "epochs": 1, "num_overlays": 0, **settings})
    run_segmentation(config, encoder=encoder, dataset=dataset, masks=masks, out=out)


def test_masks_of_another_size_are_refused(encoder_folder, blob_dataset, make_masks, tmp_path):
    small = encode_mask(np.ones((16, 32), bool))
    masks = make_masks(lambda row: row | {"png": small} if row["png"] else row)
    with pytest.raises(
        InputError, match=r"mask of image \w+ is 32 x 16 px; the image has 32 x 32 px, and a mask must have the"
    ):
        run(encoder_folder, blob_dataset, masks, tmp_path / "out")


def test_ids_that_the_dataset_does_not_have_are_refused(encoder_folder, blob_dataset, make_masks, tmp_path):
    masks = make_masks(lambda row: row | {"sample_id": "f" + row["sample_id"]} if row["task"] == "blob" else row)
    with pytest.raises(InputError, match=r"200 masks are of images that the dataset does not have \(first: f\w+\); make the"):
        run(encoder_folder, blob_dataset, masks, tmp_path / "out")


def test_a_task_twice_in_an_image_is_refused(blob_dataset, make_masks):
    masks = make_masks(lambda row: row | {"task": "blob"})
    with pytest.raises(InputError, match=r"image \w+ has 'blob' in two rows; join"):
        MaskTable(masks, Dataset(blob_dataset))


def test_bytes_that_are_no_png_are_refused(blob_dataset, make_masks):
    masks = make_masks(lambda row: row | {"png": b"no picture"} if row["png"] else row)
    with pytest.raises(InputError, match=r"mask of image \w+ is no PNG; the image has"):
        MaskTable(masks, Dataset(blob_dataset))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_task_without_positives_is_named_or_refused(blob_dataset, encoder_folder, make_masks, tmp_path, split):
    data = Dataset(blob_dataset)
    samples = data.manifest["sample_id"].to_pylist()
    emptied = {samples[row] for row in data.select(split=split)}

    def change(row):
        return row | {"png": None} if row["task"] == "blob" and row["sample_id"] in emptied else row

    masks = make_masks(change)
    plan = plan_segmentation(SegmentationConfig(), data, MaskTable(masks, data))
    assert plan.tasks == ["stripe"]
    assert plan.excluded == [{"task": "blob", "reason": f"images with it: 0 in {split}; at least 1 needed"}]
    with pytest.raises(
        InputError, match=rf"none of the 1 tasks can be .* \(blob: images with it: 0 in {split}; at least 1 need"
    ):
        run(encoder_folder, blob_dataset, masks, tmp_path / "out", tasks=("blob",))


def test_an_unknown_task_is_refused(blob_dataset, encoder_folder, blob_masks, tmp_path):
    with pytest.raises(InputError, match="task 'ETT' is not in the mask table; it has blob, stripe"):
        run(encoder_folder, blob_dataset, blob_masks, tmp_path / "out", tasks=("ETT",))


def test_patients_in_two_splits_are_refused_by_pseudonym(blob_dataset, encoder_folder, blob_masks, tmp_path):
    shutil.copytree(blob_dataset, tmp_path / "dataset")
    rows = pq.read_table(blob_dataset / "manifest.parquet").to_pylist()
    rows[150]["patient_id"] = "patient3"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dataset" / "manifest.parquet")
    with pytest.raises(InputError, match=r"1 patients have images in train and in test \(patient3\)"):
        run(encoder_folder, tmp_path / "dataset", blob_masks, tmp_path / "out")


def test_an_encoder_that_gives_no_numbers_is_refused_and_leaves_no_cache(blob_dataset, encoder_folder, blob_masks, tmp_path):
    encoder = load_encoder(str(encoder_folder))
    with torch.no_grad():
        encoder.backbone.blocks[1].mlp.fc2.weight.fill_(1e38)
    save_checkpoint(tmp_path / "broken", encoder, info={"objective": "none"})
    with pytest.raises(InputError, match=r"broken\): its features are infinite or undefined numbers; check its weights"):
        run(tmp_path / "broken", blob_dataset, blob_masks, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*[!n]"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.0}, "threshold between 0 and 1"),
        ({"kernel_size": 2}, "kernel_size is 2: it must be odd"),
        ({"seeds": (1, 1)}, "one or more different numbers"),
        ({"tasks": ()}, "tasks: empty"),
        ({"upsampling": 0}, "upsampling is 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SegmentationConfig(**settings)
