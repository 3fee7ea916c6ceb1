"""Views from pixels: on the phantom, on real X-rays, and what an ingest makes of them."""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dicom_makers import SECRET, make_dicom
from radscale.datasets import Dataset, IngestConfig, ingest, verify_dataset
from radscale.datasets.dicom import read_dicom
from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import files_below, prepare_pixels
from radscale.datasets.view_classifier import decide_view, guess_view, view_features
from radscale.phantom import PhantomConfig, generate_archive

needs_data = pytest.mark.skipif("RADSCALE_SHARED_DATA" not in os.environ, reason="needs RADSCALE_SHARED_DATA")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, np.ndarray]]:
    """(view of the tag, image) of another hospital than the one that the classifier learned from."""
    folder = tmp_path_factory.mktemp("phantom") / "archive"
    generate_archive(PhantomConfig(hospital="public", num_patients=40, seed=77), folder)
    found = []
    for name in files_below(folder / "dicom"):
        try:
            image = read_dicom(folder / "dicom" / name)
            found.append((image.view, prepare_pixels(image.pixels, image.valid)))
        except Excluded:
            continue
    return found


def test_views_of_the_phantom_are_told(phantom: list[tuple[str, np.ndarray]]) -> None:
    known = [(view, guess_view(image).view) for view, image in phantom if view != "unknown"]
    assert {"frontal", "lateral"} <= {view for view, _ in known}
    assert np.mean([view == guess for view, guess in known]) > 0.9
    assert np.mean([guess not in (view, "unsure") for view, guess in known]) < 0.02


def test_features_do_not_change_with_the_mirror_or_the_brightness(phantom: list[tuple[str, np.ndarray]]) -> None:
    for _, image in phantom[:5]:
        features = view_features(image)
        np.testing.assert_allclose(view_features(np.ascontiguousarray(image[:, ::-1])), features, atol=0.06)
        darker = guess_view((image * 0.5 + 40).astype(np.uint8))
        assert darker.score == pytest.approx(guess_view(image).score, abs=1.5)


@needs_data
def test_views_of_real_xrays_are_told() -> None:
    """All of these have a known view; none was seen in training (docs/views.md)."""
    folder = Path(os.environ["RADSCALE_SHARED_DATA"]) / "realcxr"
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["view"] in ("PA", "AP", "AP Supine", "LATERAL")]
    guesses = [guess_view(cv2.imread(str(folder / row["image_path"]), cv2.IMREAD_GRAYSCALE)) for row in rows]
    is_lateral = np.array([row["view"] == "LATERAL" for row in rows])
    assert is_lateral.sum() == 35
    assert roc_auc_score(is_lateral, [guess.score for guess in guesses]) >= 0.99
    called = np.array([guess.view for guess in guesses])
    assert (called[is_lateral] == "frontal").mean() <= 0.03
    assert (called[~is_lateral] == "lateral").mean() <= 0.01
    assert (called == "unsure").mean() <= 0.05


@pytest.mark.parametrize(
    ("guess", "tag", "owner", "mode", "expected"),
    [
        ("lateral", "unknown", "unknown", "absent", ("lateral", "pixels")),
        ("lateral", "unknown", "frontal", "absent", ("frontal", "owner")),
        ("lateral", "unknown", "unknown", "never", ("unknown", "nobody")),
        ("unsure", "unknown", "unknown", "absent", ("unknown", "nobody")),
        ("lateral", "frontal", "unknown", "absent", ("frontal", "contradicted")),
        ("lateral", "frontal", "unknown", "wrong", ("lateral", "pixels")),
        ("lateral", "frontal", "unknown", "never", ("frontal", "tag")),
        ("unsure", "frontal", "unknown", "wrong", ("frontal", "tag")),
        ("frontal", "frontal", "lateral", "wrong", ("frontal", "tag")),
    ],
)
def test_who_decides(
    guess: str, tag: str, owner: str, mode: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from radscale.datasets import view_classifier

    monkeypatch.setattr(view_classifier, "guess_view", lambda image: view_classifier.ViewGuess(guess, 0.0))
    assert decide_view(np.zeros((8, 8), np.uint8), tag, owner, mode) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8), (518, 700)])
def test_any_image_has_a_view(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert guess_view(image).view in ("frontal", "lateral", "unsure")


def test_an_ingest_keeps_the_tag_and_says_who_speaks(phantom: list[tuple[str, np.ndarray]], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    frontal = next(image for view, image in phantom if view == "frontal" and guess_view(image).view == "frontal")
    lateral = next(image for view, image in phantom if view == "lateral" and guess_view(image).view == "lateral")
    for number, (image, tag) in enumerate([(frontal, "PA"), (frontal, ""), (lateral, ""), (lateral, "PA")]):
        pixels = np.roll(image, 3 * number, axis=0).astype(np.uint16) * 16  # no two are alike
        ids = {"StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.3.{number}", "PatientID": f"P{number}"}
        (folder / f"{number}.dcm").write_bytes(make_dicom(pixels, ViewPosition=tag, **ids))

    def views(name: str, **fields: object) -> list[tuple[str, str]]:
        config = IngestConfig(kind="dicom", image_size_px=128, reports_csv=None, **fields)  # type: ignore[arg-type]
        counts = ingest(config, folder, tmp_path / name, secret=SECRET)
        assert verify_dataset(tmp_path / name) == []
        data = Dataset(tmp_path / name)
        sources = data.column("view_source").to_pylist()
        assert counts["views"] == {source: sources.count(source) for source in sorted(set(sources))}
        return list(zip(data.column("view").to_pylist(), sources, strict=True))

    assert views("a") == [("frontal", "tag"), ("frontal", "pixels"), ("lateral", "pixels"), ("frontal", "contradicted")]
    assert views("b", view_from_pixels="wrong")[3] == ("lateral", "pixels")
    assert views("c", view_from_pixels="never")[1:3] == [("unknown", "nobody"), ("unknown", "nobody")]
    assert views("d", default_view="frontal")[2] == ("frontal", "owner")
