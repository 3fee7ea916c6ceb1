import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from dirty_archive import digests, write_archive
from radscale.datasets import Dataset, IngestConfig, ingest, journal, resume_state, verify_dataset
from radscale.datasets.resume_state import exclusive
from radscale.datasets.splits import keyed_fraction
from radscale.datasets.subsets import subset_ranks
from radscale.errors import InputError

CONFIG = IngestConfig(kind="dicom", image_size_px=32, num_replicates=2, shard_max_bytes=40_000)
SCRIPT = """
import sys
from pathlib import Path
from radscale.datasets import IngestConfig, ingest, journal
journal.COMMIT_SECONDS, journal.PART_ROWS = 0.02, 16
config = IngestConfig(kind="dicom", image_size_px=32, num_replicates=2, shard_max_bytes=40_000)
print("started", flush=True)
ingest(config, Path(sys.argv[1]), Path(sys.argv[2]), secret=bytes(range(32)), num_workers=2)
"""


def start(archive: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(archive), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=dict(os.environ))
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def kill_often(archive: Path, tmp_path: Path, kills: int) -> int:
    """Kill running ingests until so many kills have hit, at random moments, and return how many did; asserts that the dataset
    is the same as of one that nobody killed."""
    began = time.monotonic()
    assert start(archive, tmp_path / "whole").wait(120) == 0
    seconds = time.monotonic() - began
    hits, rng, out = 0, random.Random(0), tmp_path / "killed"
    while hits < kills:
        process = start(archive, out)
        time.sleep(rng.uniform(0.1, 1.0) * seconds)
        if process.poll() is None:
            hits += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (out / "dataset.json").exists() and not (out / ".ingest").exists():
            assert digests(out) == digests(tmp_path / "whole")
            subprocess.run(["rm", "-r", str(out)], check=True)  # the next kills meet a new one
    if not (out / "dataset.json").exists() or (out / ".ingest").exists():
        assert start(archive, out).wait(120) == 0
    assert digests(out) == digests(tmp_path / "whole")
    assert verify_dataset(out) == []
    return hits


def test_killed_at_three_moments_the_dataset_is_the_same(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", 150)
    (tmp_path / "archive" / "broken.dcm").write_bytes(b"nothing")
    assert kill_often(tmp_path / "archive", tmp_path, kills=3) == 3


@pytest.mark.slow
def test_killed_at_fifty_moments_the_dataset_is_the_same(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", 400)
    (tmp_path / "archive" / "broken.dcm").write_bytes(b"nothing")
    assert kill_often(tmp_path / "archive", tmp_path, kills=50) == 50


def test_a_kill_between_the_last_row_of_a_part_and_its_joining_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PART_ROWS", 8)
    schema = pa.schema([("number", pa.int32())])
    first = journal.Journal(tmp_path, schema)
    joining = journal.Journal._join_last
    monkeypatch.setattr(journal.Journal, "_join_last", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    for number in range(8):
        first.add({"number": number})
        if number % 4 == 3:
            with nullcontext() if number == 3 else pytest.raises(KeyboardInterrupt):
                first.commit()
    assert len(first.files) == 2
    monkeypatch.setattr(journal.Journal, "_join_last", joining)
    again = journal.Journal(tmp_path, schema)
    for number in range(8, 11):
        again.add({"number": number})
    again.close()
    assert [table["number"].to_pylist() for table in again.tables()] == [list(range(8)), [8, 9, 10]]
    assert sorted(tmp_path.iterdir()) == again.files


def interrupted(archive: Path, out: Path, config: IngestConfig = CONFIG, after: int = 12, **options: Any) -> None:
    """An ingest that stops after some images, as by Ctrl-C."""

    def progress(done: int, total: int, what: str) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(config, archive, out, secret=SECRET, num_workers=0, progress=progress, **options)


def test_an_interrupted_ingest_takes_up_corrected_tables_and_refuses_other_pixels_and_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radscale.datasets.journal.COMMIT_SECONDS", 0.0)
    write_archive(tmp_path / "archive", 20)
    out = tmp_path / "ds"
    interrupted(tmp_path / "archive", out)
    with pytest.raises(InputError, match="another secret was interrupted"):
        ingest(CONFIG, tmp_path / "archive", out, secret=b"x" * 32)
    with pytest.raises(InputError, match="another image_size_px was interrupted"):
        ingest(IngestConfig(kind="dicom", image_size_px=40), tmp_path / "archive", out, secret=SECRET)
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        ingest(
            IngestConfig(kind="dicom", image_size_px=32, shard_max_bytes=40_000, reports_csv="none.csv"),
            tmp_path / "archive", out, secret=SECRET,
        )  # fmt: skip
    seen: list[int] = []
    counts = ingest(CONFIG, tmp_path / "archive", out, secret=SECRET, progress=lambda done, *_: seen.append(done))
    assert seen == list(range(13, 21))  # what was safe is not decoded again
    assert counts["images"] == counts["reports"] == 20
    ingest(CONFIG, tmp_path / "archive", tmp_path / "straight", secret=SECRET)
    assert digests(out) == digests(tmp_path / "straight")


def test_of_two_ingests_into_one_folder_one_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", 4)
    with exclusive(tmp_path / "ds"), pytest.raises(InputError, match="another ingest is writing into it"):
        ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    assert ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)["images"] == 4


def test_folders_that_hold_something_else_are_left_alone(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other things"):
        ingest(CONFIG, tmp_path / "archive", tmp_path / "mine", secret=SECRET)
    with pytest.raises(InputError, match="no dataset to add to"):
        ingest(CONFIG, tmp_path / "archive", tmp_path / "mine", secret=SECRET, add=True)
    assert digests(tmp_path / "mine").keys() == {"thesis.txt"}
    ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    with pytest.raises(InputError, match="is a dataset already"):
        ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)


def rows_by_sample(out: Path) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in Dataset(out).manifest.to_pylist()}


def test_new_files_are_added_and_nothing_that_was_there_moves(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "ds"
    write_archive(archive, 41)
    (archive / "late.dcm").write_bytes(b"half of a fi")
    ingest(CONFIG, archive, out, secret=SECRET)
    before, shards = rows_by_sample(out), digests(out / "shards")
    small = Dataset(out).sample_ids(Dataset(out).subset_rows(10, 1))

    write_archive(archive, 30, first=41)  # 41 is of a patient that is there
    late = make_dicom(
        (np_picture() * 7) % 4000, PatientID="MRN000003", SOPInstanceUID="7.7", StudyInstanceUID="7", StudyDate="20200101"
    )
    (archive / "late.dcm").write_bytes(late)
    counts = ingest(CONFIG, archive, out, secret=SECRET, add=True)
    after = rows_by_sample(out)
    assert verify_dataset(out) == []
    assert (counts["inputs"], counts["images"], counts["reports"]) == (72, 72, 71)
    assert counts["excluded"] == {}
    changing = {"study_day"}  # an earlier study of the patient may arrive
    for sample, row in before.items():
        assert {k: v for k, v in after[sample].items() if k not in changing} == {
            k: v for k, v in row.items() if k not in changing
        }
    assert {name: after_digest for name, after_digest in digests(out / "shards").items() if name in shards} == shards
    assert Dataset(out).sample_ids(Dataset(out).subset_rows(10, 1)) == small
    num_old = sum(row["split"] == "train" for row in before.values())
    new_ranks = [row["rank_0"] for sample, row in after.items() if sample not in before and row["rank_0"] is not None]
    assert sorted(new_ranks) == list(range(num_old, num_old + len(new_ranks)))
    splits: dict[str, set[str]] = {}
    for row in after.values():
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    days = [row["study_day"] for row in after.values() if row["patient_id"] == after[_sample(after, 6)]["patient_id"]]
    assert min(days) == 0
    assert max(days) > 365  # counted from the study that came late

    twice = digests(out)
    assert ingest(CONFIG, archive, out, secret=SECRET, add=True)["images"] == 72
    assert digests(out) == twice


def _sample(rows: dict[str, dict[str, Any]], number: int) -> str:
    from radscale.datasets import pseudonym

    return next(sample for sample in rows if sample == pseudonym(SECRET, "sample", f"1.2.{number}.1"))


def np_picture() -> Any:

    return np.random.default_rng(5).integers(0, 4000, (48, 48)).astype(np.uint16)


def test_a_wrong_key_or_other_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "ds"
    write_archive(archive, 6)
    ingest(CONFIG, archive, out, secret=SECRET)
    before = digests(out)
    write_archive(archive, 4, first=6)
    with pytest.raises(InputError, match="made with another secret"):
        ingest(CONFIG, archive, out, secret=b"y" * 32, add=True)
    with pytest.raises(InputError, match=r"split_seed is 5, but .* was made with 0"):
        ingest(
            IngestConfig(kind="dicom", image_size_px=32, num_replicates=2, split_seed=5), archive, out, secret=SECRET, add=True
        )
    assert digests(out) == before
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


def test_another_folder_with_the_same_file_names_is_read_whole(tmp_path: Path) -> None:
    write_archive(tmp_path / "a", 4)
    write_archive(tmp_path / "b", 4, first=4)
    for number in range(4):
        (tmp_path / "b" / f"{number + 4:06d}.dcm").rename(tmp_path / "b" / f"{number:06d}.dcm")
    ingest(CONFIG, tmp_path / "a", tmp_path / "ds", secret=SECRET)
    assert ingest(CONFIG, tmp_path / "b", tmp_path / "ds", secret=SECRET, add=True)["images"] == 8
    assert verify_dataset(tmp_path / "ds") == []


def test_a_kill_while_the_new_dataset_takes_its_place_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, out = tmp_path / "archive", tmp_path / "ds"
    write_archive(archive, 6)
    ingest(CONFIG, archive, tmp_path / "straight", secret=SECRET)
    ingest(CONFIG, archive, out, secret=SECRET)
    write_archive(archive, 4, first=6)
    ingest(CONFIG, archive, tmp_path / "straight", secret=SECRET, add=True)
    renamed: list[str] = []
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.parent.name == "tables":
            renamed.append(self.name)
            if len(renamed) == 3:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest(CONFIG, archive, out, secret=SECRET, add=True)
    monkeypatch.undo()
    ingest(CONFIG, archive, out, secret=SECRET, add=True)
    assert digests(out) == digests(tmp_path / "straight")
    assert not (out / ".ingest").exists()


def test_the_journal_of_an_interrupted_ingest_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radscale.datasets.journal.COMMIT_SECONDS", 0.0)
    write_archive(tmp_path / "archive", 8)
    interrupted(tmp_path / "archive", tmp_path / "ds", after=5)
    work = tmp_path / "ds" / ".ingest"
    assert work.stat().st_mode & 0o077 == 0
    text = json.dumps([pq.read_table(path).to_pylist() for path in (work / "journal").iterdir()])
    assert "NAME0" in text  # to be scrubbed from the reports, which are not read yet
    ingest(CONFIG, tmp_path / "archive", tmp_path / "ds", secret=SECRET)
    assert not any("NAME0" in str(pq.read_table(path).to_pylist()) for path in (tmp_path / "ds").glob("*.parquet"))
    assert not work.exists()


def test_ranks_are_those_of_a_plain_sort_batch_after_batch() -> None:
    rng = random.Random(3)
    patients = [f"{rng.randrange(40):020x}" for _ in range(300)]
    train = [keyed_fraction("split", 0, patient) < 0.8 for patient in patients]
    batches = np.array([0] * 180 + [1] * 120)
    rows = [row for row in range(300) if train[row]]
    rows.sort(key=lambda row: (batches[row], keyed_fraction("subset", 7, 2, patients[row]), patients[row], row))
    ranks = subset_ranks(patients, train, 7, 2, batches)
    assert ranks[rows].tolist() == list(range(len(rows)))
    assert (ranks[[row for row in range(300) if not train[row]]] == -1).all()
    assert subset_ranks([], [], 0, 0).tolist() == []


def test_a_kill_while_the_finished_work_is_removed_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each single removal: the same command finds the dataset whole, and so does one that adds."""
    write_archive(tmp_path / "archive", 6)
    expected = ingest(CONFIG, tmp_path / "archive", tmp_path / "straight", secret=SECRET)
    removals, finish = {"left": 0}, resume_state.finish

    def stop_after(remove: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any, **options: Any) -> None:
            if removals["left"] == 0:
                raise KeyboardInterrupt
            removals["left"] -= 1
            remove(*arguments, **options)

        return counted

    for number in range(20):
        out = tmp_path / f"ds{number}"
        with monkeypatch.context() as patch:

            def finish_and_stop(work: Path, out: Path, *, patch: pytest.MonkeyPatch = patch, number: int = number) -> None:
                removals["left"] = number
                for owner, name in ((shutil, "rmtree"), (Path, "unlink"), (Path, "rmdir")):
                    patch.setattr(owner, name, stop_after(getattr(owner, name)))
                finish(work, out)

            patch.setattr(resume_state, "finish", finish_and_stop)
            try:
                ingest(CONFIG, tmp_path / "archive", out, secret=SECRET, num_workers=0)
                stopped = False
            except KeyboardInterrupt:
                stopped = True
        if stopped:
            again = ingest(CONFIG, tmp_path / "archive", out, secret=SECRET, num_workers=0)
            assert again == expected
        assert not (out / ".ingest").exists()
        assert digests(out) == digests(tmp_path / "straight")
        if not stopped:
            assert number > 2  # there were moments to stop at
            return
    pytest.fail("it never came to its end")
