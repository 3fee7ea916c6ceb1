"""Ethnicities, departments and years: a word of a closed list, or nothing that a hospital wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.datasets import Dataset, IngestConfig, ingest
from radscale.datasets.card import describe_dataset
from radscale.datasets.patient_groups import DEPARTMENTS, ETHNICITIES, known_department, known_ethnicity

# Words of the paper (section 4), of MIMIC-IV and of CheXpert's demographics.
ETHNIC = {
    "White": "white",
    "Black or African American": "black",
    "Asian - Far East": "asian",
    "Asian - Indian Subcontinent": "asian",
    "Native American and Pacific Islander": "native or pacific islander",
    "WHITE - RUSSIAN": "white",
    "BLACK/CARIBBEAN ISLAND": "black",
    "HISPANIC/LATINO - PUERTO RICAN": "hispanic",
    "AMERICAN INDIAN/ALASKA NATIVE": "native or pacific islander",
    "MULTIPLE RACE/ETHNICITY": "several",
    "White, non-Hispanic": "white",
    "White, Hispanic": "hispanic",
    "Race and Ethnicity Unknown": None,
    "PATIENT DECLINED TO ANSWER": None,
    "UNABLE TO OBTAIN": None,
    "Not Hispanic or Latino": None,
    "": None,
    "Zqname": "other",
}
DEPARTMENT = {
    "Internal Medicine": "internal medicine",
    "Emergency Medicine": "emergency medicine",
    "ED": "emergency medicine",
    "Cardiovascular Diseases": "cardiology",
    "CT SURGERY": "surgery",
    "RADIOLOGY^XR": "radiology",
    "Family Medicine": "family medicine",
    "General Practice": "general practice",
    "MICU": "intensive care",
    "Pediatric ICU": "intensive care",
    "OUTPATIENT CLINIC": "outpatient clinic",
    "Office of Dr. Zqname": "other",
    "n/a": None,
}


@pytest.mark.parametrize("text", ETHNIC)
def test_ethnicities(text: str) -> None:
    assert known_ethnicity(text) == ETHNIC[text]
    assert ETHNIC[text] in (*ETHNICITIES, "other", None)


@pytest.mark.parametrize("text", DEPARTMENT)
def test_departments(text: str) -> None:
    assert known_department(text) == DEPARTMENT[text]
    assert DEPARTMENT[text] in (*DEPARTMENTS, "other", None)


def test_words_of_the_hospital_go_first() -> None:
    assert known_ethnicity(" Ngāti  Porou ", {"ngāti porou": "Māori"}) == "Māori"
    assert known_department("3B-WEST", {"3b-west": "cardiology"}) == "cardiology"


def test_a_dataset_keeps_the_groups_and_counts_true_years(tmp_path: Path) -> None:
    source, out = tmp_path / "archive", tmp_path / "out"
    source.mkdir()

    def write(number: int, year: int, **fields: str) -> None:
        fields |= {"PatientID": f"P{number}", "StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.1"}
        pixels = np.random.default_rng(number).integers(0, 4000, (40, 40)).astype(np.uint16)
        (source / f"{number}.dcm").write_bytes(make_dicom(pixels, StudyDate=f"{year}0704", ViewPosition="PA", **fields))

    for number in range(12):
        write(number, 2012, EthnicGroup="White", RequestingService="Cardiology", InstitutionalDepartmentName="ICU")
    for number in range(12, 27):
        write(number, 2014, EthnicGroup="Zqsecret", InstitutionalDepartmentName="Zqsecret ward")
    config = IngestConfig(kind="dicom", image_size_px=32, reports_csv=None)
    assert ingest(config, source, out, secret=SECRET)["years"] == {"2012": 12, "2014": 15}
    dataset = Dataset(out)
    assert sorted(dataset.column("ethnicity").to_pylist()) == ["other"] * 15 + ["white"] * 12
    assert sorted(dataset.column("department").to_pylist()) == ["cardiology"] * 12 + ["other"] * 15
    write(27, 2014)
    ingest(config, source, out, secret=SECRET, add=True)
    assert json.loads((out / "dataset.json").read_text())["counts"]["years"] == {"2012": 12, "2014": 16}
    tables = {table.title: dict(table.rows) for table in describe_dataset(out).counted}
    assert tables["Year of the study, studies"] == {"2012": 12, "2013": 0, "2014": 16}
    # One image has no ethnicity: a small group, and it would follow from the others.
    assert tables["Ethnicity"] == {"other": 15, "white": None, "not stated": None}


def test_columns_of_a_table_are_read(tmp_path: Path) -> None:
    import cv2

    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    rows = ["0.png,A,2019-01-02,Asian,MICU", "1.png,B,2180-01-02,,Zq", "2.png,C,,declined,"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file,who,date,race,ward", *rows]))
    columns = {"image": "file", "patient": "who", "study_day": "date", "ethnicity": "race", "department": "ward"}
    config = IngestConfig(kind="images", image_size_px=32, columns=columns)
    counts = ingest(config, tmp_path, tmp_path.with_name("made"), secret=SECRET)
    assert counts["years"] == {"others": 1}
    dataset = Dataset(tmp_path.with_name("made"))
    assert sorted(map(str, dataset.column("ethnicity").to_pylist())) == ["None", "None", "asian"]
    assert sorted(map(str, dataset.column("department").to_pylist())) == ["None", "intensive care", "other"]
