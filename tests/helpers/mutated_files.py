"""Files that damage and malice make of good ones, for tests of an ingest."""

import io
import os
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom

from dicom_makers import make_dicom

JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
HTJ2K, RLE, DEFLATED = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"


def good_files() -> list[bytes]:
    """One small image in each family of transfer syntaxes."""
    pixels = np.random.default_rng(0).integers(0, 4000, (40, 36)).astype(np.uint16)
    fields = {"PatientID": "MRN1", "PatientName": "ROSSI^ANNA", "StudyDate": "20200101", "BitsStored": 12, "HighBit": 11}
    files = [make_dicom(pixels, **fields)]
    for syntax, encoded in (
        (JPEG_LOSSLESS, imagecodecs.ljpeg_encode(pixels, bitspersample=12)),
        (JPEG_LS, imagecodecs.jpegls_encode(pixels)),
        (JPEG_2000, imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True)),
        (HTJ2K, imagecodecs.htj2k_encode(pixels, level=0, reversible=True)),
    ):
        files.append(make_dicom(pixels, syntax, bytes(encoded), **fields))
    header = pydicom.dcmread(io.BytesIO(files[0]))
    header.compress(RLE)
    buffer = io.BytesIO()
    header.save_as(buffer)
    files.append(buffer.getvalue())
    return files


def mutated(files: list[bytes], rng: np.random.Generator) -> bytes:
    """One of the files with bytes changed in its header or pixels, cut, lengthened, doubled, or with a hostile length."""
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 4)):
        if len(data) < 160:
            break
        kind, place = rng.integers(7), int(rng.integers(132, len(data) - 8))
        if kind == 0:
            data[place] = rng.integers(256)
        elif kind == 1:  # in the header, where the damage is worst
            data[int(rng.integers(132, min(700, len(data))))] = rng.integers(256)
        elif kind == 2:
            data[place : place + 4] = int(rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 65535])).to_bytes(4, "little")
        elif kind == 3:
            del data[place:]
            data += bytes(16)
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 60))]
        elif kind == 5:
            data[place:place] = rng.bytes(int(rng.integers(1, 60)))
        else:
            data += data[place:]
    return bytes(data)


def hostile_sizes() -> list[bytes]:
    """Headers that claim sizes which nobody can hold, and streams that claim more than their header."""
    pixels = np.random.default_rng(1).integers(0, 4000, (40, 36)).astype(np.uint16)
    stream = bytearray(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True))
    sized = stream.index(b"\xff\x51") + 6
    stream[sized : sized + 8] = (65535).to_bytes(4, "big") * 2
    stream[sized + 16 : sized + 24] = (65535).to_bytes(4, "big") * 2
    jpeg = bytearray(imagecodecs.jpeg8_encode((pixels >> 4).astype(np.uint8)))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\xff\xff\xff"
    deflated = make_dicom(pixels, DEFLATED)
    start = 144 + int.from_bytes(deflated[140:144], "little")  # after the file meta information
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    data = zlib.decompress(deflated[start:], -15)
    bomb = deflated[:start] + packer.compress(data)
    bomb += b"".join(packer.compress(bytes(100 << 20)) for _ in range(13)) + packer.flush()
    return [
        make_dicom(pixels, Rows=65535, Columns=65535),
        make_dicom(pixels, Rows=65535, Columns=65535, NumberOfFrames="2147483647"),
        make_dicom(pixels, Rows=12000, Columns=12000),
        make_dicom(pixels, NumberOfFrames="999999"),
        make_dicom(pixels, JPEG_2000, bytes(stream)),
        make_dicom((pixels >> 4).astype(np.uint8), "1.2.840.10008.1.2.4.50", bytes(jpeg)),
        bomb,
    ]


def write_hostile_archive(folder: Path, num_files: int, seed: int = 0) -> int:
    """Mutated files, hostile sizes, bombs, loops of links, names with line breaks, what may not be read; returns the inputs."""
    rng, files, hostile = np.random.default_rng(seed), good_files(), hostile_sizes()
    folder.mkdir(parents=True)
    for number in range(num_files):
        (folder / f"d{number % 50:02d}").mkdir(exist_ok=True)
        (folder / f"d{number % 50:02d}" / f"{number:06d}.dcm").write_bytes(mutated(files, rng))
    for number, data in enumerate(hostile):
        (folder / f"hostile{number}").write_bytes(data)
    odd = folder / "odd"
    odd.mkdir()
    (odd / "line\nbreak\r\ttab.dcm").write_bytes(files[0])
    Path(os.fsdecode(os.fsencode(odd) + b"/\xff\xfe.dcm")).write_bytes(files[1])
    (odd / "self").symlink_to(odd / "self")
    (odd / "loop").symlink_to(folder)
    os.mkfifo(odd / "pipe")
    (odd / "closed.dcm").write_bytes(files[2])
    (odd / "closed.dcm").chmod(0)
    with zipfile.ZipFile(odd / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a\nb.dcm", bytes(200 << 20))
        archive.writestr("twice.dcm", files[3])
    (odd / "sparse.dcm").touch()
    os.truncate(odd / "sparse.dcm", 8 << 30)
    return num_files + len(hostile) + 8
