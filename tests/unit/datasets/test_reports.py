import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dicom_makers import SECRET, make_dicom
from radscale.datasets import Dataset, IngestConfig, ingest, pseudonym
from radscale.datasets.deidentification import Pseudonyms, parse_moment, parse_second
from radscale.datasets.hl7 import parse_hl7
from radscale.errors import InputError

MESSAGE = (
    "\x0bMSH|^~\\&|RIS|HOSP|DW|HOSP|20200302||ORU^R01|1|P|2.5.1\r"
    "PID|1||MRN1^^^HOSP||ROSSI^ANNA||19511117|F\r"
    "OBR|1|PL1|ACC1^RIS|71020^CHEST||20200302101500|20200302101500|||||||||WEBER^R||||||||||||HOLM&KARL\r"
    "OBX|1|FT|71020&GDT^CHEST||Mrs Rossi, seen by Dr. Weber.\\.br\\Lungs clear \\T\\ expanded.~No effusion.||||||F\r"
    "OBX|2|TX|71020&IMP^CHEST||Normal.||||||F\r"
    "OBX|3|NM|SIZE||12||||||F\r"
    "OBR|2||ACC2|71020^CHEST||20200305|20200305\r"
    "OBX|1|TX|71020&GDT^CHEST||Second order.\r\x1c\r"
)


def test_an_oru_message_is_its_orders_with_their_text() -> None:
    first, second = parse_hl7(MESSAGE)
    assert (first.accession, first.patient, first.time) == ("ACC1", "MRN1", "20200302101500")
    assert first.text == "Mrs Rossi, seen by Dr. Weber.\nLungs clear & expanded.\nNo effusion.\nNormal."
    assert first.sections == {"findings": first.lines[:2], "impression": ["Normal."]}
    assert {"ROSSI", "ANNA", "MRN1", "WEBER", "HOLM", "KARL"} <= set(first.names)
    assert (second.accession, second.text) == ("ACC2", "Second order.")
    assert list(parse_hl7("")) == list(parse_hl7("no message\nat all")) == []


@pytest.mark.parametrize(
    ("text", "moment"),
    [("20200302101500", (737486, 36900)), ("20200302", (737486, None)), ("2020-03-02 10:15", (737486, 36900)),
     ("2020-03-02T10:15:00.5+02:00", (737486, 36900)), ("202003021015-0500", (737486, 36900)), ("02/03/2020", (None, None)),
     ("", (None, None)), ("20209999101500", (None, 36900))],
)  # fmt: skip
def test_moments(text: str, moment: tuple[int | None, int | None]) -> None:
    assert parse_moment(text) == moment
    assert parse_second("2561") is None


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Patient MRN1 with studies 1 (morning), 2 (evening of the day) and 3 (a week later), MRN2 with study 4; ACC5 is shared."""
    folder = tmp_path / "archive"
    folder.mkdir()
    studies = [
        ("MRN1", "ACC1", "20200302", "101500"), ("MRN1", "", "20200302", "200000"), ("MRN1", "", "20200309", "090000"),
        ("MRN2", "ACC4", "20200302", ""), ("MRN3", "ACC5", "20200101", ""), ("MRN4", "ACC5", "20200101", ""),
    ]  # fmt: skip
    for number, (patient, accession, date, time) in enumerate(studies, start=1):
        pixels = np.random.default_rng(number).integers(0, 4000, (48, 48)).astype(np.uint16)
        data = make_dicom(
            pixels, PatientID=patient, PatientName="ROSSI^ANNA", AccessionNumber=accession, StudyDate=date, StudyTime=time,
            StudyInstanceUID=f"1.{number}", SOPInstanceUID=f"1.{number}.1",
        )  # fmt: skip
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


REPORTS = [
    {"accession_number": "ACC1", "patient": "MRN1", "time": "", "report": "One, Rossi.", "ward": "Inpatient"},
    {"accession_number": "", "patient": "MRN1", "time": "2020-03-02 19:30", "report": "Two.", "ward": "ward 7"},
    {"accession_number": "", "patient": "MRN1", "time": "2020-03-09", "report": "Three.", "ward": ""},
    {"accession_number": "ACC4", "patient": "MRN1", "time": "", "report": "Of another.", "ward": ""},
    {"accession_number": "ACC5", "patient": "MRN3", "time": "", "report": "Five, of MRN3.", "ward": ""},
    {"accession_number": "ACC9", "patient": "MRN9", "time": "", "report": "Nine.", "ward": ""},
    {"accession_number": "", "patient": "MRN1", "time": "2020-03-05", "report": "Between.", "ward": ""},
    {"accession_number": "", "patient": "MRN1", "time": "2020-03-02", "report": "Of one of two that day.", "ward": ""},
    {"accession_number": "", "patient": "", "time": "", "report": "Of nobody.", "ward": ""},
    {"accession_number": "ACC4", "patient": "MRN2", "time": "", "report": "", "ward": ""},
]
COLUMNS = {
    "accession_number": "accession_number",
    "patient_id": "patient",
    "time": "time",
    "report": "report",
    "care_setting": "ward",
}
EXPECTED = {"1.1": "One, [REMOVED].", "1.2": "Two.", "1.3": "Three.", "1.5": "Five, of [REMOVED]."}
UNMATCHED = {"no_image": 2, "no_key": 1, "no_text": 1, "other_patient": 1, "several_studies": 1}


def texts(out: Path) -> dict[str, str]:
    return {row["study_id"]: row["text"] for row in Dataset(out).reports().to_pylist()}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_reports_are_matched_by_number_or_by_patient_and_time(archive: Path, tmp_path: Path, suffix: str) -> None:
    path = archive / f"export{suffix}"
    table = pd.DataFrame(REPORTS)
    if suffix == ".csv":
        table.to_csv(path, index=False, sep=";", quoting=csv.QUOTE_ALL)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in REPORTS), encoding="utf-8")
    config = IngestConfig(kind="dicom", image_size_px=32, reports=path.name, report_columns=COLUMNS)
    counts = ingest(config, archive, tmp_path / "ds", secret=SECRET)
    assert texts(tmp_path / "ds") == {pseudonym(SECRET, "study", uid): text for uid, text in EXPECTED.items()}
    assert (counts["reports"], counts["unmatched_reports"], counts["unknown_care_settings"]) == (4, 6, 1)
    assert counts["unmatched_reasons"] == UNMATCHED
    unmatched = pq.read_table(tmp_path / "ds" / "unmatched_reports.parquet").to_pylist()
    assert {"source": pseudonym(SECRET, "report", "ACC9"), "reason": "no_image"} in unmatched
    assert "ACC9" not in str(unmatched)
    settings = {row["study_id"]: row["care_setting"] for row in Dataset(tmp_path / "ds").manifest.to_pylist()}
    assert [settings[pseudonym(SECRET, "study", f"1.{n}")] for n in (1, 2)] == ["inpatient", None]


def test_folders_of_messages_and_text_files(archive: Path, tmp_path: Path) -> None:
    (archive / "texts" / "day").mkdir(parents=True)
    (archive / "texts" / "day" / "one.hl7").write_text(MESSAGE.replace("ACC2", ""))
    (archive / "texts" / "ACC4.txt").write_text("Four.")
    (archive / "texts" / "notes.doc").write_text("no report")
    config = IngestConfig(kind="dicom", image_size_px=32, reports="texts")
    counts = ingest(config, archive, tmp_path / "ds", secret=SECRET)
    found = texts(tmp_path / "ds")
    assert found[pseudonym(SECRET, "study", "1.4")] == "Four."
    assert "Rossi" not in found[pseudonym(SECRET, "study", "1.1")]
    assert "Lungs clear & expanded." in found[pseudonym(SECRET, "study", "1.1")]
    rows = {row["study_id"]: row for row in Dataset(tmp_path / "ds").reports().to_pylist()}
    assert rows[pseudonym(SECRET, "study", "1.1")]["impression"] == "Normal."
    assert counts["unmatched_reasons"] == {"no_image": 1}  # the second order, of a day without a study


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", '{"report": "a"}\nnot json', r"r\.jsonl, line 2: not JSON"),
        ("r.jsonl", '["a"]', "not a JSON object"),
        ("r.parquet", "text", "not a Parquet file"),
        ("r.csv", "accession,report\n1,a\n", "no column 'accession_number'; found accession, report"),
    ],
)
def test_exports_that_do_not_fit_are_named(archive: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    (archive / name).write_text(content)
    with pytest.raises(InputError, match=said):
        ingest(IngestConfig(kind="dicom", image_size_px=32, reports=name), archive, tmp_path / "ds", secret=SECRET)


def test_dates_are_moved_by_more_than_a_year_and_intervals_stay() -> None:
    pseudonyms: Any = Pseudonyms(SECRET)
    shifts = {pseudonyms.shift_days(f"P{n}") for n in range(500)}
    assert len(shifts) > 400
    assert min(shifts) >= 366
    assert max(shifts) <= 3652
    assert pseudonyms.shifted("P1", 737486) - pseudonyms.shifted("P1", 737480) == 6
    assert pseudonyms.shifted("P1", None) is None
    assert "secret" not in repr(pseudonyms).replace("Pseudonyms", "")
