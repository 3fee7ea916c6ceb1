"""Marked devices: RANZCR-CLiP's published format, and a folder of images and masks with a table."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from radscale.datasets.device_masks import read_device_table, read_ranzcr
from radscale.errors import InputError

UIDS = ("1.2.826.0.1.3680043.8.498.1001", "1.2.826.0.1.3680043.8.498.1002")


@pytest.fixture
def ranzcr(tmp_path: Path) -> Path:
    """Two images of one patient, as the competition's files are written."""
    (tmp_path / "train").mkdir()
    for uid in UIDS:
        cv2.imwrite(str(tmp_path / "train" / f"{uid}.jpg"), np.full((200, 300), 90, np.uint8))
    (tmp_path / "train_annotations.csv").write_text(
        "StudyInstanceUID,label,data\n"
        f'{UIDS[0]},CVC - Normal,"[[10, 20], [60, 20], [60, 120]]"\n'
        f'{UIDS[0]},CVC - Borderline,"[[200, 30], [200, 90]]"\n'
        f'{UIDS[1]},Swan Ganz Catheter Present,"[[5, 5], [50.5, 60]]"\n'
        f'{UIDS[1]},NGT - Incompletely Imaged,"[[100, 0], [100, 199]]"\n',
        encoding="utf-8",
    )
    (tmp_path / "train.csv").write_text(
        f"StudyInstanceUID,CVC - Normal,PatientID\n{UIDS[0]},1,ec89415d1\n{UIDS[1]},0,ec89415d1\n", encoding="utf-8"
    )
    return tmp_path


def test_ranzcr_lines_become_masks_with_both_ends(ranzcr: Path) -> None:
    first, second = read_ranzcr(ranzcr)
    assert first.patient == second.patient == "ec89415d1"
    assert first.path.exists()
    assert [device.kind for device in (*first.devices, *second.devices)] == ["CVC", "CVC", "Swan Ganz Catheter", "NGT"]
    device = first.devices[0]
    assert device.tips == ((120, 60), (20, 10)), "(y, x): the last point, then the first"
    mask = device.mask((200, 300))
    assert mask.shape == (200, 300)
    assert mask[20, 10:61].all()
    assert mask[20:121, 60].all()
    # 2 px of 200: lines of 50 and 100 px.
    assert 150 <= mask.sum() <= 500
    assert not mask[130:].any()
    assert not mask[:, 70:].any()


def test_without_the_patient_table_an_image_is_a_patient(ranzcr: Path) -> None:
    (ranzcr / "train.csv").unlink()
    assert len({image.patient for image in read_ranzcr(ranzcr)}) == 2


@pytest.mark.parametrize(
    "data", ["[[1, 2]]", "no list", "[[1, 2], [3]]", "[[1, 2, 3], [4, 5, 6]]", "__import__('os')", "[[1, 'a'], [2, 3]]"]
)
def test_rows_that_are_no_line_are_refused(ranzcr: Path, data: str) -> None:
    file = ranzcr / "train_annotations.csv"
    file.write_text(file.read_text() + f'{UIDS[0]},CVC - Normal,"{data}"\n')
    with pytest.raises(InputError, match="row 5: data is not a list of two or more points"):
        read_ranzcr(ranzcr)


def test_a_table_names_images_masks_and_tips(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[10, 5:40] = 2
    mask[30, 5:40] = 7
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    (tmp_path / "devices.csv").write_text(
        "image,mask,tip_x_px,tip_y_px,mask_value,device,patient_id\na.png,mask.png,5,10.5,2,CVC,p1\na.png,mask.png,5,30,,ETT,p1\n"
        "b.png,mask.png,5,30,9,,p2\n"
    )
    first, second = read_device_table(tmp_path)
    assert first.path == tmp_path / "a.png"
    assert first.devices[0].tips == ((10.5, 5.0),)
    assert np.array_equal(first.devices[0].mask((40, 50)), mask == 2)
    assert np.array_equal(first.devices[1].mask((40, 50)), mask > 0)
    assert [device.row for device in second.devices] == [3]
    with pytest.raises(InputError, match="mask of row 3: no pixel of the device"):
        second.devices[0].mask((40, 50))


def test_broken_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text("image,mask,tip_x_px\na.png,m.png,1\n")
    with pytest.raises(InputError, match="no column 'tip_y_px'"):
        read_device_table(tmp_path)
    (tmp_path / "devices.csv").write_text("image,mask,tip_x_px,tip_y_px\na.png,m.png,1,far\n")
    with pytest.raises(InputError, match="row 1: tip_y_px is not a number"):
        read_device_table(tmp_path)
    (tmp_path / "devices.csv").write_text("image,mask,tip_x_px,tip_y_px\na.png,m.png,1,1\n")
    with pytest.raises(InputError, match="mask of row 1"):
        read_device_table(tmp_path)[0].devices[0].mask((4, 4))
