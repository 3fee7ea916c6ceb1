import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.datasets import Dataset, IngestConfig, ingest, read_label_table, verify_dataset
from radscale.errors import InputError

COLUMNS = {"image": "image_path", "patient": "patient_id", "sex": "sex", "age": "age", "report": "report"}
CONFIG = IngestConfig(kind="images", image_size_px=32, columns=COLUMNS, labels={"finding": "categorical"}, num_replicates=2)


def test_every_input_is_a_row_of_the_manifest_or_of_the_exclusions(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    counts = ingest(CONFIG, image_folder(bad=True), tmp_path / "ds", secret=SECRET)
    expected = {"constant_image": 1, "duplicate": 1, "missing_file": 1, "too_small": 1, "unreadable": 1}
    assert counts["excluded"] == expected
    dataset = Dataset(tmp_path / "ds")
    exclusions = pq.read_table(tmp_path / "ds" / "exclusions.parquet")
    assert len(dataset) + exclusions.num_rows == counts["inputs"]
    assert verify_dataset(tmp_path / "ds") == []
    assert all(min(dataset.read_image(row).shape) == 32 for row in range(len(dataset)))


def test_the_bytes_do_not_depend_on_the_number_of_workers(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = image_folder(bad=True)
    for workers in (1, 2):
        ingest(CONFIG, source, tmp_path / f"ds{workers}", secret=SECRET, num_workers=workers)
    names = [path.relative_to(tmp_path / "ds1") for path in (tmp_path / "ds1").rglob("*") if path.is_file()]
    assert len(names) >= 5
    for name in names:
        assert (tmp_path / "ds1" / name).read_bytes() == (tmp_path / "ds2" / name).read_bytes(), name


def test_splits_are_by_patient_and_subsets_are_nested(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    ingest(CONFIG, image_folder(40), tmp_path / "ds", secret=SECRET)
    dataset = Dataset(tmp_path / "ds")
    patients = np.array(dataset.manifest["patient_id"].to_pylist())
    splits = np.array(dataset.manifest["split"].to_pylist())
    for patient in set(patients):
        assert len(set(splits[patients == patient])) == 1
    small, large = dataset.subset_rows(10, 0), dataset.subset_rows(30, 0)
    assert large[:10].tolist() == small.tolist()
    assert set(splits[large]) == {"train"}
    assert dataset.subset_rows(10, 1).tolist() != small.tolist()
    with pytest.raises(InputError, match=r"subset of 1,000 images: the dataset has \d+ training images"):
        dataset.subset_rows(1000, 0)
    with pytest.raises(InputError, match="replicate 5: the dataset has 2 orders"):
        dataset.subset_rows(10, 5)


def test_categories_become_tasks(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    ingest(CONFIG, image_folder(), tmp_path / "ds", secret=SECRET)
    table = read_label_table(tmp_path / "ds")
    assert set(table["task"].to_pylist()) == {"normal", "big_pneumonia"}
    positive = [row["id"] for row in table.to_pylist() if row["state"] == "positive"]
    assert len(positive) == len(set(positive)) == len(Dataset(tmp_path / "ds"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_tables_in_other_encodings(image_folder: Callable[..., Path], tmp_path: Path, encoding: str) -> None:
    counts = ingest(CONFIG, image_folder(encoding=encoding), tmp_path / "ds", secret=SECRET)
    assert counts["patients"] == 12
    assert counts["table_encoding"] == encoding


def test_an_encoding_that_does_not_fit_is_named_with_the_byte(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = image_folder(encoding="cp1252")
    config = IngestConfig(kind="images", columns=COLUMNS, encoding="utf-8")
    with pytest.raises(InputError, match=r"metadata\.csv: byte \d+ is not utf-8"):
        ingest(config, source, tmp_path / "ds", secret=SECRET)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": "path", "patient": "patient_id"}, r"no column 'path'; found image_path, patient_id"),
        ({"image": "image_path", "patient": "pid"}, r"no column 'pid'; found image_path"),
    ],
)
def test_a_missing_column_is_named_with_those_found(
    image_folder: Callable[..., Path], tmp_path: Path, columns: dict[str, str], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        ingest(IngestConfig(kind="images", columns=columns), image_folder(), tmp_path / "ds", secret=SECRET)


def test_missing_and_empty_archives(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ingest(IngestConfig(kind="dicom"), tmp_path / "none", tmp_path / "ds", secret=SECRET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files found"):
        ingest(IngestConfig(kind="dicom"), tmp_path / "empty", tmp_path / "ds", secret=SECRET)
    (tmp_path / "empty" / "notes.dcm").write_text("nothing")
    (tmp_path / "empty" / "reports.csv").write_text("accession_number,report\n")
    with pytest.raises(InputError, match=r"none of 1 files is a usable chest X-ray \(1 unreadable\)"):
        ingest(IngestConfig(kind="dicom"), tmp_path / "empty", tmp_path / "ds", secret=SECRET)


@pytest.fixture
def dicom_archive(tmp_path: Path, picture: np.ndarray) -> Path:
    """Three patients with names, numbers and dates that must not survive."""
    archive = tmp_path / "archive"
    archive.mkdir()
    rows = []
    for index, (name, number) in enumerate(
        (("ROSSI^ANNA", "88812345"), ("KELLER^PETER", "88854321"), ("NOVAK^EMMA", "88867890"))
    ):
        for visit in range(2):
            pixels = np.roll(picture, 7 * (2 * index + visit), axis=0)
            data = make_dicom(
                pixels,
                PatientName=name,
                PatientID=number,
                StudyInstanceUID=f"1.2.{index}.{visit}",
                SOPInstanceUID=f"1.2.{index}.{visit}.9",
                AccessionNumber=f"ACC{index}{visit}77",
                StudyDate=f"2019030{1 + 4 * visit}",
                PatientBirthDate="19511117",
                PatientSex="F",
                ViewPosition="PA",
                Manufacturer="Acme",
                InstitutionName="St. Elsewhere",
            )
            (archive / f"{name.split('^')[0]}_{visit}.dcm").write_bytes(data)
            last = name.split("^")[0].capitalize()
            text = f"Mrs. {last}, MRN {number}, seen on 03/05/2019 by Dr. Brown. FINDINGS: Clear lungs. ACC{index}{visit}77"
            rows.append([f"ACC{index}{visit}77", text, "inpatient"])
    rows.append(["ACC999", "A report without images.", ""])
    with (archive / "reports.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["accession_number", "report", "care_setting"], *rows])
    return archive


def test_nothing_identifying_is_in_any_output(dicom_archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    counts = ingest(IngestConfig(kind="dicom", image_size_px=32), dicom_archive, out, secret=SECRET)
    assert (counts["images"], counts["reports"], counts["unmatched_reports"]) == (6, 6, 1)
    forbidden = ["rossi", "keller", "novak", "888", "acc0", "acc1", "acc2", "2019", "1951", "elsewhere", "brown", "1.2.0.0"]
    texts = [(out / "dataset.json").read_text()]
    texts += [json.dumps(pq.read_table(path).to_pylist()) for path in out.glob("*.parquet")]
    texts += [path.read_bytes().decode("latin-1") for path in (out / "shards").iterdir()]
    texts += [str(path) for path in out.rglob("*")]
    everything = "\n".join(texts).lower().replace(str(tmp_path).lower(), "")
    found = [word for word in forbidden if word in everything.replace('"sha256"', "")]
    hashes = " ".join(
        value
        for row in Dataset(out).manifest.to_pylist()
        for value in (row["sha256"], row["sample_id"], row["study_id"], row["patient_id"])
    )
    reports = " ".join(row["study_id"] + row["patient_id"] for row in Dataset(out).reports().to_pylist())
    # Digits may occur inside a hash by chance; names may not occur at all.
    assert [word for word in found if word not in hashes + reports] == []
    assert "clear lungs" in everything


def test_intervals_survive_dates_do_not(dicom_archive: Path, tmp_path: Path) -> None:
    ingest(IngestConfig(kind="dicom", image_size_px=32), dicom_archive, tmp_path / "ds", secret=SECRET)
    manifest = Dataset(tmp_path / "ds").manifest.to_pylist()
    assert sorted(row["study_day"] for row in manifest) == [0, 0, 0, 4, 4, 4]
    assert {row["age_years"] for row in manifest} == {67}
    assert {row["care_setting"] for row in manifest} == {"inpatient"}


def test_pseudonyms_need_the_secret(dicom_archive: Path, tmp_path: Path) -> None:
    ids = []
    for number, secret in enumerate((SECRET, SECRET, b"another secret of thirty-two byt")):
        ingest(IngestConfig(kind="dicom", image_size_px=32), dicom_archive, tmp_path / f"ds{number}", secret=secret)
        ids.append(Dataset(tmp_path / f"ds{number}").manifest["patient_id"].to_pylist())
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])


def test_verify_finds_damage(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    ingest(CONFIG, image_folder(), tmp_path / "ds", secret=SECRET)
    shard = next((tmp_path / "ds" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[700] ^= 255
    shard.write_bytes(data)
    assert verify_dataset(tmp_path / "ds") == ["1 images are missing or differ from their sha256"]
