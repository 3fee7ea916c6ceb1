"""Studies of a user's own data, through the command line: a folder of images with a CSV, and a DICOM archive."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from blob_dataset import ENCODER, draw_image
from radscale.models import build_encoder
from radscale.training import save_checkpoint

pytestmark = pytest.mark.xdist_group("own_data")

IMAGES = """\
extends: images
name: mine
image_size_px: 32
datasets:
  own:
    public: true
    source:
      folder: xrays
      settings: {columns: {image: file, patient: person}, labels: {findings: multiple}}
open_weights:
  open: {label: Open, load: checkpoint, weights: weights}
pretraining:
  batch_size: 4
  text_tower: {width: 16, depth: 1, num_heads: 2, embedding_dim: 16}
  dinov2: {global_size_px: 32, local_size_px: 16, num_local_crops: 2, num_prototypes: 32, head_hidden: 32, head_bottleneck: 16}
arms:
  dinov2: {settings: {dinov2: {num_prototypes: 32}}}
  rare: {label: "UniCL (rare labels)", start: open, objective: unicl, settings: {label_tasks: {rare: a thing, rarer: another}}}
subset_sizes: [6, 60]
replicates: 1
budget: {epochs: 1}
probe: {seeds: [0], epochs: 2, min_steps: 4, grid: 2, width: 8}
analysis: {num_bootstrap: 20}
"""

DICOM = """\
extends: smoke
name: archive
pretraining_dataset: own
datasets:
  public: {source: {num_patients: 16}}
  own:
    public: true
    source: {kind: dicom, archive: hospital}
    splits: {train: 0.5, validation: 0.0, test: 0.5}
subset_sizes: [8, 16]
replicates: 1
"""


def radscale(folder: Path, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "radscale.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout


def write_images(folder: Path) -> None:
    """160 images of 80 people; every twelfth person has the rare label."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for index in range(160):
        blob, stripe, rare, rarer = *(rng.random(2) < 0.4), index // 2 % 12 == 5, index // 2 % 24 == 5
        cv2.imwrite(str(folder / f"{index}.png"), draw_image(rng, blob, stripe))
        found = [name for name, there in (("blob", blob), ("stripe", stripe), ("rare", rare), ("rarer", rarer)) if there] or [
            "none"
        ]
        rows.append({"file": f"{index}.png", "person": f"person {index // 2}", "findings": "|".join(found)})
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_images_with_labels_and_a_run_that_cannot_be_done(tmp_path: Path) -> None:
    """UniCL without a single positive among six images fails; it is named, and everything else is analysed."""
    write_images(tmp_path / "xrays")
    save_checkpoint(tmp_path / "weights", build_encoder(ENCODER, 0), info={"objective": "open_weights"})
    (tmp_path / "mine.yaml").write_text(IMAGES)
    code, output = radscale(tmp_path, "plan", "mine.yaml")
    assert code == 0, output
    code, output = radscale(tmp_path, "run", "mine.yaml")
    assert code == 1, output
    assert "pretraining/rare/n=6/replicate=0: objective unicl: none of label_tasks (rare, rarer) is positive" in output
    out = tmp_path / "runs" / "mine"
    with (out / "analysis" / "results.csv").open() as file:
        scored = {(row["arm"], int(row["subset_size"])) for row in csv.DictReader(file)}
    assert scored == {("open", 0), ("dinov2", 6), ("dinov2", 60), ("unicl", 6), ("unicl", 60), ("rare", 60)}
    html = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "pretraining/rare/n=6/replicate=0 failed and is not in the numbers" in html
    _, output = radscale(tmp_path, "status", "mine.yaml")
    assert "made without probing/rare/n=6/replicate=0" in " ".join(output.replace("│", " ").split())
    _, output = radscale(tmp_path, "run", "mine.yaml")
    assert "analysis" not in [line.split()[-3] for line in output.splitlines() if " done " in line and " s" in line]


def test_a_dicom_archive(tmp_path: Path) -> None:
    code, output = radscale(tmp_path, "phantom", "hospital", "--patients", "60", "--seed", "5")
    assert code == 0, output
    (tmp_path / "archive.yaml").write_text(DICOM)
    code, output = radscale(tmp_path, "run", "archive.yaml")
    assert code == 0, output[-3000:]
    assert (tmp_path / "runs" / "archive" / "report" / "report.html").exists()
