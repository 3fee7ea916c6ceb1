"""Mask tables from RANZCR-CLiP, from folders with devices.csv and from a phantom archive."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from radscale.datasets import Dataset, IngestConfig, ingest, pseudonym
from radscale.datasets.manifest import MASK_SCHEMA
from radscale.datasets.mask_sources import convert_masks
from radscale.datasets.masks import MaskTable
from radscale.errors import InputError
from radscale.phantom import PhantomConfig, generate_archive

SECRET = b"s" * 32
UIDS = ("1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3")


def picture(seed: int, shape: tuple[int, int] = (200, 300)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def dataset_of(folder: Path, names: list[str], out: Path, size_px: int = 100) -> Dataset:
    rows = "\n".join(f"{name},p{number},PA" for number, name in enumerate(names))
    (folder / "metadata.csv").write_text(f"image_path,patient_id,view\n{rows}\n", encoding="utf-8")
    columns = {"image": "image_path", "patient": "patient_id", "view": "view"}
    ingest(IngestConfig(kind="images", image_size_px=size_px, columns=columns), folder, out, secret=SECRET)
    return Dataset(out)


def row_of(data: Dataset, key: str) -> int:
    return data.manifest["sample_id"].to_pylist().index(pseudonym(SECRET, "sample", key))


@pytest.fixture
def ranzcr(tmp_path: Path) -> tuple[Path, Dataset]:
    folder = tmp_path / "ranzcr"
    (folder / "train").mkdir(parents=True)
    for number, uid in enumerate(UIDS):
        cv2.imwrite(str(folder / "train" / f"{uid}.jpg"), picture(number))
    (folder / "train_annotations.csv").write_text(
        "StudyInstanceUID,label,data\n"
        f'{UIDS[0]},CVC - Normal,"[[20, 20], [120, 20]]"\n'
        f'{UIDS[0]},CVC - Borderline,"[[200, 40], [200, 180]]"\n'
        f'{UIDS[1]},Swan Ganz Catheter Present,"[[40, 60], [240, 60]]"\n',
        encoding="utf-8",
    )
    (folder / "train.csv").write_text(
        "StudyInstanceUID,ETT - Normal,ETT - Abnormal,NGT - Normal,CVC - Normal,Swan Ganz Catheter Present,PatientID\n"
        f"{UIDS[0]},0,1,0,1,0,a\n{UIDS[1]},0,0,0,0,1,b\n{UIDS[2]},0,0,1,0,0,c\n",
        encoding="utf-8",
    )
    return folder, dataset_of(folder, [f"train/{uid}.jpg" for uid in UIDS], tmp_path / "data")


def test_ranzcr_lines_are_drawn_in_the_pixels_of_the_dataset(ranzcr: tuple[Path, Dataset], tmp_path: Path) -> None:
    folder, data = ranzcr
    facts = convert_masks(folder, data, tmp_path / "masks.parquet", secret=SECRET, line_width_share=0.04)
    assert pq.read_table(tmp_path / "masks.parquet").schema.equals(MASK_SCHEMA)
    masks = MaskTable(tmp_path / "masks.parquet", data)
    assert masks.tasks == ["CVC", "ETT", "NGT", "SGC"]
    rows = np.array([row_of(data, f"train/{uid}.jpg") for uid in UIDS])
    # Present by train.csv and not drawn is unknown; all columns 0 is absent.
    np.testing.assert_array_equal(masks.presence(rows), [[1, np.nan, 0, 0], [0, 0, 0, 1], [0, 0, np.nan, 0]])
    cvc = masks.read(int(rows[0]))[0]
    assert cvc.shape == (100, 150), "shorter side 100 of 200 px"
    assert cvc[10, 10:61].all()
    assert cvc[20:91, 100].all()
    assert np.flatnonzero(cvc[:, 30]).tolist() in ([8, 9, 10, 11], [8, 9, 10, 11, 12], [9, 10, 11, 12]), "4 px wide"
    assert masks.tips(int(rows[0]), 0).tolist() == [[10, 60], [10, 10], [90, 100], [20, 100]], "both ends of both lines"
    assert not masks.read(int(rows[2])).any()
    assert facts["tasks"]["CVC"] == {"drawn": 1, "absent": 2}  # type: ignore[index]


def test_lines_outside_their_image_are_refused_or_left_out(ranzcr: tuple[Path, Dataset], tmp_path: Path) -> None:
    folder, data = ranzcr
    with (folder / "train_annotations.csv").open("a") as file:
        file.write(f'{UIDS[1]},NGT - Normal,"[[10, 10], [10, 260]]"\n{UIDS[1]},CVC - Normal,"[[-1, 10], [301, 20]]"\n')
    out = tmp_path / "masks.parquet"
    with pytest.raises(
        InputError, match=r"1 lines leave their image \(first: row 4, point \[10, 260\] in an image of 300 x 200 px\); correct"
    ):
        convert_masks(folder, data, out, secret=SECRET)
    assert not out.exists()
    facts = convert_masks(folder, data, out, secret=SECRET, skip_outside=True)
    assert facts["lines_left_out"] == 1
    states = MaskTable(out, data).presence(np.array([row_of(data, f"train/{UIDS[1]}.jpg")]))[0]
    np.testing.assert_array_equal(states, [1, 0, np.nan, 1])


def test_another_key_matches_nothing_and_says_so(ranzcr: tuple[Path, Dataset], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 3 images is in the dataset; give the source and the key"):
        convert_masks(*ranzcr, tmp_path / "masks.parquet", secret=b"t" * 32)


def write_devices(folder: Path, mask: np.ndarray, rows: str) -> Dataset:
    (folder / "masks").mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
    cv2.imwrite(str(folder / "masks" / "0.png"), mask)
    (folder / "devices.csv").write_text(f"image,mask,mask_value,device,tip_x_px,tip_y_px\n{rows}", encoding="utf-8")
    return dataset_of(folder, ["0.png", "1.png", "2.png"], folder.parent / "data")


def test_a_folder_with_mask_files_says_what_is_absent(tmp_path: Path) -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[20:100, 40:80], mask[120:180, 200:260] = 1, 7
    rows = "0.png,masks/0.png,1,ETT,60,99\n0.png,masks/0.png,7,CT,,\n1.png,,,,,\n"
    data = write_devices(tmp_path / "folder", mask, rows)
    convert_masks(tmp_path / "folder", data, tmp_path / "masks.parquet", secret=SECRET)
    masks = MaskTable(tmp_path / "masks.parquet", data)
    rows_of = np.array([row_of(data, f"{number}.png") for number in range(3)])
    np.testing.assert_array_equal(masks.presence(rows_of), [[1, 1], [0, 0], [np.nan, np.nan]])
    found = masks.read(int(rows_of[0]))
    np.testing.assert_array_equal(found[masks.tasks.index("ETT")], (mask == 1)[::2, ::2])
    np.testing.assert_array_equal(found[masks.tasks.index("CT")], (mask == 7)[::2, ::2])
    assert masks.tips(int(rows_of[0]), masks.tasks.index("ETT")).tolist() == [[49.5, 30]]
    assert masks.tips(int(rows_of[0]), masks.tasks.index("CT")).shape == (0, 2)


def test_a_mask_of_another_shape_than_its_image_is_refused(tmp_path: Path) -> None:
    data = write_devices(tmp_path / "folder", np.ones((200, 200), np.uint8), "0.png,masks/0.png,,ETT,,\n")
    with pytest.raises(InputError, match=r"mask of row 1: 200 x 200 px does not have the shape of its image \(150 x 100 px in"):
        convert_masks(tmp_path / "folder", data, tmp_path / "masks.parquet", secret=SECRET)


def test_a_phantom_archive_brings_its_own_truth(tmp_path: Path) -> None:
    generate_archive(PhantomConfig(num_patients=8, image_size_px=128, seed=4), tmp_path / "archive")
    ingest(IngestConfig(kind="dicom", image_size_px=64), tmp_path / "archive", tmp_path / "data", secret=SECRET)
    data = Dataset(tmp_path / "data")
    facts = convert_masks(tmp_path / "archive", data, tmp_path / "masks.parquet", secret=SECRET)
    masks = MaskTable(tmp_path / "masks.parquet", data)
    frontal = data.select(view="frontal")
    assert np.isfinite(masks.presence(frontal)).all(), "every frontal image is fully known"
    assert np.isnan(masks.presence(data.select(view="lateral"))).all()
    assert sum(counts["drawn"] for counts in facts["tasks"].values()) > 3  # type: ignore[attr-defined]
    for row in frontal:
        for column in np.flatnonzero(masks.presence(np.array([row]))[0] == 1):
            drawn = np.argwhere(masks.read(int(row))[column])
            tip = masks.tips(int(row), int(column))[0]
            if ((tip >= 0) & (tip < 64)).all() and masks.tasks[column] not in ("SC",):
                assert np.abs(drawn - tip).max(axis=1).min() <= 4, "the tip is at the device"


def test_a_folder_of_no_known_kind_is_refused(tmp_path: Path, ranzcr: tuple[Path, Dataset]) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no masks of a known kind; give a folder with devices.csv"):
        convert_masks(tmp_path / "nothing", ranzcr[1], tmp_path / "masks.parquet", secret=SECRET)
