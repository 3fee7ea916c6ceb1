"""Folders in the exact layouts of published sets become datasets with the right labels, patients, views, splits and masks."""

import csv
import gzip
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dicom_makers import SECRET, make_dicom
from radscale import cli
from radscale.datasets import Dataset, IngestConfig, ingest, read_label_table, verify_dataset
from radscale.datasets.deidentification import pseudonym
from radscale.datasets.png import decode_png
from radscale.datasets.public import LAYOUTS, PublicFolder, PublicOptions, detect_layout
from radscale.datasets.public.openi import _tasks as openi_tasks
from radscale.datasets.public.padchest import _tasks as padchest_tasks
from radscale.datasets.public.siim import decode_runs
from radscale.datasets.public.vindr import decide
from radscale.errors import InputError

REAL_TABLES = Path(os.environ.get("RADSCALE_PUBLIC_TABLES", "none"))
"""Folder `torchxrayvision/data` of that package, which carries the published tables."""
needs_real_tables = pytest.mark.skipif(not REAL_TABLES.is_dir(), reason="set RADSCALE_PUBLIC_TABLES to torchxrayvision/data")


def pixels(seed: int, shape: tuple[int, int] = (64, 80), dtype: type = np.uint8) -> np.ndarray:
    image = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 3)
    return (np.iinfo(dtype).max * image).astype(dtype)


def write_images(folder: Path, names: Sequence[str], dtype: type = np.uint8) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".dcm", ".dicom"):
            header = {"PatientID": f"P{seed}", "SOPInstanceUID": f"1.2.{seed}", "PatientSex": "F", "PatientAge": "061Y"}
            path.write_bytes(make_dicom(pixels(seed, dtype=np.uint16), ViewPosition="PA", **header))
        else:
            assert cv2.imwrite(str(path), pixels(seed, dtype=dtype))


def write_table(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)


class Made:
    """A dataset made from a published folder, asked by the names that the publisher gave."""

    def __init__(self, folder: Path, layout: str, **settings: object) -> None:
        self.out = folder.with_name(f"{folder.name}.{len(list(folder.parent.iterdir()))}")
        config = IngestConfig(kind="images", layout=layout, image_size_px=32, **settings)  # type: ignore[arg-type]
        self.counts = ingest(config, folder, self.out, secret=SECRET)
        assert verify_dataset(self.out) == []
        self.dataset = Dataset(self.out)
        self.rows = {row["sample_id"]: row for row in self.dataset.manifest.to_pylist()}

    def image(self, path: str) -> dict:
        return self.rows[pseudonym(SECRET, "sample", path)]

    def states(self, path: str, engine: str) -> dict[str, str]:
        ids = {self.image(path)["sample_id"], self.image(path)["study_id"]}
        table = read_label_table(self.out).to_pylist()
        return {row["task"]: row["state"] for row in table if row["id"] in ids and row["engine"] == engine}

    def mask(self, path: str, task: str) -> np.ndarray | None:
        """The only row of the mask table for it; None: looked for and not there."""
        rows = pq.read_table(self.out / "masks.parquet").to_pylist()
        (png,) = [row["png"] for row in rows if (row["sample_id"], row["task"]) == (self.image(path)["sample_id"], task)]
        return None if png is None else decode_png(png)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


# NIH ChestX-ray14

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_NAMES = ("00000001_000.png", "00000001_001.png", "00000002_000.png", "00000003_000.png")


def make_nih(folder: Path, *, lists: bool = True, labels: str = "Effusion|Emphysema") -> Path:
    size = (2682, 2749, 0.143, 0.143)
    rows = [
        (NIH_NAMES[0], "No Finding", 0, 1, 57, "M", "PA", *size),
        (NIH_NAMES[1], labels, 1, 1, 58, "M", "AP", *size),
        (NIH_NAMES[2], "Pleural_Thickening", 0, 2, 95, "F", "PA", *size),
        (NIH_NAMES[3], "Hernia", 0, 3, 81, "F", "PA", *size),
    ]
    write_table(folder / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    write_images(folder, [f"images_00{1 + seed // 2}/images/{name}" for seed, name in enumerate(NIH_NAMES)])
    if lists:
        (folder / "train_val_list.txt").write_text("\n".join(NIH_NAMES[:3]) + "\n")
        (folder / "test_list.txt").write_text(NIH_NAMES[3])
    return folder


def test_nih(source: Path) -> None:
    made = Made(make_nih(source), "nih")
    second = "images_001/images/00000001_001.png"
    states = made.states(second, "nih")
    assert len(states) == 15
    assert {task for task, state in states.items() if state == "positive"} == {"pleural_effusion", "emphysema"}
    assert made.states("images_001/images/00000001_000.png", "nih")["no_finding"] == "positive"
    row = made.image(second)
    assert (row["sex"], row["age_years"], row["view"], row["view_position"]) == ("M", 58, "frontal", "AP")
    assert row["patient_id"] == made.image("images_001/images/00000001_000.png")["patient_id"]
    assert row["split"] != "test"
    assert made.image("images_002/images/00000003_000.png")["split"] == "test"
    assert made.counts["split"] == "official"
    assert made.counts["layout"] == "nih"


def test_the_official_split_can_be_left_and_is_not_needed(source: Path) -> None:
    made = Made(make_nih(source), "auto", official_split=False, train_fraction=1.0, validation_fraction=0.0, test_fraction=0.0)
    assert {row["split"] for row in made.rows.values()} == {"train"}
    for name in ("train_val_list.txt", "test_list.txt"):
        (source / name).unlink()
    assert Made(source, "nih").counts["split"] == "by keyed hash"


def test_validation_patients_come_from_the_official_training_part(source: Path) -> None:
    names = [f"{patient:08d}_000.png" for patient in range(60)]
    rows = [(name, "Mass", 0, patient, 50, "M", "PA", 1, 1, 1, 1) for patient, name in enumerate(names)]
    write_table(source / "Data_Entry_2017.csv", NIH_HEADER, rows)
    write_images(source, [f"images/{name}" for name in names])
    (source / "train_val_list.txt").write_text("\n".join(names[:50]))
    (source / "test_list.txt").write_text("\n".join(names[50:]))
    made = Made(source, "nih", train_fraction=0.5, validation_fraction=0.25, test_fraction=0.25)
    splits = [made.image(f"images/{name}")["split"] for name in names]
    assert set(splits[50:]) == {"test"}
    assert 8 <= splits[:50].count("validation") <= 26, "a third of 50 patients"
    assert set(splits[:50]) == {"train", "validation"}


def test_verify_sees_a_changed_official_split(source: Path) -> None:
    made = Made(make_nih(source), "nih")
    path = made.out / "official_splits.parquet"
    table = pq.read_table(path)
    flipped = [{"train": "test", "test": "train"}[part] for part in table["part"].to_pylist()]
    pq.write_table(table.set_column(1, "part", [flipped]), path)
    problems = verify_dataset(made.out)
    assert any("official_splits.parquet differs from its sha256" in problem for problem in problems)
    assert any("do not stand in the split that the published split gives" in problem for problem in problems)


# VinDr-CXR

VINDR_LABELS = (
    "Aortic enlargement",
    "Cardiomegaly",
    "Enlarged PA",
    "Nodule/Mass",
    "Tuberculosis",
    "Other diseases",
    "No finding",
)


def make_vindr(folder: Path) -> Path:
    header = ",".join(VINDR_LABELS)
    votes = {
        "aaa1": ((1, 1, 0, 0, 0, 0, 0), (1, 0, 1, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0, 0)),
        "bbb2": ((0, 0, 0, 0, 0, 0, 1),) * 3,
    }
    rows = [(image, f"R{n}", *row) for image, readers in votes.items() for n, row in enumerate(readers)]
    write_table(folder / "annotations" / "image_labels_train.csv", f"image_id,rad_id,{header}", rows)
    write_table(folder / "annotations" / "image_labels_test.csv", f"image_id,{header}", [("ccc3", 0, 0, 0, 1, 1, 0, 0)])
    write_images(folder, ["train/aaa1.dicom", "train/bbb2.dicom", "test/ccc3.dicom"])
    return folder


@pytest.mark.parametrize(
    ("rule", "cardiomegaly", "pulmonary_artery"),
    [("majority", "positive", "negative"), ("any", "positive", "positive"), ("unanimous", "uncertain", "uncertain")],
)
def test_vindr_physionet(source: Path, rule: str, cardiomegaly: str, pulmonary_artery: str) -> None:
    made = Made(make_vindr(source), "vindr-cxr", readers_rule=rule)
    states = made.states("train/aaa1.dicom", "radiologists")
    assert states["aortic_enlargement"] == "positive"
    assert states["cardiomegaly"] == cardiomegaly
    assert states["enlarged_pulmonary_artery"] == pulmonary_artery
    assert states["tuberculosis"] == "negative"
    consensus = made.states("test/ccc3.dicom", "radiologists")
    assert {task for task, state in consensus.items() if state == "positive"} == {"nodule_mass", "tuberculosis"}
    row = made.image("test/ccc3.dicom")
    assert (row["split"], row["view"], row["sex"], row["age_years"]) == ("test", "frontal", "F", 61)
    assert len({row["patient_id"] for row in made.rows.values()}) == 3


def test_vindr_kaggle(source: Path) -> None:
    box = ("1", "2", "3", "4")
    rows = [
        ("aaa1", "Cardiomegaly", 3, "R8", *box),
        ("aaa1", "Cardiomegaly", 3, "R8", *box),
        ("aaa1", "Pleural effusion", 10, "R9", *box),
        ("aaa1", "Cardiomegaly", 3, "R9", *box),
        ("aaa1", "No finding", 14, "R10", "", "", "", ""),
        *(("bbb2", "No finding", 14, f"R{n}", "", "", "", "") for n in (1, 2, 3)),
    ]
    write_table(source / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", rows)
    write_images(source, ["train/aaa1.dicom", "train/bbb2.png"])
    made = Made(source, "auto")
    assert made.counts["layout"] == "vindr-cxr-kaggle"
    # Two boxes of one reader are one vote.
    expected = {"cardiomegaly": "positive", "pleural_effusion": "negative", "no_finding": "negative"}
    assert made.states("train/aaa1.dicom", "radiologists") == expected
    assert made.states("train/bbb2.png", "radiologists")["no_finding"] == "positive"


def test_a_tie_is_no_majority() -> None:
    assert decide([True, False], "majority") == "negative"
    assert decide([True, True, True], "unanimous") == "positive"
    assert decide([False, False], "unanimous") == "negative"


# RANZCR-CLiP

RANZCR_HEADER = (
    "StudyInstanceUID,ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline,NGT - Incompletely Imaged,"
    "NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal,Swan Ganz Catheter Present,PatientID"
)
RANZCR_UIDS = tuple(f"1.2.826.0.1.3680043.8.498.100{number}" for number in range(3))


def make_ranzcr(folder: Path) -> Path:
    rows = [
        (RANZCR_UIDS[0], 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, "ec89415d1"),
        (RANZCR_UIDS[1], 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, "ec89415d1"),
        (RANZCR_UIDS[2], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "bf4c6da3c"),
    ]
    write_table(folder / "train.csv", RANZCR_HEADER, rows)
    write_images(folder, [f"train/{uid}.jpg" for uid in RANZCR_UIDS])
    return folder


def test_ranzcr(source: Path) -> None:
    made = Made(make_ranzcr(source), "ranzcr-clip")
    paths = [f"train/{uid}.jpg" for uid in RANZCR_UIDS]
    first, second, third = (made.states(path, "radiologists") for path in paths)
    assert {task for task, state in first.items() if state == "positive"} == {
        "ETT",
        "NGT",
        "ett_normal",
        "ngt_incompletely_imaged",
    }
    assert {task for task, state in second.items() if state == "positive"} == {
        "CVC",
        "SGC",
        "cvc_borderline",
        "cvc_normal",
        "swan_ganz_catheter_present",
    }
    assert set(third.values()) == {"negative"}
    assert len(third) == 15
    assert made.image(paths[0])["patient_id"] == made.image(paths[1])["patient_id"] != made.image(paths[2])["patient_id"]


# CheXpert

CHEXPERT_HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Pleural Effusion,Support Devices"


def make_chexpert(folder: Path) -> Path:
    root = "CheXpert-v1.0-small"
    train = [
        (f"{root}/train/patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", "1.0", "", "", "0.0", "1.0"),
        (f"{root}/train/patient00001/study1/view2_lateral.jpg", "Female", 68, "Lateral", "", "1.0", "", "", "0.0", "1.0"),
        (f"{root}/train/patient00002/study2/view1_frontal.jpg", "Unknown", 0, "Frontal", "PA", "", "-1.0", "1.0", "", ""),
    ]
    valid = [
        (f"{root}/valid/patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", "0.0", "1.0", "0.0", "0.0", "0.0")
    ]
    write_table(folder / "train.csv", CHEXPERT_HEADER, train)
    write_table(folder / "valid.csv", CHEXPERT_HEADER, valid)
    write_images(folder, [row[0].removeprefix(f"{root}/") for row in (*train, *valid)])
    return folder


def test_chexpert(source: Path) -> None:
    made = Made(make_chexpert(source), "chexpert")
    lateral, frontal = (f"train/patient00001/study1/view{name}.jpg" for name in ("2_lateral", "1_frontal"))
    assert made.image(lateral)["view"] == "lateral"
    assert (made.image(frontal)["view_position"], made.image(frontal)["sex"], made.image(frontal)["age_years"]) == (
        "AP",
        "F",
        68,
    )
    assert made.image(lateral)["study_id"] == made.image(frontal)["study_id"]
    expected = {"no_finding": "positive", "pleural_effusion": "negative", "support_devices": "positive"}
    assert made.states(frontal, "chexpert") == expected, "blank is not mentioned"
    other = "train/patient00002/study2/view1_frontal.jpg"
    assert made.states(other, "chexpert") == {"cardiomegaly": "uncertain", "pulmonary_edema": "positive"}
    assert made.image(other)["sex"] is None
    assert made.image("valid/patient64541/study1/view1_frontal.jpg")["split"] == "test"
    assert len(read_label_table(made.out)) == 3 + 2 + 5, "the images of a study share its labels"


def test_chexpert_with_the_later_test_set(source: Path) -> None:
    make_chexpert(source)
    path = "CheXpert-v1.0-small/test/patient64741/study1/view1_frontal.jpg"
    write_table(source / "test.csv", CHEXPERT_HEADER, [(path, "Male", 50, "Frontal", "AP", 0, 0, 0, 0, 0)])
    (source / "test/patient64741/study1").mkdir(parents=True)
    cv2.imwrite(str(source / "test/patient64741/study1/view1_frontal.jpg"), pixels(99))
    made = Made(source, "chexpert")
    assert made.image("valid/patient64541/study1/view1_frontal.jpg")["split"] == "validation"
    assert made.image("test/patient64741/study1/view1_frontal.jpg")["split"] == "test"


# MIMIC-CXR-JPG

MIMIC = "mimic-cxr-2.0.0-"
MIMIC_META = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime"


def make_mimic(folder: Path) -> Path:
    procedure = "CHEST (PA AND LAT)"
    images = [
        ("02aa804e-bde0afdd", 10000032, 50414267, procedure, "PA", 3056, 2544, 21800506, "213014.531"),
        ("174413ec-4ec4c1f7", 10000032, 50414267, procedure, "LATERAL", 3056, 2544, 21800506, "213014.531"),
        ("2a2277a9-b0ded155", 10000032, 53189527, procedure, "AP", 3056, 2544, 21800626, "165500.312"),
        ("e084de3b-be89b11e", 11000764, 57375967, procedure, "AP", 3056, 2544, 21100614, "180507.5"),
    ]
    write_table(folder / f"{MIMIC}metadata.csv.gz", MIMIC_META, images)
    parts = ("train", "train", "train", "validate")
    rows = [(image[0], image[2], image[1], part) for image, part in zip(images, parts, strict=True)]
    write_table(folder / f"{MIMIC}split.csv.gz", "dicom_id,study_id,subject_id,split", rows)
    header = "subject_id,study_id,Atelectasis,Edema,No Finding"
    write_table(
        folder / f"{MIMIC}chexpert.csv.gz",
        header,
        [(10000032, 50414267, "", "-1.0", "1.0"), (11000764, 57375967, "0.0", "", "")],
    )
    write_table(folder / f"{MIMIC}negbio.csv.gz", header, [(10000032, 50414267, "", "0.0", "")])
    write_images(folder, [f"files/p{str(i[1])[:2]}/p{i[1]}/s{i[2]}/{i[0]}.jpg" for i in images])
    report = folder / "mimic-cxr-reports/files/p10/p10000032/s50414267.txt"
    report.parent.mkdir(parents=True)
    report.write_text("FINAL REPORT\n FINDINGS: Patient 10000032. No pneumothorax.\n IMPRESSION: Normal.\n")
    return folder


def test_mimic(source: Path) -> None:
    made = Made(make_mimic(source), "mimic-cxr-jpg")
    first, lateral = (f"files/p10/p10000032/s50414267/{name}.jpg" for name in ("02aa804e-bde0afdd", "174413ec-4ec4c1f7"))
    later, other = "files/p10/p10000032/s53189527/2a2277a9-b0ded155.jpg", "files/p11/p11000764/s57375967/e084de3b-be89b11e.jpg"
    assert made.states(first, "chexpert") == {"pulmonary_edema": "uncertain", "no_finding": "positive"}
    assert made.states(lateral, "negbio") == {"pulmonary_edema": "negative"}
    assert made.states(later, "chexpert") == {}
    assert made.image(lateral)["view"] == "lateral"
    assert (made.image(first)["study_day"], made.image(later)["study_day"]) == (0, 51)
    assert made.image(first)["split"] == "train", "the published split has a validation part of its own"
    assert made.image(other)["split"] == "validation"
    reports = made.dataset.reports().to_pylist()
    assert [report["study_id"] for report in reports] == [made.image(first)["study_id"]]
    assert "No pneumothorax." in reports[0]["text"]
    assert "10000032" not in reports[0]["text"]
    tables = [pq.read_table(path).to_pylist() for path in made.out.glob("*.parquet")]
    written = f"{tables} {(made.out / 'dataset.json').read_text()}"
    assert not any(number in written for number in ("10000032", "50414267", "02aa804e", "2180"))
    assert made.counts["unmatched_reports"] == 2, "two studies without their report"


# PadChest

PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "Manufacturer_DICOM,ReportID,Report,MethodLabel,Labels"
)


def test_padchest(source: Path) -> None:
    def row(number: int, patient: int, projection: str, labels: str) -> tuple:
        name, maker = f"{number}_k6ga29.png", "ImagingDynamicsCompanyLtd"
        report = (4765777, " sin hallazg .", "Physician", labels)
        return (
            number,
            name,
            number,
            20140915 + number,
            f"S{patient}",
            patient,
            "1930.0",
            "F",
            "POSTEROANTERIOR",
            projection,
            maker,
            *report,
        )

    rows = [
        row(0, 1, "PA", "['normal']"),
        row(1, 2, "L", "['laminar atelectasis', ' pleural effusion', 'NSG tube', '']"),
        row(2, 3, "AP_horizontal", ""),
        row(3, 4, "EXCLUDE", "['exclude']"),
        row(4, 2, "PA", "['laminar atelectasis', ' pleural effusion', 'NSG tube', '']"),
    ]
    write_table(source / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", PADCHEST_HEADER, rows)
    write_images(source, [f"{number}/{number}_k6ga29.png" for number in range(5)], np.uint16)
    made = Made(source, "padchest")
    assert made.counts["excluded"] == {"publisher": 1}
    assert made.states("0/0_k6ga29.png", "padchest") == {"no_finding": "positive"}
    names = {"laminar_atelectasis", "atelectasis", "pleural_effusion", "NGT"}
    assert made.states("1/1_k6ga29.png", "padchest") == dict.fromkeys(names, "positive")
    assert made.states("2/2_k6ga29.png", "padchest") == {}
    views = [made.image(f"{n}/{n}_k6ga29.png")["view_position"] for n in range(3)]
    assert views == ["PA", "LATERAL", "AP"]
    assert made.image("1/1_k6ga29.png")["study_id"] == made.image("4/4_k6ga29.png")["study_id"]
    assert made.image("0/0_k6ga29.png")["age_years"] == 84
    assert len(made.dataset.reports()) == 0
    with pytest.raises(InputError, match="not a list of labels"):
        padchest_tasks("normal")


# OpenI

OPENI = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">XXXX-year-old with cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION"/>
</Abstract></Article></MedlineCitation><MeSH>{terms}</MeSH>{images}</eCitation>"""


def make_openi(folder: Path, *, packed: bool) -> Path:
    reports = folder / "ecgen-radiology"
    reports.mkdir()
    for number, terms, names in (
        (1, ("normal",), ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")),
        (2, ("Lung/hyperdistention/mild", "Pulmonary Atelectasis/base/left", "Aorta/tortuous"), ("CXR2_IM-0652-1001",)),
        (3, ("No Indexing",), ("CXR3_IM-1384-1001",)),
    ):
        text = OPENI.format(
            number=number,
            findings=f"Report {number}.",
            terms="".join(f"<major>{term}</major>" for term in terms),
            images="".join(f'<parentImage id="{name}"/>' for name in names),
        )
        (reports / f"{number}.xml").write_text(text, encoding="utf-8")
    write_images(
        folder, ["NLMCXR_dcm/1/1_IM-0001-3001.dcm", "CXR1_1_IM-0001-4001.png", "CXR2_IM-0652-1001.png", "CXR3_IM-1384-1001.png"]
    )
    if packed:
        with tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as archive:
            archive.add(reports, "ecgen-radiology")
        for path in reports.iterdir():
            path.unlink()
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_openi(source: Path, packed: bool) -> None:
    made = Made(make_openi(source, packed=packed), "openi")
    dicom, png = "NLMCXR_dcm/1/1_IM-0001-3001.dcm", "CXR1_1_IM-0001-4001.png"
    assert made.image(dicom)["study_id"] == made.image(png)["study_id"]
    assert made.image(dicom)["view_position"] == "PA"
    assert made.image(png)["view_source"] in ("pixels", "nobody"), "its table does not say it"
    assert made.states(dicom, "mesh") == {"no_finding": "positive"}
    assert made.states("CXR2_IM-0652-1001.png", "mesh") == {"hyperinflation": "positive", "atelectasis": "positive"}
    assert set(made.states("CXR3_IM-1384-1001.png", "mesh").values()) == {"uncertain"}, "nobody gave it terms"
    reports = {row["study_id"]: row for row in made.dataset.reports().to_pylist()}
    assert len(reports) == 3
    assert reports[made.image(png)["study_id"]]["findings"] == "Report 1."


# SIIM-ACR


def test_siim(source: Path) -> None:
    uids = [f"1.2.276.0.7230010.3.1.4.8323329.{number}.1517875201.850819" for number in range(3)]
    # Column 100 from row 10 to 29; then column 102 (two columns on) from row 10.
    start = 100 * 1024 + 10
    rows = [
        (uids[0], "-1"),
        (uids[1], f"{start} 512 {2 * 1024 - 512} 512"),
        (uids[1], f"{900 * 1024} {100 * 1024}"),
        (uids[2], "-1"),
    ]
    write_table(source / "train-rle.csv", "ImageId, EncodedPixels", [(uid, f" {runs}") for uid, runs in rows])
    write_images(source, [f"dicom-images-train/1.2.{n}/1.3.{n}/{uid}.dcm" for n, uid in enumerate(uids[:2])])
    made = Made(source, "siim")
    assert made.counts["excluded"] == {"missing_file": 1}
    first, second = (f"dicom-images-train/1.2.{n}/1.3.{n}/{uid}.dcm" for n, uid in enumerate(uids[:2]))
    assert made.states(first, "radiologists") == {"pneumothorax": "negative"}
    assert made.states(second, "radiologists") == {"pneumothorax": "positive"}
    assert made.image(second)["patient_id"] == pseudonym(SECRET, "patient", "P1"), "from the DICOM header"
    assert made.mask(first, "pneumothorax") is None
    mask = made.mask(second, "pneumothorax")
    assert mask is not None
    assert mask.shape == (32, 40)
    # Columns 900 to 999 of 1024 are 35.2 to 39.1 of 40.
    assert mask[:, 36:39].all()
    assert not mask[:, :3].any()


def test_runs_are_relative_and_go_down_the_columns() -> None:
    mask = decode_runs("1 2 3 1", (4, 3))
    np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    with pytest.raises(InputError, match="ends outside the image"):
        decode_runs("1 2 9 1", (4, 3))
    for text in ("1 2 3", "one 2", "-3 4"):
        with pytest.raises(InputError, match="not pairs of start and length"):
            decode_runs(text, (4, 3))


# Bad input


def refuse(folder: Path, layout: str, message: str, **settings: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Made(folder, layout, **settings)
    assert "\n" not in str(caught.value)


def test_another_layout_or_none(source: Path) -> None:
    refuse(source, "auto", "no known layout; say which it is with `layout`: vindr-cxr")
    refuse(source, "nhi", "layout 'nhi' is not one of auto, vindr-cxr")
    make_nih(source)
    refuse(source, "chexpert", r"no `train.csv`, which CheXpert has; it looks like layout nih")
    with pytest.raises(InputError, match=r"looks like NIH ChestX-ray14: read it with `layout: nih`"):
        ingest(IngestConfig(kind="dicom"), source, source / "ds", secret=SECRET)
    with pytest.raises(InputError, match=r"looks like NIH ChestX-ray14"):
        ingest(IngestConfig(kind="images"), source, source / "ds", secret=SECRET)
    with pytest.raises(InputError, match="published layouts are of kind images"):
        IngestConfig(kind="dicom", layout="nih")
    with pytest.raises(InputError, match="layout 'nih' brings its own labels"):
        IngestConfig(kind="images", layout="nih", labels={"finding": "binary"})


def test_two_layouts_in_one_folder(source: Path) -> None:
    make_nih(source)
    make_chexpert(source)
    refuse(source, "auto", "the tables of NIH ChestX-ray14 and of CheXpert; say which")


@pytest.mark.parametrize(
    ("make", "layout", "table"),
    [
        (make_nih, "nih", "Data_Entry_2017_v2020.csv"),
        (make_vindr, "vindr-cxr", "annotations/image_labels_test.csv"),
        (make_ranzcr, "ranzcr-clip", "train.csv"),
        (make_chexpert, "chexpert", "valid.csv"),
        (make_mimic, "mimic-cxr-jpg", f"{MIMIC}split.csv.gz"),
    ],
)
def test_a_missing_table_is_named(source: Path, make: Callable[[Path], Path], layout: str, table: str) -> None:
    (make(source) / table).unlink()
    pattern = {"Data_Entry_2017_v2020.csv": "Data_Entry_2017*.csv", f"{MIMIC}split.csv.gz": "mimic-cxr-2.*-split.csv"}.get(
        table, table
    )
    with pytest.raises(InputError) as caught:
        Made(source, layout)
    assert f"no `{pattern}`, which" in str(caught.value)


def test_only_one_of_the_official_lists(source: Path) -> None:
    (make_nih(source) / "test_list.txt").unlink()
    refuse(source, "nih", "no `test_list.txt` in the folder, but train_val_list.txt; both make the split")


def test_patients_in_two_official_splits_are_counted_not_named(source: Path) -> None:
    make_nih(source)
    (source / "train_val_list.txt").write_text("\n".join(NIH_NAMES[1:3]))
    (source / "test_list.txt").write_text("\n".join((NIH_NAMES[0], NIH_NAMES[3])))
    refuse(source, "nih", "1 of 3 patients have images in two parts of the official split")
    assert Made(source, "nih", official_split=False).counts["images"] == 4


def test_images_in_none_or_both_of_the_lists(source: Path) -> None:
    make_nih(source)
    (source / "train_val_list.txt").write_text("\n".join(NIH_NAMES[:2]))
    refuse(source, "nih", "1 images of .* are in none of train_val_list.txt, test_list.txt")
    (source / "train_val_list.txt").write_text("\n".join(NIH_NAMES))
    refuse(source, "nih", "1 images are in both")


def test_unknown_label_values_are_not_repeated(source: Path) -> None:
    make_nih(source, labels="Effusion|Anna Rossi")
    refuse(source, "nih", "a value of 'Finding Labels' is none of the 14 findings or No Finding")
    (source / "Data_Entry_2017_v2020.csv").unlink()
    make_chexpert(source)
    table = (source / "train.csv").read_text()
    (source / "train.csv").write_text(table.replace("-1.0", "maybe"))
    refuse(source, "chexpert", r"train.csv: column 'Cardiomegaly' holds a value of 5 characters that is none of 1, 0, -1")


def test_ids_twice(source: Path) -> None:
    table = make_ranzcr(source) / "train.csv"
    table.write_text(table.read_text() + table.read_text().split("\n")[1] + "\n")
    refuse(source, "ranzcr-clip", "train.csv: 1 values of StudyInstanceUID occur twice")


def test_missing_images_are_exclusions(source: Path) -> None:
    make_chexpert(source)
    (source / "train/patient00002/study2/view1_frontal.jpg").unlink()
    made = Made(source, "chexpert")
    assert made.counts["excluded"] == {"missing_file": 1}
    assert made.counts["inputs"] == made.counts["images"] + 1


def test_damaged_files_of_reports_and_tables(source: Path) -> None:
    (source / "NLMCXR_reports.tgz").write_bytes(b"no archive")
    refuse(source, "openi", "NLMCXR_reports.tgz: damaged or no tar archive")
    reports = source / "ecgen-radiology"
    reports.mkdir()
    (reports / "1.xml").write_text("<eCitation>")
    refuse(source, "openi", "1.xml: not a report of OpenI")
    make_mimic(source)
    path = source / f"{MIMIC}negbio.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    refuse(source, "mimic-cxr-jpg", "negbio.csv.gz: damaged gzip file")


def test_command_line(source: Path, tmp_path: Path) -> None:
    make_nih(source)
    run = CliRunner().invoke
    result = run(cli.app, ["ingest", str(source), "--layout", "auto", "--out", str(tmp_path / "ds"), "--size", "32"])
    assert result.exit_code == 0, result.output
    assert "layout: nih" in result.output
    assert "split: official" in result.output
    assert run(cli.app, ["verify", str(tmp_path / "ds")]).exit_code == 0
    with pytest.raises(SystemExit) as caught:
        cli.main(["ingest", str(source), "--layout", "siim", "--out", str(tmp_path / "other")])
    assert caught.value.code == 2


# The published tables themselves


@needs_real_tables
def test_the_real_tables_are_read(source: Path) -> None:
    def read(layout: str, *links: tuple[str, str]) -> list:
        folder = source / layout
        for name, published in links:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(REAL_TABLES / published)
        found = detect_layout(folder, LAYOUTS, "auto")
        assert found.name == layout
        return found.read(PublicFolder(folder), PublicOptions())

    def positives(images: list, engine: str, task: str) -> int:
        return sum(image.labels[engine].get(task) == "positive" for image in images)

    nih = read("nih", ("Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv.gz"))
    assert len(nih) == 112_120
    assert positives(nih, "nih", "no_finding") == 60_361, "Wang et al. 2017"
    vindr = read("vindr-cxr-kaggle", ("train.csv.gz", "vinbigdata-train.csv.gz"))
    assert len(vindr) == 15_000
    assert positives(vindr, "radiologists", "no_finding") == 10_606
    assert positives(vindr, "radiologists", "aortic_enlargement") == 2_346, "at least two of three readers"
    padchest = read("padchest", (name := "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", name))
    assert len(padchest) == 160_861
    assert sum(bool(image.excluded) for image in padchest) == 11
    assert positives(padchest, "padchest", "no_finding") > 50_000
    openi = read("openi", ("NLMCXR_reports.tgz", "NLMCXR_reports.tgz"))
    assert len({image.row["patient"] for image in openi}) == 3_955 - 104, "104 reports have no image"
    assert len(openi) == 7_470
    siim = read("siim", ("train-rle.csv.gz", "siim-pneumothorax-train-rle.csv.gz"))
    assert len(siim) == 12_047
    assert positives(siim, "radiologists", "pneumothorax") == 12_047 - 9_378


def test_terms_of_places_need_what_is_said_of_them() -> None:
    assert openi_tasks("Lung") == set()
    assert openi_tasks("Fractures, Bone/ribs/left") == {"rib_fracture", "fractures_bone"}
    assert openi_tasks("Technical Quality of Image Unsatisfactory ") == set()
