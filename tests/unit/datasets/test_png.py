"""Our decoder against OpenCV's libpng, on every filter, by itself and beside every other."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from radscale.datasets.png import _decode_grey, decode_png, encode_png
from radscale.errors import InputError


def png(image: np.ndarray, filters: np.ndarray) -> bytes:
    """A PNG whose rows have these filters, with its data in chunks of 100 bytes."""
    above = np.vstack([np.zeros_like(image[:1]), image[:-1]]).astype(int)
    padded = np.pad(np.dstack([image, above]), ((0, 0), (1, 0), (0, 0)))[:, :-1]
    left, corner = padded[..., 0].astype(int), padded[..., 1].astype(int)
    estimate = left + above - corner
    distances = np.stack([abs(estimate - left), abs(estimate - above), abs(estimate - corner)])
    paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
    predictions = np.stack([np.zeros_like(left), left, above, (left + above) // 2, paeth])
    rows = (image - predictions[filters, np.arange(len(image))]) % 256
    body = zlib.compress(np.column_stack([filters, rows]).astype(np.uint8).tobytes())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0))
    pixels = b"".join(chunk(b"IDAT", body[start : start + 100]) for start in range(0, len(body), 100))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"Comment\0grey") + pixels + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (64, 33), (101, 50)])
def test_all_filters_in_all_orders(shape: tuple[int, int]) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, shape).astype(np.uint8)
        # Runs of Paeth of both parities, and everything else between them.
        filters = rng.choice(5, shape[0], p=[0.1, 0.1, 0.1, 0.1, 0.6])
        data = png(image, filters)
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), image)
        ours = _decode_grey(data)
        assert ours is not None
        assert np.array_equal(ours, image)


def test_what_we_write_is_read_back() -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((90, 70)).astype(np.float32), (0, 0), 3)
    image = (255 * smooth).astype(np.uint8)
    assert np.array_equal(_decode_grey(encode_png(image)), image)


def test_other_kinds_become_8_bit_grey() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (np.dstack([grey] * 3), grey.astype(np.uint16) * 257):
        data = cv2.imencode(".png", image)[1].tobytes()
        assert np.array_equal(decode_png(data), grey)


def test_damage_is_found() -> None:
    data = png(np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8), np.full(40, 4))
    flipped = data[:500] + bytes(byte ^ 255 for byte in data[500:600]) + data[600:]
    unknown_filter = data.replace(data[data.index(b"IDAT") - 4 : -12], chunk(b"IDAT", zlib.compress(b"\x09" * 40 * 41)))
    short = data.replace(data[data.index(b"IDAT") - 4 : -12], chunk(b"IDAT", zlib.compress(b"\x00" * 39 * 41)))
    for broken in (flipped, unknown_filter, short, data[:300]):
        assert _decode_grey(broken) is None
    for broken in (b"", b"no image", data[:20]):
        with pytest.raises(InputError, match="cannot be decoded"):
            decode_png(broken)
