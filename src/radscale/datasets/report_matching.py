"""Give each report its study: by accession number, or else by patient and time. In DuckDB: both sides have millions of rows.

A report that several patients could claim is nobody's. Names in the queries: `images` are the rows of this ingest, `reports`
the keys of the reports, `known` what earlier ingests brought.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from radscale.datasets.decoded import CARE_SETTINGS, SECTIONS
from radscale.datasets.deidentification import Pseudonyms, parse_moment
from radscale.datasets.journal import Journal, write_durably
from radscale.datasets.manifest import REPORTS_SCHEMA, UNMATCHED_SCHEMA
from radscale.datasets.report_files import Report
from radscale.datasets.report_scrubbing import scrub_report
from radscale.datasets.workers import ordered_map

TEXTS = ("text", *SECTIONS)
BATCH = 4096
MEMORY_LIMIT = "1GB"
STAGED_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("accession_id", pa.string()),
        ("patient_id", pa.string()),
        ("day", pa.int32()),
        ("second", pa.int32()),
        ("care_setting", pa.string()),
        ("names", pa.list_(pa.string())),
        *((name, pa.string()) for name in TEXTS),
    ]
)


def connect(work: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory that puts what does not fit into `MEMORY_LIMIT` below `work`."""
    work.mkdir(parents=True, exist_ok=True)
    database = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(work / "duckdb")})
    database.execute("SET enable_progress_bar = false")
    return database


def view_images(database: duckdb.DuckDBPyConnection, journal: Journal) -> None:
    """Make the view `images` of a journal's rows that are images; `part` and `place` are their order."""
    files = [str(path) for path in journal.files]
    relation = database.read_parquet(files, file_row_number=True, filename=True)
    relation.filter("reason IS NULL").project(
        "accession_id, study_id, patient_id, shifted_day, study_second, names, file_row_number AS place, filename AS part"
    ).create_view("images")


def stage_reports(reports: Iterable[Report], pseudonyms: Pseudonyms, work: Path) -> int:
    """Write reports with pseudonymous keys into parts below `work`, readable by their owner; returns unknown care settings.

    A patient is null where the source says nothing about it, and empty where it should.
    """
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    unknown, rows, part = 0, [], 0
    for number, report in enumerate(reports):
        day, second = parse_moment(report.time)
        setting = report.care_setting.strip().lower()
        unknown += bool(setting) and setting not in CARE_SETTINGS
        known = bool(report.patient)
        rows.append(
            {
                "number": number,
                "source": pseudonyms("report", report.accession or f"{report.patient}\0{report.time}\0{number}"),
                "accession_id": pseudonyms("accession", report.accession) if report.accession else None,
                "patient_id": pseudonyms("patient", report.patient) if report.patient else report.patient,
                "day": pseudonyms.shifted(report.patient or "", day) if known else None,
                "second": second,
                "care_setting": setting if setting in CARE_SETTINGS else None,
                # Its own numbers too, of which the header may know only other forms.
                "names": [*report.names, *(value for value in (report.accession, report.patient) if value and len(value) > 3)],
                **{name: report.texts.get(name, "") for name in TEXTS},
            }
        )
        if len(rows) == BATCH:
            write_durably(work / f"{part:06d}.parquet", pa.Table.from_pylist(rows, STAGED_SCHEMA))
            rows, part = [], part + 1
    write_durably(work / f"{part:06d}.parquet", pa.Table.from_pylist(rows, STAGED_SCHEMA))
    return unknown


def match_reports(
    database: duckdb.DuckDBPyConnection,
    staged: Path,
    window_hours: float,
    known_reports: Path | None,
    known_images: Path | None,
) -> None:
    """Make the tables `matches` (number, study_id, patient_id, care_setting) and `unmatched` (number, source, reason).

    Reasons: no_key (neither an accession number nor patient and time), no_image, other_patient, several_patients,
    several_studies (at one distance in time), earlier_ingest (of a study that came without a report in an earlier ingest), and
    no_text. A study that has its report from an earlier ingest keeps it.

    Args:
        database: with the view `images`.
        staged: folder of `stage_reports`.
        window_hours: how far a report may be from its study in time.
        known_reports: of the dataset that is added to, or None.
        known_images: its manifest, or None.
    """
    columns = "number, source, accession_id, patient_id, day, second, care_setting, text = '' AND "
    columns += " AND ".join(f"{name} = ''" for name in SECTIONS) + " AS is_empty"
    database.execute(
        f"CREATE TABLE reports AS SELECT {columns} FROM read_parquet(?) ORDER BY number", [str(staged / "*.parquet")]
    )
    if known_images is None or known_reports is None:
        database.execute("CREATE TABLE known (accession_id VARCHAR, study_id VARCHAR, has_report BOOLEAN)")
    else:
        database.execute(
            """
            CREATE TABLE known AS SELECT DISTINCT accession_id, study_id, study_id IN (SELECT study_id FROM read_parquet(?))
                AS has_report FROM read_parquet(?)
            """,
            [str(known_reports), str(known_images)],
        )
    database.execute(
        """
        CREATE TABLE studies AS
            SELECT study_id, patient_id, accession_id, min(shifted_day) AS day, min(study_second) AS second
            FROM images GROUP BY ALL;
        CREATE TABLE by_accession AS
            SELECT r.number, s.study_id, s.patient_id, r.patient_id IS NULL OR r.patient_id = s.patient_id AS agrees
            FROM reports r JOIN studies s USING (accession_id);
        """
    )
    # Where either time of day is missing only the days are compared.
    database.execute(
        """
        CREATE TABLE by_time AS
        WITH pairs AS (
            SELECT DISTINCT r.number, s.study_id, s.patient_id,
                abs(CASE WHEN r.second IS NULL OR s.second IS NULL THEN (r.day - s.day) * 86400
                    ELSE (r.day - s.day) * 86400 + r.second - s.second END) AS distance
            FROM reports r JOIN studies s USING (patient_id)
            WHERE r.accession_id IS NULL AND r.day IS NOT NULL AND s.day IS NOT NULL
        )
        SELECT number, study_id, patient_id FROM pairs WHERE distance <= ?
        QUALIFY distance = min(distance) OVER (PARTITION BY number)
        """,
        [window_hours * 3600],
    )
    database.execute(
        """
        CREATE TABLE claims AS
        SELECT number, count(DISTINCT patient_id) FILTER (agrees) AS patients, 1 AS studies, count(*) AS found
            FROM by_accession GROUP BY number
        UNION ALL
        SELECT number, 1, count(DISTINCT study_id), count(*) FROM by_time GROUP BY number;

        CREATE TABLE verdicts AS
        SELECT r.number, r.source, r.care_setting, CASE
            WHEN r.is_empty THEN 'no_text'
            WHEN c.patients = 1 AND c.studies = 1 THEN NULL
            WHEN c.patients > 1 THEN 'several_patients'
            WHEN c.studies > 1 THEN 'several_studies'
            WHEN c.found > 0 THEN 'other_patient'
            WHEN r.accession_id IN (SELECT accession_id FROM known WHERE has_report) THEN 'in_already'
            WHEN r.accession_id IN (SELECT accession_id FROM known) THEN 'earlier_ingest'
            WHEN r.accession_id IS NULL AND (r.day IS NULL OR r.patient_id IS NULL) THEN 'no_key'
            ELSE 'no_image' END AS reason
        FROM reports r LEFT JOIN claims c USING (number);

        CREATE TABLE matches AS
        SELECT DISTINCT v.number, m.study_id, m.patient_id, v.care_setting FROM verdicts v JOIN (
            SELECT number, study_id, patient_id FROM by_accession WHERE agrees UNION ALL FROM by_time
        ) m USING (number)
        WHERE v.reason IS NULL AND m.study_id NOT IN (SELECT study_id FROM known WHERE has_report);

        CREATE TABLE unmatched AS
        SELECT number, source, reason FROM verdicts WHERE reason IS NOT NULL AND reason <> 'in_already' ORDER BY number;
        """
    )


def unmatched_table(database: duckdb.DuckDBPyConnection) -> pa.Table:
    """Which reports are nobody's, and why; names nobody."""
    return pa.table(database.sql("SELECT source, reason FROM unmatched ORDER BY number")).cast(UNMATCHED_SCHEMA)


def care_settings(database: duckdb.DuckDBPyConnection) -> pa.ChunkedArray:
    """Of each image, in the order of the ingest: what the last of its study's reports says. `images` has part and place."""
    found = database.sql(
        """
        WITH settings AS (SELECT study_id, arg_max(care_setting, number) AS setting FROM matches GROUP BY study_id)
        SELECT setting FROM images LEFT JOIN settings USING (study_id) ORDER BY part, place
        """
    )
    return pa.table(found)["setting"].cast(pa.string())


def joined_reports(
    database: duckdb.DuckDBPyConnection, staged: Path, num_workers: int, scrubbed_kinds: Counter[str]
) -> Iterator[pa.Table]:
    """Rows of `reports.parquet`, scrubbed, in the order of the reports.

    Several reports of a study are its report and what was added later: all of it, once, in their order.
    What was scrubbed is added to `scrubbed_kinds`.
    """
    texts = ", ".join(f"t.{name}" for name in TEXTS)
    query = f"""
        WITH names AS (
            SELECT patient_id, list_sort(list_distinct(flatten(list(names)))) AS names FROM images
            WHERE patient_id IN (SELECT patient_id FROM matches) GROUP BY patient_id
        ), firsts AS (SELECT study_id, min(number) AS first FROM matches GROUP BY study_id)
        SELECT m.study_id, m.patient_id, n.names AS patient_names, t.names AS report_names, {texts}
        FROM matches m JOIN firsts USING (study_id) JOIN read_parquet(?) t USING (number)
            LEFT JOIN names n ON n.patient_id = m.patient_id
        ORDER BY firsts.first, m.study_id, m.number
    """
    reader = pa.RecordBatchReader.from_stream(database.sql(query, params=[str(staged / "*.parquet")]))
    scrubbed = ordered_map(_scrub, (batch.to_pylist() for batch in reader), num_workers=num_workers, on_failure=_not_scrubbed)
    rows = (row for batch, found in scrubbed if scrubbed_kinds.update(found) is None for row in batch)
    out: list[dict[str, Any]] = []
    for (study, patient), group in groupby(rows, key=lambda row: (row["study_id"], row["patient_id"])):
        found = list(group)
        parts = {name: "\n\n".join(filter(None, dict.fromkeys(row[name] for row in found))) for name in TEXTS}
        out.append({"study_id": study, "patient_id": patient, **parts})
        if len(out) == BATCH:
            yield pa.Table.from_pylist(out, REPORTS_SCHEMA)
            out = []
    if out:
        yield pa.Table.from_pylist(out, REPORTS_SCHEMA)


def _scrub(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
    done, total = [], Counter[str]()
    for row in rows:
        known = (*(row["patient_names"] or ()), *(row["report_names"] or ()))
        clean = {"study_id": row["study_id"], "patient_id": row["patient_id"]}
        for name in TEXTS:
            clean[name], found = scrub_report(row[name], known)
            total += found
        done.append(clean)
    return done, total


def _not_scrubbed(rows: list[dict[str, Any]], failure: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    raise RuntimeError(f"scrubbing {len(rows):,} reports: the worker {failure}")


def count_reasons(table: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(table["reason"].to_pylist()).items()))
