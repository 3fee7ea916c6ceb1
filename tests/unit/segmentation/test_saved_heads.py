"""Heads that are kept: applied to other images, refused where they do not belong, and trained on after a kill."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from blob_dataset import ENCODER, write_dataset
from killed_commands import kill_when
from radscale.cli import app
from radscale.datasets import Dataset
from radscale.datasets.masks import MaskTable
from radscale.errors import InputError
from radscale.metrics import dice_score
from radscale.models import build_encoder
from radscale.segmentation import SegmentationConfig, apply_heads, run_segmentation
from radscale.training.checkpointing import save_checkpoint

CONFIG = SegmentationConfig(seeds=(0, 1), epochs=5, batch_size=8, min_steps=100, num_overlays=0, upsampling=4)


@pytest.fixture(scope="module")
def trained(encoder_folder, blob_dataset, blob_masks, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "out"
    run_segmentation(CONFIG, encoder=encoder_folder, dataset=blob_dataset, masks=blob_masks, out=out)
    return out


def test_applied_to_the_same_images_they_give_the_same_table(trained, encoder_folder, blob_dataset, blob_masks, tmp_path):
    facts = apply_heads(
        SegmentationConfig(num_overlays=1),
        heads=trained,
        encoder=encoder_folder,
        dataset=blob_dataset,
        masks=blob_masks,
        out=tmp_path,
        num_workers=2,
    )
    for name in ("segmentation.parquet", "summary.csv"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    assert (tmp_path / "overlays" / "blob.png").exists()
    assert facts["num_images"] == 72


def test_they_find_the_blobs_of_another_dataset_without_masks(trained, encoder_folder, tmp_path):
    other = write_dataset(tmp_path / "other", num_train=10, num_test=40, seed=7)
    facts = apply_heads(
        SegmentationConfig(tasks=("blob",)),
        heads=trained,
        encoder=encoder_folder,
        dataset=other,
        out=tmp_path / "out",
        split="all",
    )
    data = Dataset(other)
    found = MaskTable(tmp_path / "out" / "masks.parquet", data)
    rows = data.select(view="frontal")
    assert found.tasks == ["blob"]
    assert facts["num_images"] == len(rows) == 45
    assert np.isfinite(found.presence(rows)).all()
    drawn = [(found.read(int(row))[0], data.read_image(int(row)) == 250) for row in rows]
    assert np.mean([dice_score(mask, blob) for mask, blob in drawn if blob.any()]) > 0.5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks.parquet"]


def apply(trained, encoder, dataset, tmp_path, **settings):
    apply_heads(SegmentationConfig(**settings), heads=trained, encoder=encoder, dataset=dataset, out=tmp_path / "out")


def test_an_encoder_with_other_weights_is_refused(trained, encoder_folder, blob_dataset, tmp_path):
    save_checkpoint(tmp_path / "other", build_encoder(ENCODER, seed=1), info={"objective": "none"})
    with pytest.raises(InputError, match=r"trained on the encoder with fingerprint \w{16}; .*other has \w{16}. Give the same"):
        apply(trained, tmp_path / "other", blob_dataset, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": 7}, r"grid is 7; the heads of .* have 4"),
        ({"whole_image": True}, r"whole_image is True; the heads of .* have False"),
        ({"upsampling": 2}, r"upsampling is 2; the heads of .* have 4"),
        ({"tasks": ("ETT",)}, r"task 'ETT': the heads of .* have blob, stripe; choose from them"),
        ({"views": ("unknown",)}, r"split 'test': no image is unknown; choose another --split"),
    ],
)
def test_what_the_heads_cannot_do_is_refused(trained, encoder_folder, blob_dataset, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        apply(trained, encoder_folder, blob_dataset, tmp_path, **settings)


def test_files_that_are_no_heads_are_refused(trained, encoder_folder, blob_dataset, tmp_path):
    with pytest.raises(InputError, match="no such file; give a folder made by `radscale segment`"):
        apply(tmp_path / "none", encoder_folder, blob_dataset, tmp_path)
    save_file(load_file(trained / "heads.safetensors"), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="schema_version None, this radscale reads 1"):
        apply(tmp_path / "plain.safetensors", encoder_folder, blob_dataset, tmp_path)
    (tmp_path / "cut").write_bytes((trained / "heads.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match="not a whole file of heads"):
        apply(tmp_path / "cut", encoder_folder, blob_dataset, tmp_path)


@pytest.mark.slow
def test_killed_and_repeated_the_command_goes_on_to_the_same_files(encoder_folder, blob_dataset, blob_masks, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("epochs: 20\nmin_steps: 60\nseeds: [0, 1]\nnum_overlays: 0\n")
    common = ["segment", str(encoder_folder), str(blob_dataset), "--masks", str(blob_masks), "--config", str(settings)]
    straight = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "straight")])
    assert straight.exit_code == 0, straight.output
    killed = [*common, "--out", str(tmp_path / "killed")]
    state = tmp_path / "killed.partial" / "work" / "kept-training.safetensors"
    kill_when(killed, state)
    assert not (tmp_path / "killed").exists()
    first = state.stat().st_mtime_ns
    settings.write_text(settings.read_text().replace("epochs: 20", "epochs: 21"))
    changed = CliRunner().invoke(app, killed)
    assert "an unfinished run there had other settings (epochs: 20 -> 21)" in str(changed.exception)
    assert state.stat().st_mtime_ns == first
    settings.write_text(settings.read_text().replace("epochs: 21", "epochs: 20"))
    again = CliRunner().invoke(app, killed)
    assert again.exit_code == 0, again.output
    for name in ("segmentation.parquet", "summary.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    ours, theirs = (load_file(tmp_path / name / "heads.safetensors") for name in ("killed", "straight"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "killed.partial").exists()


def test_trained_heads_are_not_trained_again(encoder_folder, blob_dataset, blob_masks, tmp_path, monkeypatch):
    """A kill while test images are measured: what it left in `work` is the finished training."""
    common = {"encoder": encoder_folder, "dataset": blob_dataset, "masks": blob_masks, "work": tmp_path / "work"}
    run_segmentation(CONFIG, out=tmp_path / "first", **common)

    def refuse(*args, **kwargs):
        raise AssertionError("trained or computed again")

    monkeypatch.setattr("radscale.segmentation.head.segmentation_loss", refuse)
    monkeypatch.setattr("radscale.segmentation.segment.cached_features", refuse)
    run_segmentation(CONFIG, out=tmp_path / "second", **common)
    first, second = (tmp_path / name / "segmentation.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_command_needs_masks_or_heads_and_applies_them(trained, encoder_folder, blob_dataset, tmp_path):
    common = ["segment", str(encoder_folder), str(blob_dataset), "--out", str(tmp_path / "out")]
    assert "--masks: not given" in str(CliRunner().invoke(app, common).exception)
    done = CliRunner().invoke(app, [*common, "--heads", str(trained), "--split", "validation"])
    assert "split 'validation': no image is frontal" in str(done.exception)
    done = CliRunner().invoke(app, [*common, "--heads", str(trained), "--split", "all"])
    assert done.exit_code == 0, done.output
    assert "180 images; found blob in" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks.parquet"]
