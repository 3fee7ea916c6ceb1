import csv
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dicom_makers import SECRET, make_dicom
from radscale.datasets import Dataset, IngestConfig, ingest, read_label_table, verify_dataset
from radscale.datasets.deidentification import load_or_create_secret, parse_date, pseudonym
from radscale.datasets.exclusions import Excluded
from radscale.datasets.images import read_image_file
from radscale.datasets.report_scrubbing import scrub_report
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


def rewrite(out: Path, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    table = pq.read_table(out / name)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), out / name)


def flip_a_pixel(out: Path) -> None:
    shard = next((out / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[700] ^= 255
    shard.write_bytes(data)


def move_a_patient(out: Path) -> None:
    """From validation to test: nothing about ranks or counts changes."""
    rewrite(out, "manifest.parquet", lambda rows: [r | {"split": "test"} if r["split"] == "validation" else r for r in rows])


def swap_ranks(out: Path) -> None:
    def swap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = max(row["rank_0"] for row in rows if row["rank_0"] is not None)
        return [row | {"rank_0": None if row["rank_0"] is None else last - row["rank_0"]} for row in rows]

    rewrite(out, "manifest.parquet", swap)


def add_a_member(out: Path) -> None:
    with tarfile.open(next((out / "shards").iterdir()), "a") as tar:
        tar.addfile(tarfile.TarInfo("patient_name.png"))


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (flip_a_pixel, "1 images are missing or differ from their sha256"),
        (move_a_patient, "patients do not stand in the split that their hash gives"),
        (swap_ranks, "rank_0 is not the order that the keyed hash gives"),
        (lambda out: rewrite(out, "manifest.parquet", lambda rows: rows[1:]), "are not the"),
        (lambda out: rewrite(out, "reports.parquet", lambda rows: rows[1:]), r"reports\.parquet differs from its sha256"),
        (lambda out: rewrite(out, "labels.parquet", lambda rows: [r | {"state": "positive"} for r in rows]), "labels"),
        (lambda out: (out / "exclusions.parquet").unlink(), r"exclusions\.parquet is missing"),
        (add_a_member, "1 members of the shards are not in the manifest"),
        (lambda out: shutil.rmtree(out / "shards"), "images are missing"),
    ],
)  # fmt: skip
def test_verify_finds_tampering(
    image_folder: Callable[..., Path], tmp_path: Path, tamper: Callable[[Path], None], said: str
) -> None:
    out = tmp_path / "ds"
    ingest(CONFIG, image_folder(40), out, secret=SECRET)
    assert verify_dataset(out) == []
    tamper(out)
    assert any(re.search(said, problem) for problem in verify_dataset(out)), verify_dataset(out)


def test_two_images_under_one_uid_and_a_file_of_another_kind(dicom_archive: Path, tmp_path: Path, picture: np.ndarray) -> None:
    other = make_dicom(picture[::-1], PatientID="88812345", SOPInstanceUID="1.2.0.0.9", StudyInstanceUID="1.2.0.0")
    (dicom_archive / "second.dcm").write_bytes(other)
    (dicom_archive / "later").mkdir()
    (dicom_archive / "later" / "loop").symlink_to(dicom_archive)
    (dicom_archive / "later" / "gone.dcm").symlink_to(dicom_archive / "nowhere.dcm")
    os.mkfifo(dicom_archive / "pipe.dcm")
    odd = os.fsencode(dicom_archive) + b"/odd\nname \xff \xf0\x9f\xab\x81.dcm"
    Path(os.fsdecode(odd)).write_bytes(b"")
    counts = ingest(IngestConfig(kind="dicom", image_size_px=32), dicom_archive, tmp_path / "ds", secret=SECRET)
    assert counts["excluded"] == {"duplicate": 1, "unreadable": 3}
    assert (counts["inputs"], counts["images"]) == (10, 6)
    assert counts["not_read"] == {".csv": 1}
    assert verify_dataset(tmp_path / "ds") == []


def test_links_to_folders_outside_are_followed_once(dicom_archive: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("a", "b"):
        (linked / name).symlink_to(dicom_archive)
    config = IngestConfig(kind="dicom", image_size_px=32, reports_csv=None)
    assert ingest(config, linked, tmp_path / "ds", secret=SECRET)["images"] == 6


def write_reports(archive: Path, rows: list[list[str]]) -> None:
    with (archive / "reports.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["accession_number", "patient_id", "report"], *rows])


def test_a_report_is_never_given_to_another_patient(dicom_archive: Path, tmp_path: Path, picture: np.ndarray) -> None:
    # Two patients share ACC0077, and one image has no accession number at all.
    for number, (patient, accession) in enumerate((("88854321", "ACC0077"), ("88867890", ""))):
        pixels = np.roll(picture, 3 + number, axis=1)
        data = make_dicom(
            pixels, PatientID=patient, SOPInstanceUID=f"9.{number}.1", StudyInstanceUID=f"9.{number}", AccessionNumber=accession
        )
        (dicom_archive / f"more{number}.dcm").write_bytes(data)
    write_reports(
        dicom_archive,
        [["ACC0077", "88812345", "Effusion."], ["", "88867890", "Hernia."], ["ACC1077", "88854321", "Clear."],
         ["ACC1077", "88854321", "Addendum: Fracture."], ["ACC1077", "88854321", "Clear."]],
    )  # fmt: skip
    plain = IngestConfig(kind="dicom", image_size_px=32)
    counts = ingest(plain, dicom_archive, tmp_path / "plain", secret=SECRET)
    assert (counts["reports"], counts["unmatched_reports"]) == (1, 2)
    assert Dataset(tmp_path / "plain").reports()["text"].to_pylist() == ["Clear.\n\nAddendum: Fracture."]
    columns = {"accession_number": "accession_number", "report": "report", "patient_id": "patient_id"}
    checked = IngestConfig(kind="dicom", image_size_px=32, report_columns=columns)
    counts = ingest(checked, dicom_archive, tmp_path / "checked", secret=SECRET)
    assert (counts["reports"], counts["unmatched_reports"]) == (2, 1)
    rows = {row["text"]: row["patient_id"] for row in Dataset(tmp_path / "checked").reports().to_pylist()}
    assert rows["Effusion."] == pseudonym(SECRET, "patient", "88812345")


def test_odd_rows_of_a_table(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = image_folder(2)
    with (source / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows(
            [
                ["image_path", "patient_id", "who", "day", "age", "place", "finding", "report"],
                [
                    "images/0_0.png",
                    "007",
                    "Ms Ann Bo",
                    "2020-1-5",
                    "8 months",
                    "Inpatient",
                    "a",
                    "Seen by Bo, 007.\nLungs; clear",
                ],
                ["images/0_0.png", "007", "", "", "", "", "b", ""],
                ["images/1_0.png", "7", "", "1e400", "999", "ward 4, Mrs Miller", "a", ""],
                ["images/1_1.png", "", "", "2020-01-20", "", "", "a", ""],
                ["../" * 3 + "x" * 300, "8", "", "", "", "", "a", ""],
            ]
        )
    columns = {"image": "image_path", "patient": "patient_id", "name": "who", "study_day": "day", "age": "age"}
    columns |= {"care_setting": "place", "report": "report"}
    config = IngestConfig(kind="images", image_size_px=32, columns=columns, labels={"finding": "categorical"})
    counts = ingest(config, source, tmp_path / "ds", secret=SECRET)
    assert counts["excluded"] == {"duplicate": 1, "missing_file": 1, "no_patient": 1}
    assert counts["unknown_care_settings"] == 1
    rows = Dataset(tmp_path / "ds").manifest.to_pylist()
    assert len({row["patient_id"] for row in rows}) == 2  # 007 is not 7
    assert [(row["age_years"], row["study_day"], row["care_setting"]) for row in rows] == [
        (0, 0, "inpatient"),
        (None, None, None),
    ]
    labels = read_label_table(tmp_path / "ds").to_pylist()
    assert len(labels) == len({(row["id"], row["task"]) for row in labels})
    (report,) = Dataset(tmp_path / "ds").reports()["text"].to_pylist()
    assert "Bo" not in report.split()
    assert "Lungs; clear" in report


def test_a_label_column_that_holds_names_is_refused_without_printing_them(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = IngestConfig(kind="images", image_size_px=32, columns=COLUMNS, labels={"patient_id": "binary"})
    with pytest.raises(InputError, match="label column 'patient_id': a value of 8 characters") as error:
        ingest(config, image_folder(), tmp_path / "ds", secret=SECRET)
    assert "ller" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "day"),
    [("20200105", 737429), ("2020-01-05", 737429), ("2020-1-5", 737429), ("2020.01.05", 737429), ("2020-01-05 13:01", 737429),
     ("2020-1-11", 737435), ("2020-11-1", 737730), ("05/01/2020", None), ("20201301", None),
     ("17", None), ("", None), ("10000101", None)],
)  # fmt: skip
def test_dates(value: str, day: int | None) -> None:
    assert parse_date(value) == day


@pytest.mark.parametrize(
    "text",
    ["3 January 2020", "03-JAN-20", "January 3rd, 2020", "on Jan 3", "1/3/2020", "2020.01.05", "5. Mai 2019", "May 2019",
     "MRN: AB123456", "(617) 555-0123", "123-45-6789", "Dr. von Braun", "John Q. Doe, M.D.", "Dictated by: JOHN DOE",
     "SMITH, JOHN MD", "mail@example.org", "Discussed with Smith"],
)  # fmt: skip
def test_identifiers_are_scrubbed(text: str) -> None:
    scrubbed = scrub_report(f"Seen {text} today.")[0]
    assert scrubbed != f"Seen {text} today."
    assert not re.search(r"\d|Braun|Doe|DOE|SMITH|Smith|JOHN|Jan|May|Mai", scrubbed)


@pytest.mark.parametrize(
    "text",
    ["Chest PA and lateral.", "3. May represent edema.", "T12 fracture of 3/4 ribs.", "MR Chest advised.", "DR Chest, 2 views.",
     "Tube 4.5 cm above the carina, 7-8 mm nodule.", "Discussed with the team."],
)  # fmt: skip
def test_what_names_nobody_stays(text: str) -> None:
    assert scrub_report(text)[0] == text


def test_upright_by_exif_and_every_kind_of_picture_file(tmp_path: Path) -> None:
    grey = (255 * cv2.GaussianBlur(np.random.default_rng(0).random((40, 60)), (0, 0), 3)).astype(np.uint8)
    picture = Image.fromarray(grey)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side: show it turned by a quarter clockwise
    picture.save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(read_image_file(tmp_path / "turned.png"), np.rot90(grey, -1))
    for mode, name in (("L", "a.png"), ("P", "b.png"), ("RGB", "c.png"), ("RGBA", "d.png"), ("LA", "e.png"), ("RGB", "f.tiff")):
        picture.convert(mode).save(tmp_path / name)
        assert np.array_equal(read_image_file(tmp_path / name), grey), mode
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    assert np.array_equal(read_image_file(tmp_path / "deep.png"), grey.astype(np.uint16) * 200)
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(read_image_file(tmp_path / "print.jpg").astype(int) - grey).mean() < 3
    hole = grey.astype(np.float32)
    hole[0, 0] = np.nan
    cv2.imwrite(str(tmp_path / "hole.tiff"), hole)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "print.jpg").read_bytes()[:300])
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("hole.tiff", "cut.jpg", "loop.png", "pipe.png", "x" * 300, "a\0b"):
        with pytest.raises(Excluded):
            read_image_file(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"abc", b"not a key at all", b"\xff\xfe", b"ab" * 31])
def test_a_file_that_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a key of 32 bytes"):
        load_or_create_secret(path)
    assert path.read_bytes() == content


def test_a_key_is_made_once_readable_by_its_owner_only_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    key = load_or_create_secret(path)
    assert load_or_create_secret(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["secret.key"]
    with pytest.raises(InputError, match="cannot be written"):
        load_or_create_secret(tmp_path / "none" / "secret.key")


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-16", "\t"), ("utf-8-sig", ";"), ("cp1252", ",")])
def test_line_breaks_within_reports_survive_every_kind_of_table(tmp_path: Path, encoding: str, delimiter: str) -> None:
    source = tmp_path / "images"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    with (source / "metadata.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["image_path", "patient_id", "text"], ["a.png", "p1", 'Größe normal;\nno effusion,\t"clear".']])
    columns = {"image": "image_path", "patient": "patient_id", "report": "text"}
    ingest(IngestConfig(kind="images", columns=columns, image_size_px=32), source, tmp_path / "ds", secret=SECRET)
    assert Dataset(tmp_path / "ds").reports()["text"].to_pylist() == ['Größe normal;\nno effusion,\t"clear".']


def test_a_missing_table_of_reports_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no such file; name the table in `reports_csv`, or null"):
        ingest(IngestConfig(kind="dicom"), tmp_path, tmp_path / "ds", secret=SECRET)
