"""Similarity maps of several encoders on one image, and continuity scores of folders of marked devices."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from radscale import cli
from radscale.errors import InputError
from radscale.experiment import patch_similarity as ps
from radscale.models import Encoder, Preprocessing, build_encoder
from radscale.phantom import PhantomConfig, generate_archive
from radscale.training.checkpointing import save_checkpoint

VIT = {"image_size_px": 28, "patch_size_px": 7, "width": 16, "depth": 4, "num_heads": 2}


class BrightnessEncoder(Encoder):
    """Knows how bright a patch is: two patches of one brightness are the same to it. A second, blind layer knows nothing."""

    family = "brightness"

    def __init__(self, grid: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.grid, self.preprocessing = grid, preprocessing
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        grey = torch.nn.functional.adaptive_max_pool2d(pixels[:, :1], self.grid)
        angle = 3 * (grey - grey.min()) / (grey.max() - grey.min())
        layer = torch.cat([angle.cos(), angle.sin()], dim=1)
        return [layer, layer, layer, torch.ones_like(layer)]

    def encode_image(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return pixels[:, 0, 0]

    def config_dict(self) -> dict[str, Any]:
        return {}


def brightness(resize: Any = "squash", grid: int = 16) -> BrightnessEncoder:
    return BrightnessEncoder(grid, Preprocessing(image_size_px=128, resize=resize))


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """One wide image: a bright line with its mask and tip, a dim line of the same type, and a bright one that is marked as
    another type (all of it right of the middle)."""
    image, masks = np.zeros((160, 320), np.uint8), np.zeros((160, 320), np.uint8)
    for value, (grey, row) in {1: (255, 40), 2: (130, 100)}.items():
        image[row : row + 4, 100:220] = grey
        masks[row : row + 4, 100:220] = value
    cv2.imwrite(str(tmp_path / "image.png"), image)
    cv2.imwrite(str(tmp_path / "masks.png"), masks)
    (tmp_path / "devices.csv").write_text(
        "image,mask,mask_value,tip_x_px,tip_y_px,device,patient_id\n"
        "image.png,masks.png,1,101,42,CT,SECRET^NAME\nimage.png,masks.png,2,101,102,NGT,SECRET^NAME\n"
    )
    return tmp_path


def test_a_map_lies_on_the_same_place_of_the_image_for_every_encoder(marked: Path) -> None:
    image = ps.read_grey(marked / "image.png")
    encoders = {"whole": brightness(), "centre": brightness("shortest_edge_center_crop")}
    maps = ps.similarity_maps(encoders, image, (42 / 160, 150 / 320))
    assert maps["whole|box"].tolist() == [0, 0, 1, 1]
    assert maps["centre|box"].tolist() == [0, 0.25, 1, 0.5]
    for label in encoders:
        left, width = maps[f"{label}|box"][[1, 3]] * 320
        rows, columns = np.nonzero(maps[f"{label}|0"] > 0.999)
        assert set(rows) == {4}, "the bright line: 40 of 160 px is row 4 of 16"
        seen = left + (columns + 0.5) * width / 16
        assert 100 - width / 16 < seen.min() < seen.max() < 220 + width / 16
    with pytest.raises(InputError, match=r"outside the centre crop that centre sees: choose x from 0\.250 to 0\.750"):
        ps.similarity_maps(encoders, image, (0.5, 0.1))


def test_a_device_that_alone_is_bright_scores_one_and_a_blind_layer_zero(marked: Path) -> None:
    scores, _ = ps.score_devices({"sees": brightness()}, ps.read_marked(marked))
    found = {(score.device, score.layer): score for score in scores}
    assert found["CT", 1].score == 1
    assert found["NGT", 1].score == 1
    assert found["CT", 4].score == found["CT", 4].recall == 0
    assert 0 < found["CT", 1].position_only < 1
    assert found["CT", 1].chance < found["CT", 1].position_only
    assert {score.patient for score in scores} == {1}


def test_encoders_with_unlike_maps_are_scored_on_one_grid(marked: Path) -> None:
    encoders = {"fine": brightness(grid=32), "coarse": brightness(grid=16)}
    scores, _ = ps.score_devices(encoders, ps.read_marked(marked), grid=16)
    assert {score.grid for score in scores} == {"16x16"}
    fine, coarse = ([s.patches for s in scores if s.encoder == label] for label in encoders)
    assert fine == coarse
    # Where the grid is its own, nothing changes.
    own, _ = ps.score_devices({"coarse": brightness(grid=16)}, ps.read_marked(marked))
    assert own == [score for score in scores if score.encoder == "coarse"]


def test_another_device_as_bright_ends_the_score_unless_it_is_of_the_same_type(marked: Path) -> None:
    image = cv2.imread(str(marked / "image.png"), cv2.IMREAD_GRAYSCALE)
    image[image > 0] = 255
    cv2.imwrite(str(marked / "image.png"), image)
    table = marked / "devices.csv"
    assert {s.score for s in ps.score_devices({"sees": brightness()}, ps.read_marked(marked))[0] if s.layer == 1} == {0}
    table.write_text(table.read_text().replace("NGT", "CT"))
    assert {s.score for s in ps.score_devices({"sees": brightness()}, ps.read_marked(marked))[0] if s.layer == 1} == {1}


def test_both_ends_count_where_the_tip_is_not_marked(tmp_path: Path) -> None:
    image = np.zeros((160, 160), np.uint8)
    image[40:44, 20:140] = np.linspace(120, 255, 120).astype(np.uint8)
    image[120:124, 20:80] = 255  # as bright as the right end, where nothing can then be followed
    (tmp_path / "train").mkdir()
    cv2.imwrite(str(tmp_path / "train" / "1.2.3.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    (tmp_path / "train_annotations.csv").write_text(
        'StudyInstanceUID,label,data\n1.2.3,CVC - Normal,"[[20, 42], [80, 42], [139, 42]]"\n'
    )
    (both,) = [score for score in ps.score_devices({"sees": brightness()}, ps.read_marked(tmp_path))[0] if score.layer == 1]
    image[120:124] = 0
    cv2.imwrite(str(tmp_path / "train" / "1.2.3.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    (alone,) = [score for score in ps.score_devices({"sees": brightness()}, ps.read_marked(tmp_path))[0] if score.layer == 1]
    assert alone.score == 1
    assert 0.25 < both.score < 0.75


def test_labels_come_from_the_user_or_from_the_end_of_the_path_that_differs(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "n=9" / checkpoint.name
    other.parent.mkdir()
    other.symlink_to(checkpoint)
    assert list(ps.load_encoders([str(checkpoint)])) == [checkpoint.name]
    assert list(ps.load_encoders([str(checkpoint), str(other)])) == [f"{tmp_path.name}/ours", "n=9/ours"]
    assert list(ps.load_encoders([f"mine={checkpoint}", str(other)])) == ["mine", "ours"]
    assert list(ps.load_encoders([f"ViT-S/14 (ours)={checkpoint}"])) == ["ViT-S/14 (ours)"]
    with pytest.raises(InputError, match=r"runs/n=7/ours: neither"):
        ps.load_encoders(["runs/n=7/ours"])
    assert ps.load_encoders([f"a={checkpoint}"], image_size_px=56)["a"].preprocessing.image_size_px == 56
    with pytest.raises(InputError, match="'x' is given twice"):
        ps.load_encoders([f"x={checkpoint}", f"x={other}"])
    with pytest.raises(InputError, match="model_type"):
        ps.load_encoders([f"x={checkpoint}:rad-dino"])


def test_means_have_intervals_over_patients_and_differences_are_paired() -> None:
    def score(row: int, encoder: str, value: float) -> ps.DeviceScore:
        return ps.DeviceScore(row, (row + 1) // 2, "CT", encoder, 1, "5x5", 9, value, value, 0.1, 0.0)

    values = {1: 0.1, 2: 0.3, 3: 0.5, 4: 0.7, 5: 0.9}
    scores = [score(row, "a", value) for row, value in values.items()]
    scores += [score(row, "b", value + 0.05) for row, value in values.items() if row != 5]
    a, b = ps.summarise_scores(scores).rows
    assert (a["devices"], a["patients"], b["devices"]) == (5, 3, 4)
    assert a["mean"] == pytest.approx(0.5)
    assert a["gain"] == pytest.approx(0.4)
    assert a["mean_low"] < 0.35
    assert a["mean_high"] > 0.7
    assert "difference" not in a
    assert not ps.summarise_scores(scores).notes
    (*_, coarse) = (table := ps.summarise_scores([*scores, replace(scores[0], encoder="c", grid="3x3")])).rows
    assert "difference" not in coarse, "another grid is another question"
    assert "--grid" in table.notes[0]
    # The same step on every shared device: a difference without any spread.
    assert (b["difference"], b["difference_low"], b["difference_high"]) == pytest.approx((0.05, 0.05, 0.05))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    encoder = build_encoder({"family": "vit", "architecture": VIT, "preprocessing": {"image_size_px": 56}}, seed=0)
    save_checkpoint(tmp_path / "ours", encoder, info={})
    return tmp_path / "ours"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and everything printed, on one line."""

    def call(*arguments: object) -> tuple[int, str]:
        code = cli._run(lambda: cli.app(args=[str(argument) for argument in arguments], standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_one_encoder_and_one_image_as_ever(checkpoint: Path, marked: Path, run: Callable[..., tuple[int, str]]) -> None:
    out = marked / "picture.png"
    assert run("similarity", checkpoint, marked / "image.png", "--out", out)[0] == 0
    assert cv2.imread(str(out)) is not None


def test_several_encoders_one_picture_and_the_maps(checkpoint: Path, marked: Path, run: Callable[..., tuple[int, str]]) -> None:
    out, maps = marked / "picture.svg", marked / "maps.npz"
    arguments = (f"a={checkpoint}", f"b={checkpoint}", marked / "image.png", "--point", "0.4,0.3", "--out", out, "--maps", maps)
    assert run("similarity", *arguments, "--size", 112, "--stretch")[0] == 0
    assert "share of less similar patches" in out.read_text(encoding="utf-8")
    with np.load(maps) as saved:
        assert set(saved) == {f"{label}|{part}" for label in "ab" for part in ("0", "1", "2", "3", "box")}
        assert saved["a|3"].shape == (16, 16)
        row, column = 4, int((0.4 - 0.25) / 0.5 * 16)
        assert saved["a|3"][row, column] == pytest.approx(1)


def test_a_phantom_archive_is_scored_without_naming_anybody(
    checkpoint: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "scores"
    archive.mkdir()
    generate_archive(PhantomConfig(num_patients=6, seed=3, image_size_px=128), archive)
    code, printed = run("similarity", f"a={checkpoint}", archive, "--out", out, "--size", 112)
    assert code == 0, printed
    assert "Curve continuity" in printed
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"1", "2", "3", "4"}
    assert all(0 <= float(row["score"]) <= float(row["recall"]) <= 1 for row in rows)
    with (archive / "truth" / "devices.csv").open() as file:
        truth = list(csv.DictReader(file))
    assert all(truth[int(row["row"]) - 1]["type"] == row["device"] for row in rows)
    written = "".join(path.read_text(errors="ignore") for path in out.iterdir())
    for path in (archive / "dicom").rglob("*.dcm"):
        assert path.stem not in written
        assert path.parent.parent.name not in written
    assert {path.name for path in out.iterdir()} == {"scores.csv", "summary.csv", "continuity.png", "continuity.svg"}


def test_mistakes_are_one_line(checkpoint: Path, marked: Path, run: Callable[..., tuple[int, str]]) -> None:
    empty = marked / "empty"
    empty.mkdir()
    for arguments, message in {
        (empty,): "no marked devices in it",
        (marked, "--point", "0.5,0.5"): "belong to one image",
        (marked / "image.png", "--limit", 3): "belong to a folder",
        (marked / "image.png", "--maps", "maps.csv"): "written as .npz",
        (marked / "nothing.png",): "no such image file",
        (marked / "image.png", "--out", marked / "x.bmp"): ".svg, .pdf or .png",
    }.items():
        code, printed = run("similarity", checkpoint, *arguments)
        assert code == 2
        assert message in printed
        assert "Traceback" not in printed
    table = marked / "devices.csv"
    table.write_text(table.read_text().replace(",101,", ",5,"))
    code, printed = run("similarity", checkpoint, marked, "--out", marked / "s")
    assert (code, "tips are outside what the encoders see" in printed) == (2, True)
    table.write_text(table.read_text() + "broken.png,masks.png,1,101,42,CT,SECRET^NAME\nimage.png,masks.png,1,101,42,CT,a\n")
    (marked / "broken.png").write_bytes(b"no picture")
    code, printed = run("similarity", checkpoint, marked, "--out", marked / "t", "--size", 112)
    assert (code, "left out image of row 3: not a PNG" in printed, "SECRET" in printed) == (0, True, False)
    (marked / "image.png").unlink()
    code, printed = run("similarity", checkpoint, marked, "--out", marked / "u")
    assert (code, "image of row 1: no such image file" in printed, "SECRET" in printed) == (2, True, False)
