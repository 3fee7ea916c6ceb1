"""Whatever is in an archive, each file is an image or an exclusion; nothing crashes, hangs or fills the memory."""

import resource
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET
from dirty_archive import digests
from mutated_files import write_hostile_archive
from radscale.datasets import IngestConfig, ingest, verify_dataset
from radscale.datasets.exclusions import REASONS

WORKER_GB = 1.0
OWN_GB = 1.5
"""Of a worker that has done nothing yet."""


def check(archive: Path, out: Path, num_inputs: int, num_workers: int = 2) -> dict[str, int]:
    config = IngestConfig(
        kind="dicom", image_size_px=32, min_size_px=16, reports_csv=None, max_file_mb=64, worker_memory_gb=WORKER_GB,
        seconds_per_file=30,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    counts = ingest(config, archive, out, secret=SECRET, num_workers=num_workers)
    peak_gb = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20
    exclusions = pq.read_table(out / "exclusions.parquet").to_pylist()
    excluded: dict[str, int] = counts["excluded"]
    assert counts["inputs"] == num_inputs == counts["images"] + len(exclusions)
    assert set(excluded) <= set(REASONS)
    # A codec that loops or faults is what processes are for; it must stay rare, or decoding is at fault.
    assert excluded.get("hung", 0) + excluded.get("crashed", 0) <= num_inputs // 100
    assert not [row for row in exclusions if "ROSSI" in row["detail"] or "MRN" in row["detail"] or "\n" in row["detail"]]
    assert peak_gb < WORKER_GB + OWN_GB
    assert verify_dataset(out) == []
    return excluded


def test_a_small_hostile_archive(tmp_path: Path) -> None:
    num_inputs = write_hostile_archive(tmp_path / "archive", 300)
    excluded = check(tmp_path / "archive", tmp_path / "ds", num_inputs)
    assert {"unreadable", "too_large", "unsupported", "duplicate"} <= set(excluded)
    check(tmp_path / "archive", tmp_path / "again", num_inputs, num_workers=1)
    assert digests(tmp_path / "again") == digests(tmp_path / "ds")


@pytest.mark.slow
def test_ten_thousand_mutated_files(tmp_path: Path) -> None:
    num_inputs = write_hostile_archive(tmp_path / "archive", 10_000, seed=1)
    check(tmp_path / "archive", tmp_path / "ds", num_inputs)
