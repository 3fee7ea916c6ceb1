import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from dicom_makers import SECRET, make_dicom
from dirty_archive import digests, write_archive
from radscale.datasets import IngestConfig, ingest, verify_dataset
from radscale.errors import InputError

CONFIG = IngestConfig(kind="dicom", image_size_px=32, reports_csv=None, max_file_mb=1)


def pack_tar(folder: Path, path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=f"in/{file.name}")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.zip"])
def test_members_of_tar_and_zip_files_are_inputs(tmp_path: Path, name: str) -> None:
    write_archive(tmp_path / "plain", 6)
    (tmp_path / "packed").mkdir()
    packed = tmp_path / "packed" / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "plain").iterdir():
                archive.write(file, f"in/{file.name}")
    else:
        pack_tar(tmp_path / "plain", packed, {"gz": "w:gz", "gz2": "w:gz", "xz": "w:xz"}.get(name[-2:], "w"))
    of_folder = ingest(CONFIG, tmp_path / "packed", tmp_path / "ds", secret=SECRET)
    of_file = ingest(CONFIG, packed, tmp_path / "of_file", secret=SECRET)
    plain = ingest(CONFIG, tmp_path / "plain", tmp_path / "ds_plain", secret=SECRET)
    assert of_folder["images"] == of_file["images"] == plain["images"] == 6
    assert of_folder["not_read"] == {".csv": 1}
    assert digests(tmp_path / "ds" / "shards") == digests(tmp_path / "of_file" / "shards")
    assert verify_dataset(tmp_path / "ds") == []


def test_bombs_and_damaged_containers_are_exclusions(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    write_archive(folder, 2)
    image = make_dicom(np.random.default_rng(9).integers(0, 4000, (48, 48)).astype(np.uint16), SOPInstanceUID="5.5")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.dcm", bytes(50 << 20))  # 50 KB that become 50 MB
        archive.writestr("good.dcm", image)
        archive.writestr("../../outside.dcm", image)
    # Declares 100 bytes; more come out.
    with zipfile.ZipFile(folder / "liar.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small.dcm", bytes(50 << 20))
    data = (folder / "liar.zip").read_bytes()
    (folder / "liar.zip").write_bytes(data.replace((50 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    (folder / "cut.zip").write_bytes(data[:-30])
    with tarfile.open(folder / "links.tar", "w") as tar:
        link = tarfile.TarInfo("link.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        huge = tarfile.TarInfo("huge.dcm")
        huge.size = 2 << 20
        tar.addfile(huge, io.BytesIO(bytes(2 << 20)))
    (folder / "cut.tar.gz").write_bytes(zlib.compress(bytes(5000), wbits=31)[:-9])
    counts = ingest(CONFIG, folder, tmp_path / "ds", secret=SECRET)
    # big, huge; the lie and the two cut containers; the link; one image of two names in the bomb
    assert counts["excluded"] == {"duplicate": 1, "too_large": 2, "unreadable": 4}
    assert (counts["images"], counts["inputs"]) == (3, 10)
    assert verify_dataset(tmp_path / "ds") == []
    assert not (tmp_path / "outside.dcm").exists()


def test_a_dicomdir_names_its_files(tmp_path: Path) -> None:
    media = FileSet()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
        data = make_dicom(
            pixels, PatientID=f"P{number}", PatientName="A^B", StudyDate="20200101", StudyTime="101010", StudyID="1",
            StudyInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.2.{number}.1", SOPInstanceUID=f"1.2.{number}.1.1",
            Modality="DX", SeriesNumber=1, InstanceNumber=1, AccessionNumber="",
        )  # fmt: skip
        media.add(pydicom.dcmread(io.BytesIO(data)))
    media.write(tmp_path / "media")
    (tmp_path / "media" / "stray.dcm").write_bytes(b"not named by it")
    named = sorted(
        path for path in (tmp_path / "media").rglob("*") if path.is_file() and path.name not in ("DICOMDIR", "stray.dcm")
    )
    named[0].unlink()
    counts = ingest(CONFIG, tmp_path / "media" / "DICOMDIR", tmp_path / "ds", secret=SECRET)
    assert (counts["images"], counts["excluded"]) == (2, {"missing_file": 1})
    whole = ingest(CONFIG, tmp_path / "media", tmp_path / "whole", secret=SECRET)
    assert (whole["images"], whole["excluded"], whole["not_read"]) == (2, {"unreadable": 1}, {"DICOMDIR": 1})
    (tmp_path / "DICOMDIR").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable DICOMDIR"):
        ingest(CONFIG, tmp_path / "DICOMDIR", tmp_path / "other", secret=SECRET)
