"""Zero-shot scores beside a computation by hand."""

import cv2
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from dicom_makers import make_dicom
from radscale import cli
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.probing import zero_shot_scores
from radscale.probing.embedding_output import check_output
from radscale.probing.zero_shot import ZeroShotClassifier, named_view, read_labels
from radscale.training import save_checkpoint

CONFIG = {
    "family": "vit_text",
    "architecture": {
        "image": {"image_size_px": 32, "patch_size_px": 8, "width": 16, "depth": 4, "num_heads": 2},
        "text": {"width": 16, "depth": 1, "num_heads": 2},
        "embedding_dim": 12,
    },
    "preprocessing": {"image_size_px": 32, "resize": "squash"},
}
LABELS = ["Pneumonia", "Pleural Effusion", "normal"]


@pytest.fixture(scope="module")
def encoder():
    model = build_encoder(CONFIG, seed=3).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        model.lang_projection.mul_(30)  # texts that are far enough apart for the view to matter
    return model


def picture(seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    image[0, :2] = 0, 255
    return image


def by_hand(encoder, image: np.ndarray, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        seen = encoder.encode_image(encoder.preprocess([image]))[0].numpy().astype(np.float64)
        logits = [np.exp(2.5) * seen @ encoder.encode_text([text])[0].numpy() for text in texts]
    weights = np.exp(logits)
    return weights / weights.sum()


def test_scores_are_the_softmax_over_the_labels_in_the_native_style(encoder):
    images = [picture(seed) for seed in range(3)]
    found = zero_shot_scores(encoder, images, LABELS, view="AP", batch_size=2)
    texts = [f"x-ray chest anteroposterior {label}" for label in LABELS]
    np.testing.assert_allclose(found, [by_hand(encoder, image, texts) for image in images], rtol=1e-4)
    assert found.dtype == np.float32
    other = zero_shot_scores(encoder, images, LABELS, view="none")
    np.testing.assert_allclose(other[0], by_hand(encoder, images[0], [f"x-ray chest {name}" for name in LABELS]), rtol=1e-4)
    assert np.abs(found - other).max() > 1e-4
    two = zero_shot_scores(encoder, images, LABELS[:2], view="AP")
    np.testing.assert_allclose(two[:, 0] / two[:, 1], found[:, 0] / found[:, 1], rtol=1e-3)


def test_each_image_is_read_in_its_own_view(encoder, tmp_path):
    paths = []
    for number, position in enumerate(("PA", "LL", "")):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(make_dicom(picture(number), ViewPosition=position))
    found = zero_shot_scores(encoder, paths, LABELS)
    for number, words in enumerate(("x-ray chest posteroanterior", "x-ray chest lateral", "x-ray chest")):
        expected = by_hand(encoder, picture(number), [f"{words} {label}" for label in LABELS])
        np.testing.assert_allclose(found[number], expected, rtol=1e-4)


def test_another_prompt_is_taken_as_written(encoder):
    classifier = ZeroShotClassifier(encoder, LABELS, "finding: {label}")
    assert classifier.texts("lateral")[1] == "finding: Pleural Effusion"
    assert ZeroShotClassifier(encoder, ["{view}", "b"]).texts("lateral")[0] == "x-ray chest lateral {view}"


def test_tables_have_one_column_per_label(encoder, tmp_path):
    save_checkpoint(tmp_path / "clip", encoder, info={})
    (tmp_path / "images").mkdir()
    for seed in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{seed}.png"), picture(seed))
    (tmp_path / "labels.txt").write_text("# what we look for\nPneumonia\nPleural Effusion  # fluid\n\nnormal\n")
    expected = zero_shot_scores(encoder, [picture(seed) for seed in range(3)], LABELS, view="PA")
    for labels, suffix in ((",".join(LABELS), "csv"), (tmp_path / "labels.txt", "parquet"), (",".join(LABELS), "safetensors")):
        out = tmp_path / f"scores.{suffix}"
        command = ["embed", tmp_path / "clip", tmp_path / "images", "--out", out, "--labels", labels, "--view", "PA"]
        result = CliRunner().invoke(cli.app, [str(part) for part in command])
        assert result.exit_code == 0, result.output
    table = pyarrow.csv.read_csv(tmp_path / "scores.csv")
    assert table.column_names == ["id", "view", *LABELS]
    found = np.stack([table[label].to_numpy() for label in LABELS], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["id", "view", "embedding", *LABELS]
    np.testing.assert_allclose(table["Pleural Effusion"].to_numpy(), expected[:, 1], rtol=1e-5)
    tensors = load_file(tmp_path / "scores.safetensors")
    assert set(tensors) == {"ids", "embedding", "scores"}
    np.testing.assert_allclose(tensors["scores"], expected, rtol=1e-5)


def test_labels_that_cannot_be_used_are_refused(encoder, tmp_path):
    with pytest.raises(InputError, match="1 given; scores are relative to the other labels"):
        zero_shot_scores(encoder, [picture(0)], ["Pneumonia"])
    with pytest.raises(InputError, match="'a' is given twice"):
        zero_shot_scores(encoder, [picture(0)], ["a", "b", "a"])
    with pytest.raises(InputError, match=r"has no \{label\}"):
        zero_shot_scores(encoder, [picture(0)], ["a", "b"], prompt="x-ray")
    with pytest.raises(InputError, match="view 'oblique': choose among auto, none, frontal, AP"):
        named_view("oblique")
    with pytest.raises(InputError, match=r"labels\.txt: no such file"):
        read_labels(str(tmp_path / "labels.txt"))
    (tmp_path / "latin.txt").write_bytes("Pneumonie\nErguß\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt: not a UTF-8 text file"):
        read_labels(str(tmp_path / "latin.txt"))
    with pytest.raises(InputError, match="'view' is the name of another column"):
        check_output(tmp_path / "e.parquet", ("embedding",), ("view", "b"))
