"""Labels of a whole dataset from its reports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radscale.errors import InputError
from radscale.extraction.findings import extract_findings
from radscale.extraction.lines_and_tubes import extract_lines_and_tubes, study_states
from radscale.extraction.sections import SECTIONS, evidence, split_sections

LABEL_SCHEMA = pa.schema([(name, pa.string()) for name in ("level", "id", "task", "state", "engine")])
SECTION_SCHEMA = pa.schema([("study_id", pa.string()), *((section, pa.string()) for section in SECTIONS)])
DEVICE_SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("entry", pa.int32()),
        *((name, pa.string()) for name in ("type", "side", "tip", "placement")),
        ("removed", pa.bool_()),
        ("sentence", pa.string()),
        ("engine", pa.string()),
    ]
)
_SCHEMAS = {"labels": LABEL_SCHEMA, "sections": SECTION_SCHEMA, "lines_and_tubes": DEVICE_SCHEMA}
_STATES = {1: "positive", 0: "negative", "uncertain": "uncertain"}
_OWN_SECTIONS = ("indication", "comparison", "findings", "impression")
_BATCH_SIZE = 2048


def run_extraction(dataset: Path, out: Path, *, progress: Callable[[int, int, str], None] | None = None) -> dict[str, int]:
    """Read DATASET/reports.parquet and write labels.parquet, sections.parquet and lines_and_tubes.parquet to `out`.

    Section columns are used where a report has findings or an impression in them; else its text is split. Tasks of the label
    table are the 19 findings, "no_finding", the ten types and "NT" (no tubes), at level "study" by engine "rules". Reports are
    read and written in batches in their order, so memory does not grow with the dataset and equal reports give equal bytes.

    Args:
        dataset: folder of a dataset (docs/data_format.md).
        out: folder to write to; made if it is absent.
        progress: called with (reports done, reports in total, what).

    Returns:
        Counts: num_reports, num_empty_reports, num_statements, num_devices.

    Raises:
        InputError: no reports.parquet, or it lacks a column.
    """
    path = Path(dataset) / "reports.parquet"
    reports = _open_reports(path)
    total = reports.metadata.num_rows
    counts = {"num_reports": 0, "num_empty_reports": 0, "num_statements": 0, "num_devices": 0}
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    partial = {name: out / f".{name}.parquet.partial" for name in _SCHEMAS}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(partial[name], _SCHEMAS[name], compression="zstd")) for name in _SCHEMAS
        }
        for batch in _batches(reports):
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _SCHEMAS}
            for report in batch:
                _extract_report(report, rows)
            for name, writer in writers.items():
                writer.write_table(pa.Table.from_pylist(rows[name], schema=_SCHEMAS[name]))
            counts["num_reports"] += len(batch)
            counts["num_empty_reports"] += sum(not evidence(section) for section in rows["sections"])
            counts["num_statements"] += len(rows["labels"])
            counts["num_devices"] += len(rows["lines_and_tubes"])
            if progress is not None:
                progress(counts["num_reports"], total, "reports")
    for name, file in partial.items():
        file.replace(out / f"{name}.parquet")
    return counts


def study_labels(sections: dict[str, str]) -> dict[str, str]:
    """Task -> state ("positive", "negative", "uncertain") of one report; what is not mentioned is left out."""
    findings = extract_findings(sections)
    states = {task: _STATES[value] for task, value in findings.items() if value in _STATES}
    return states | study_states(evidence(sections))


def _open_reports(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise InputError(f"{path}: not found; labels are extracted from a dataset's reports: ingest it with reports first")
    try:
        reports = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file ({error}); ingest the dataset again") from error
    missing = [column for column in ("study_id", "text") if column not in reports.schema_arrow.names]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; see docs/data_format.md, reports.parquet")
    return reports


def _batches(reports: pq.ParquetFile) -> Iterator[list[dict[str, Any]]]:
    columns = [name for name in ("study_id", "text", *_OWN_SECTIONS) if name in reports.schema_arrow.names]
    for batch in reports.iter_batches(batch_size=_BATCH_SIZE, columns=columns):
        yield batch.to_pylist()


def _extract_report(report: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
    study_id, sections = report["study_id"], _sections(report)
    rows["sections"].append({"study_id": study_id, **sections})
    for task, state in study_labels(sections).items():
        rows["labels"].append({"level": "study", "id": study_id, "task": task, "state": state, "engine": "rules"})
    for index, entry in enumerate(extract_lines_and_tubes(sections)):
        rows["lines_and_tubes"].append({"study_id": study_id, "entry": index, **entry})


def _sections(report: dict[str, Any]) -> dict[str, str]:
    own = {name: report.get(name) or "" for name in _OWN_SECTIONS}
    if own["findings"].strip() or own["impression"].strip():
        return dict.fromkeys(SECTIONS, "") | own
    return split_sections(report["text"] or "")
