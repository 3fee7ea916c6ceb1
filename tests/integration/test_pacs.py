"""An ingest from a real PACS, Orthanc, over DICOMweb."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from dirty_archive import digests
from orthanc import INSTALLED, PASSWORD, USER, Orthanc, running_orthanc
from radscale.datasets import IngestConfig, ingest, verify_dataset
from radscale.datasets.pacs import Pacs
from radscale.errors import InputError

pytest.importorskip("dicomweb_client")
pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs Orthanc: apt-get install orthanc orthanc-dicomweb")

ROOT = "1.2.826.0.1.3680043.8.498.77"
CONFIG = IngestConfig(kind="dicom", image_size_px=32, num_replicates=1, shard_max_bytes=40_000, pacs_retry_seconds=1.0)


def write_files(folder: Path, numbers: range) -> list[bytes]:
    """Files of one image each, two series to a study and two studies to a patient; named as a PACS names its inputs."""
    files = []
    for number in numbers:
        rng = np.random.default_rng(number)
        uids = [f"{ROOT}.{number // 2}", f"{ROOT}.{number // 2}.{number % 2}", f"{ROOT}.{number // 2}.{number % 2}.5"]
        data = make_dicom(
            rng.integers(0, 4000, (48, 48)).astype(np.uint16),
            PatientID=f"MRN{number // 4:06d}",
            PatientName=f"NAME{number // 4}^GIVEN",
            StudyInstanceUID=uids[0],
            SeriesInstanceUID=uids[1],
            SOPInstanceUID=uids[2],
            Modality=("CR", "DX")[number % 3 > 0],
            AccessionNumber=f"ACC{number // 2:06d}",
            StudyDate=f"2021{1 + number // 2 % 12:02d}15",
            StudyTime="093000",
        )
        path = folder / uids[0] / uids[1] / f"{uids[2]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files.append(data)
    return files


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSCALE_PACS_USER", USER)
    monkeypatch.setenv("RADSCALE_PACS_PASSWORD", PASSWORD)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield server


def without_archives(dataset: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(dataset).items() if name != "archives.json"}


def test_the_dataset_of_a_pacs_is_that_of_a_folder_with_its_files(pacs: Orthanc, tmp_path: Path) -> None:
    pacs.store(write_files(tmp_path / "folder", range(30)))
    tomography = make_dicom(np.arange(900, dtype=np.uint16).reshape(30, 30), SeriesInstanceUID="1.2.9", Modality="CT")
    pacs.store([tomography])
    reports = tmp_path / "reports.csv"
    lines = [f"ACC{study:06d},Report of NAME{study // 2}. Clear lungs." for study in range(15)]
    reports.write_text("\n".join(["accession_number,report", *lines]))
    (tmp_path / "settings.yaml").write_text(
        f"num_replicates: 1\nshard_max_bytes: 40000\npacs_retry_seconds: 1.0\nreports: {reports}\n"
    )
    said = []
    for source, out in ((pacs.address, "pacs"), (str(tmp_path / "folder"), "folder_ds")):
        done = subprocess.run(
            [sys.executable, "-m", "radscale.cli", "ingest", source, "--out", tmp_path / out, "--config",
             tmp_path / "settings.yaml", "--secret", tmp_path / "key", "--workers", "2", "--size", "32"],
            capture_output=True, text=True, timeout=120, env=dict(os.environ),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert without_archives(tmp_path / "pacs") == without_archives(tmp_path / "folder_ds")
    assert verify_dataset(tmp_path / "pacs") == []
    assert pq.read_table(tmp_path / "pacs" / "manifest.parquet").num_rows == 30
    assert pq.read_table(tmp_path / "pacs" / "reports.parquet").num_rows == 15
    bytes_out = b"".join(path.read_bytes() for path in (tmp_path / "pacs").rglob("*") if path.is_file()) + said[0].encode()
    for secret in (ROOT, "127.0.0.1", str(pacs.port), PASSWORD, "NAME1", "MRN0"):
        assert secret.encode() not in bytes_out


def test_modalities_and_dates_choose_and_a_wrong_password_is_refused(
    pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.store(write_files(tmp_path / "folder", range(24)))
    some = IngestConfig(kind="dicom", image_size_px=32, pacs_modalities="CR", pacs_dates="20210101-20210331")
    assert ingest(some, pacs.address, tmp_path / "some", secret=SECRET)["images"] == 2  # of 0..5 those that 3 divides
    none = IngestConfig(kind="dicom", pacs_modalities="MG")
    with pytest.raises(InputError, match="no images of modality MG found"):
        ingest(none, pacs.address, tmp_path / "none", secret=SECRET)
    monkeypatch.setenv("RADSCALE_PACS_PASSWORD", "wrong")
    with pytest.raises(InputError, match="HTTP status 401"):
        ingest(CONFIG, pacs.address, tmp_path / "refused", secret=SECRET)
    monkeypatch.delenv("RADSCALE_PACS_USER")
    (tmp_path / "netrc").write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"')
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert ingest(CONFIG, pacs.address, tmp_path / "netrc_ds", secret=SECRET)["images"] == 24


def test_a_pacs_that_goes_away_stops_the_ingest_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radscale.datasets.journal.COMMIT_SECONDS", 0.0)
    out, seen = tmp_path / "ds", []
    with running_orthanc(tmp_path / "orthanc") as server:
        server.store(write_files(tmp_path / "folder", range(60)))
        port, address = server.port, server.address

        def stopped(done: int, total: int, what: str) -> None:
            if what == "images" and done == 10:
                server.shut_down()

        with pytest.raises(InputError, match="cannot be reached"):
            ingest(CONFIG, address, out, secret=SECRET, num_workers=2, progress=stopped)
        assert (out / ".ingest").stat().st_mode & 0o077 == 0  # the list of UIDs is in it
    with running_orthanc(tmp_path / "orthanc", port):
        counts = ingest(CONFIG, address, out, secret=SECRET, num_workers=2, progress=lambda done, *_: seen.append(done))
    assert counts["images"] == counts["inputs"] == 60
    assert 10 < seen[0] <= 60
    assert not (out / ".ingest").exists()
    (tmp_path / "folder" / "reports.csv").write_text("accession_number,report\n")
    ingest(CONFIG, tmp_path / "folder", tmp_path / "straight", secret=SECRET)
    names = ("manifest.parquet", "exclusions.parquet", *(f"shards/{shard.name}" for shard in (out / "shards").iterdir()))
    ours, theirs = digests(out), digests(tmp_path / "straight")
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


def test_what_the_pacs_has_lost_is_an_exclusion_that_a_later_ingest_tries_again(pacs: Orthanc, tmp_path: Path) -> None:
    files = write_files(tmp_path / "folder", range(8))
    pacs.store(files)
    stored = (path for path in (tmp_path / "orthanc" / "storage").rglob("*") if path.is_file() and len(path.name) == 36)
    lost = next(path for path in stored if path.read_bytes() == files[3])
    out = tmp_path / "ds"

    def lose(done: int, total: int, what: str) -> None:
        if what == "images":
            lost.unlink(missing_ok=True)

    counts = ingest(CONFIG, pacs.address, out, secret=SECRET, num_workers=0, progress=lose)
    assert (counts["inputs"], counts["images"], counts["excluded"]) == (8, 7, {"unreadable": 1})
    (row,) = pq.read_table(out / "exclusions.parquet").to_pylist()
    assert "the PACS does not give it: the server answers with HTTP status" in row["detail"]
    lost.write_bytes(files[3])
    pacs.store(write_files(tmp_path / "folder", range(8, 10)))
    counts = ingest(CONFIG, pacs.address, out, secret=SECRET, num_workers=1, add=True)
    assert (counts["inputs"], counts["images"], counts["excluded"]) == (10, 10, {})
    assert verify_dataset(out) == []


def test_no_study_is_lost_on_later_pages(pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthanc 1.10 ends a search by modality after its first page."""
    monkeypatch.setattr("radscale.datasets.pacs.PAGE_ROWS", 4)
    pacs.store(write_files(tmp_path / "folder", range(60)))
    listed = [entry.path for entry in Pacs(pacs.address, retry_seconds=1.0).listing(tmp_path, None)]
    assert listed == sorted(str(path.relative_to(tmp_path / "folder")) for path in (tmp_path / "folder").rglob("*.dcm"))
