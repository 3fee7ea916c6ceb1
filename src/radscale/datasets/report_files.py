"""Reports as hospitals export them: CSV, Parquet, JSON lines, or a folder of text files and HL7 v2 messages.

All are read one after the other, never as a whole: an export of millions of reports is larger than memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from radscale.datasets.decoded import SECTIONS
from radscale.datasets.files import walk_files
from radscale.datasets.hl7 import decode_hl7, parse_hl7
from radscale.datasets.tables import open_csv
from radscale.errors import InputError

HL7_SUFFIXES = (".hl7", ".oru")
TEXT_SUFFIXES = (".txt",)
ROLES = ("accession_number", "patient_id", "time", "care_setting", "report", *SECTIONS)


@dataclass(frozen=True)
class Report:
    """One report, as received."""

    accession: str
    patient: str | None
    """None: nothing says whose it is; empty: it should, and does not."""
    time: str
    care_setting: str
    texts: Mapping[str, str]
    """`text` and the sections."""
    names: tuple[str, ...] = ()
    """Of persons and numbers that came with it, only to be scrubbed."""


@dataclass
class ReportFile:
    """A source of reports that can be read from its beginning as often as needed."""

    read: Callable[[], Iterator[Report]]
    encoding: str = ""
    skipped: dict[str, int] = field(default_factory=dict)


def open_reports(path: Path, columns: Mapping[str, str], encoding: str | None = None) -> ReportFile:
    """Look at a table or folder of reports.

    Args:
        path: .csv (comma, semicolon or tab; may be gzipped), .parquet, .jsonl or .ndjson; or a folder of .txt files, each named
            by its accession number, and of .hl7 files.
        columns: roles (`ROLES`) to column names; accession_number or patient_id and time, and report.
        encoding: of a CSV file; None finds it.

    Raises:
        InputError: columns that are not there, or a file of another kind.
    """
    unknown = [role for role in columns if role not in ROLES]
    if unknown:
        raise InputError(f"report_columns: '{unknown[0]}' is no role; allowed: {', '.join(ROLES)}")
    if path.is_dir():
        return ReportFile(lambda: _of_folder(path))
    if path.suffix.lower() == ".parquet":
        try:
            found = pq.read_schema(path).names
        except pa.ArrowInvalid:
            raise InputError(f"{path.name}: not a Parquet file; correct `reports`") from None
        _require(columns, found, path.name)
        return ReportFile(lambda: (_report(row, columns) for row in _of_parquet(path, list(columns.values()))))
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        first = next(_of_json_lines(path), {})
        _require({role: columns[role] for role in ("report",) if role in columns}, list(first), path.name)
        return ReportFile(lambda: (_report(row, columns) for row in _of_json_lines(path)))
    if path.suffix.lower() in HL7_SUFFIXES:
        return ReportFile(lambda: _of_hl7(path))
    table = open_csv(path, encoding)
    _require(columns, table.columns, path.name)
    return ReportFile(lambda: (_report(row, columns) for row in open_csv(path, encoding).rows()), table.encoding)


def _require(columns: Mapping[str, str], found: list[str], name: str) -> None:
    for column in columns.values():
        if column not in found:
            raise InputError(f"{name}: no column '{column}'; found {', '.join(found)}; name the right one in `report_columns`")


def _report(row: Mapping[str, str], columns: Mapping[str, str]) -> Report:
    def value(role: str, default: str = "") -> str:
        return row.get(columns.get(role, default), "") or ""

    patient = value("patient_id").strip() if "patient_id" in columns else None
    texts = {"text": value("report")} | {name: value(name) for name in SECTIONS}
    return Report(value("accession_number").strip(), patient, value("time"), value("care_setting", "care_setting"), texts)


def _of_parquet(path: Path, columns: list[str]) -> Iterator[dict[str, str]]:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in (*columns, "care_setting")]
        for batch in file.iter_batches(batch_size=4096, columns=names):
            for row in batch.to_pylist():
                yield {name: "" if value is None else str(value) for name, value in row.items()}


def _of_json_lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f"{path.name}, line {number}: not a JSON object; one object per report is needed")
                    yield {str(name): "" if value is None else str(value) for name, value in row.items()}
        except json.JSONDecodeError as error:
            # Not the line: it holds a report.
            raise InputError(f"{path.name}, line {number}: not JSON ({error.msg}); one object per line is needed") from None
        except UnicodeDecodeError:
            raise InputError(f"{path.name}: not UTF-8; save it so") from None


def _of_folder(folder: Path) -> Iterator[Report]:
    for name in walk_files(folder):
        path = folder / name
        if path.suffix.lower() in HL7_SUFFIXES:
            yield from _of_hl7(path)
        elif path.suffix.lower() in TEXT_SUFFIXES:
            yield Report(path.stem, None, "", "", {"text": decode_hl7(path.read_bytes())})


def _of_hl7(path: Path) -> Iterator[Report]:
    for found in parse_hl7(decode_hl7(path.read_bytes())):
        texts = {"text": found.text} | {name: "\n".join(lines).strip() for name, lines in found.sections.items()}
        # With an accession number the patient only confirms it; a message without a PID segment confirms nothing.
        yield Report(found.accession, found.patient or None, found.time, "", texts, found.names)
