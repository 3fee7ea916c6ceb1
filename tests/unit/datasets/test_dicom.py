from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from dicom_makers import make_dicom
from radscale.datasets.dicom import normalise_view_position, parse_age, read_dicom, view_of
from radscale.datasets.exclusions import Excluded


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "image.dcm"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        ("1.2.840.10008.1.2.4.70", imagecodecs.ljpeg_encode),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        (
            "1.2.840.10008.1.2.4.90",
            lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True),
        ),
        ("1.2.840.10008.1.2.5", lambda pixels: rle(pixels)),
    ],
)
def test_lossless_syntaxes_give_the_stored_values(tmp_path: Path, picture: np.ndarray, syntax: str, encode) -> None:  # type: ignore[no-untyped-def]
    data = make_dicom(picture, syntax, bytes(encode(picture)), BitsStored=12, HighBit=11)
    assert np.array_equal(read_dicom(write(tmp_path, data)).pixels, picture)


def rle(pixels: np.ndarray) -> bytes:
    """RLE Lossless (PS3.5 Annex G), the most significant plane first."""
    planes = [imagecodecs.packbits_encode((pixels >> shift).astype(np.uint8).tobytes()) for shift in (8, 0)]
    planes = [plane + b"\0" * (len(plane) % 2) for plane in planes]
    offsets = np.zeros(16, "<u4")
    offsets[:3] = 2, 64, 64 + len(planes[0])
    return offsets.tobytes() + b"".join(planes)


def test_big_endian_and_signed_values_and_rescale(tmp_path: Path, picture: np.ndarray) -> None:
    signed = picture.astype(np.int16) - 1000
    fields = {"BitsStored": 16, "RescaleSlope": "2", "RescaleIntercept": "-5"}
    assert np.array_equal(read_dicom(write(tmp_path, make_dicom(signed, **fields))).pixels, signed * 2.0 - 5)


def test_high_bits_that_hold_an_overlay_are_removed(tmp_path: Path, picture: np.ndarray) -> None:
    with_overlay = picture | np.uint16(0x8000)
    assert np.array_equal(read_dicom(write(tmp_path, make_dicom(with_overlay, BitsStored=12, HighBit=11))).pixels, picture)


def test_monochrome1_is_inverted_once(tmp_path: Path, picture: np.ndarray) -> None:
    data = make_dicom(picture, PhotometricInterpretation="MONOCHROME1")
    pixels = read_dicom(write(tmp_path, data)).pixels
    assert np.array_equal(pixels, picture.max() + picture.min() - picture.astype(np.float32))


def test_padding_is_marked(tmp_path: Path, picture: np.ndarray) -> None:
    padded = picture.copy()
    padded[:10] = 0
    image = read_dicom(write(tmp_path, make_dicom(padded, PixelPaddingValue=0)))
    assert image.valid is not None
    assert not image.valid[:10].any()
    assert image.valid[10:].all()


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"PhotometricInterpretation": "RGB"}, "unsupported", "Photometric Interpretation is RGB"),
        ({"NumberOfFrames": "3"}, "unsupported", "Number of Frames is 3"),
        ({"Rows": 900}, "unreadable", "pixel data end"),
    ],
)
def test_what_cannot_be_read_is_excluded_with_a_reason(
    tmp_path: Path, picture: np.ndarray, fields: dict[str, object], reason: str, detail: str
) -> None:
    with pytest.raises(Excluded, match=detail) as verdict:
        read_dicom(write(tmp_path, make_dicom(picture, **fields)))
    assert verdict.value.reason == reason


def test_truncated_and_foreign_files_are_excluded(tmp_path: Path, picture: np.ndarray) -> None:
    data = make_dicom(picture)
    for broken in (data[: len(data) // 2], b"not DICOM at all", b""):
        with pytest.raises(Excluded):
            read_dicom(write(tmp_path, broken))


@pytest.mark.parametrize(
    ("stored", "position", "view"),
    [("PA", "PA", "frontal"), ("AP", "AP", "frontal"), ("LL", "LATERAL", "lateral"), ("LARGE LATERAL", "LATERAL", "lateral"),
     ("AP SUPINE", "AP", "frontal"), ("RL", "LATERAL", "lateral"), ("", "", "unknown"), ("OBLIQUE", "", "unknown")],
)  # fmt: skip
def test_view_positions_as_scanners_write_them(stored: str, position: str, view: str) -> None:
    assert normalise_view_position(stored) == position
    assert view_of(position) == view


@pytest.mark.parametrize(
    ("age", "birth", "study", "expected"),
    [("067Y", "", "", 67), ("011M", "", "", 0), ("99", "", "", 90), ("", "19500615", "20200614", 69),
     ("", "19500615", "20200615", 70),     ("", "", "", None), ("???", "2020", "2021", None)],
)  # fmt: skip
def test_ages(age: str, birth: str, study: str, expected: int | None) -> None:
    assert parse_age(age, birth, study) == expected
