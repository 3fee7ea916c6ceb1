"""What is painted over in an ingest: text, places of devices, heads; and what the tables say of it."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.benchmarks.planted_text import plant_lines
from radscale.datasets import Dataset, IngestConfig, ingest, verify_dataset
from radscale.datasets.burned_in_text import find_text
from radscale.datasets.white_boxes import DevicePlaces, boxes_to_paint, head_share, paint
from radscale.errors import InputError

SIZE_PX = 518


def body(*, head: bool, neck: float = 0.4) -> np.ndarray:
    """(800, 700) a lateral silhouette in air: a trunk, and above it a neck with or without a head."""
    image = np.zeros((800, 700), np.float32)
    cv2.ellipse(image, (350, 620), (260, 420), 0, 0, 360, 150, -1)
    cv2.rectangle(image, (350 - int(130 * neck), 0), (350 + int(130 * neck), 400), 150, -1)
    if head:
        cv2.ellipse(image, (340, 40), (130, 90), 0, 0, 360, 200, -1)
    return image + np.random.default_rng(0).normal(0, 2, image.shape).astype(np.float32)


def test_a_head_is_covered_down_to_the_neck_and_a_bare_neck_is_not() -> None:
    share = head_share(body(head=True))
    assert 120 / 800 < share < 220 / 800
    assert head_share(body(head=False)) == 0
    assert head_share(np.zeros((50, 50))) == 0
    assert head_share(body(head=True) * 16 + 300) == pytest.approx(share, abs=0.02)


def test_boxes_are_shares_and_are_painted_white_with_a_margin_around_text() -> None:
    pixels = np.random.default_rng(0).normal(500, 20, (400, 300))
    places = [DevicePlaces(manufacturer="Agfa", model="dx", boxes=((0.0, 0.0, 0.5, 0.1),))]
    assert boxes_to_paint(pixels, text=False, places=places, manufacturer="OTHER", model="DX-M") == []
    found = boxes_to_paint(pixels, text=False, places=places, manufacturer="AGFA HealthCare", model="DX-M")
    image = np.full((200, 150), 9, np.uint8)
    (painted,) = paint(image, [*found])
    assert painted == ("place", 0, 0, 75, 20)
    assert (image[:20, :75] == 255).all()
    assert (image[20:] == 9).all()
    (text,) = paint(image, [("text", np.array([0.5, 0.5, 0.6, 0.6]))])
    assert text == ("text", 73, 98, 19, 24)


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.5), (0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.2, 0.1)])
def test_a_place_that_is_none_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="left, top, right, bottom"):
        DevicePlaces(boxes=(box,))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four frontal images with text, a lateral one with a head, and one of a skull."""
    folder = tmp_path / "archive"
    folder.mkdir()
    rng = np.random.default_rng(5)

    def write(number: int, image: np.ndarray, **fields: object) -> None:
        pixels = np.clip(image * 12 + 100, 0, 4095).astype(np.uint16)
        ids = {"PatientID": f"P{number}", "StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.1"}
        (folder / f"{number}.dcm").write_bytes(make_dicom(pixels, **ids, **fields))

    for number in range(4):
        smooth = cv2.resize(rng.random((8, 7)).astype(np.float32), (1100, 1300), interpolation=cv2.INTER_CUBIC) * 120 + 30
        image, _ = plant_lines(smooth + rng.normal(0, 1, smooth.shape), rng, sizes_px=(48, 64), contrasts=(64, 128))
        write(number, image, ViewPosition="PA", Manufacturer="ACME")
    write(4, body(head=True), ViewPosition="LL", Manufacturer="ACME")
    write(5, body(head=True, neck=0.5), ViewPosition="LL", BodyPartExamined="SKULL")
    return folder


def config(**fields: object) -> IngestConfig:
    return IngestConfig(kind="dicom", image_size_px=SIZE_PX, reports_csv=None, **fields)  # type: ignore[arg-type]


def test_an_ingest_paints_over_and_says_so(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    place = DevicePlaces(manufacturer="acme", boxes=((0.9, 0.9, 1.0, 1.0),))
    counts = ingest(config(device_places=(place,)), archive, out, secret=SECRET)
    assert (counts["white_boxes"]["face"], counts["white_boxes"]["place"]) == (1, 5)
    assert counts["white_boxes"]["text"] >= 4
    assert counts["excluded"] == {"face": 1}
    assert verify_dataset(out) == []
    data = Dataset(out)
    for row, boxes in enumerate(data.column("white_boxes").to_pylist()):
        image = data.read_image(row)
        for box in boxes:
            area = image[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
            assert area.shape == (box["height"], box["width"])
            assert (area == 255).all()
        outside = image.copy()
        for box in boxes:
            outside[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]] = 128
        if not any(box["kind"] == "face" for box in boxes):
            assert len(find_text(outside)) <= len(boxes)  # at most their own edges
    kept = tmp_path / "kept"
    counts = ingest(config(burned_in_text="keep", faces="keep", device_places=()), archive, kept, secret=SECRET)
    assert counts["white_boxes"] == {}
    assert counts["excluded"] == {}
    assert all(boxes == [] for boxes in Dataset(kept).column("white_boxes").to_pylist())


def test_workers_and_a_second_ingest_paint_the_same(archive: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 0), ("two", 2)):
        ingest(config(), archive, tmp_path / name, secret=SECRET, num_workers=workers)
    assert (tmp_path / "one" / "manifest.parquet").read_bytes() == (tmp_path / "two" / "manifest.parquet").read_bytes()


def test_what_is_added_is_treated_as_what_is_there(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    ingest(config(), archive, out, secret=SECRET)
    with pytest.raises(InputError, match="burned_in_text is keep"):
        ingest(config(burned_in_text="keep"), archive, out, secret=SECRET, add=True)
    assert ingest(config(), archive, out, secret=SECRET, add=True)["images"] == 5


def test_rows_of_an_older_dataset_have_no_boxes(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    ingest(config(burned_in_text="keep", faces="keep"), archive, out, secret=SECRET)
    table = pq.read_table(out / "manifest.parquet")
    pq.write_table(table.drop_columns(["white_boxes"]), out / "manifest.parquet")
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "new.dcm").write_bytes(
        make_dicom(
            np.arange(90 * 70).reshape(90, 70).astype(np.uint16), PatientID="Q", SOPInstanceUID="1.9", StudyInstanceUID="1.8"
        )
    )
    ingest(config(burned_in_text="keep", faces="keep"), extra, out, secret=SECRET, add=True)
    assert Dataset(out).column("white_boxes").to_pylist() == [*[None] * 6, []]


def test_published_sets_stay_as_they_come() -> None:
    assert IngestConfig(kind="images", layout="nih").burned_in_text == "keep"
    assert IngestConfig(kind="images", layout="nih", burned_in_text="mask").burned_in_text == "mask"
    assert config().burned_in_text == config().faces == "mask"
