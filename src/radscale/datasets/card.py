"""What a dataset holds, counted for its card (paper, section 4): shares, exclusions, de-identification. No image is read.

Counts below `SMALLEST_CELL` are not told: a card is made to be shown, and a group of three people may be known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.compute as pc

from radscale.datasets.dataset import Dataset
from radscale.datasets.dataset_tables import OTHER_YEARS
from radscale.datasets.exclusions import REASONS
from radscale.datasets.manifest import rank_column
from radscale.datasets.patient_groups import SMALLEST_CELL
from radscale.datasets.splits import SPLITS

NUM_VALUES = 15
"""Values of a column that have a row of their own; the others are one row."""
AGE_GROUPS = ("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90 and older")
OF_IMAGES = (
    ("View", "view"),
    ("Who says the view", "view_source"),
    ("View position", "view_position"),
    ("Scanner manufacturer", "manufacturer"),
    ("Care setting", "care_setting"),
    ("Ethnicity", "ethnicity"),
    ("Department", "department"),
)


@dataclass(frozen=True)
class Counted:
    """One table of the card."""

    title: str
    rows: list[tuple[str, int | None]]
    """What, and how many; None: kept back, as it or what would follow from it is fewer than `SMALLEST_CELL`."""
    total: int
    """That shares are of."""
    note: str = ""


@dataclass(frozen=True)
class Card:
    """Everything that stands on the card."""

    name: str
    licence: str
    """As its owner states it; empty: not stated."""
    totals: list[tuple[str, str]]
    counted: list[Counted]
    flow: list[tuple[str, int]]
    """Reasons of exclusion in words, by their number; not small cells: they count files, not people."""
    inputs: int
    deidentification: list[tuple[str, str]]
    tables: dict[str, str]
    """SHA-256 by file name."""


def describe_dataset(path: Path, *, licence: str = "") -> Card:
    """Count what the card says.

    Args:
        path: folder of the dataset.
        licence: of the dataset, as an SPDX name, address or sentence.

    Raises:
        InputError: no dataset there, or a damaged one.
    """
    dataset = Dataset(path)
    counts, known = dataset.settings["counts"], set(dataset.column_names)
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false")
        images = database.read_parquet(str(path / "manifest.parquet"))
        counted = [_splits(images), *(_of_column(images, title, column) for title, column in OF_IMAGES if column in known)]
        counted += [_sexes(images), _ages(images), _years(counts.get("years", {})), _visits(images), _subsets(dataset)]
        counted += _labels(database, path)
        days = images.aggregate("max(study_day)").fetchall()[0][0]
    return Card(
        name=path.resolve().name,
        licence=licence,
        totals=_totals(dataset, counts, days),
        counted=[table for table in counted if table.rows],
        flow=sorted(((REASONS[name], number) for name, number in counts["excluded"].items()), key=lambda row: -row[1]),
        inputs=counts["inputs"],
        deidentification=_deidentification(dataset, counts),
        tables=dict(dataset.settings.get("tables", {})),
    )


def told(count: int) -> int | None:
    """The count, or None for a group so small that its people may be known."""
    return None if 0 < count < SMALLEST_CELL else count


def told_parts(rows: Sequence[tuple[str, int]]) -> list[tuple[str, int | None]]:
    """Counts of parts whose sum is told too: so many are kept back that no small one follows from the others."""
    hidden = {place for place, (_, count) in enumerate(rows) if told(count) is None}
    others = sorted((count, place) for place, (_, count) in enumerate(rows) if count and place not in hidden)
    while hidden and others and (len(hidden) < 2 or sum(rows[place][1] for place in hidden) < SMALLEST_CELL):
        hidden.add(others.pop(0)[1])
    return [(name, None if place in hidden else count) for place, (name, count) in enumerate(rows)]


def _totals(dataset: Dataset, counts: dict[str, Any], days: int | None) -> list[tuple[str, str]]:
    links = counts.get("links", {})
    longest = int(np.maximum(*dataset.sizes_px()).max())
    rows = [
        ("images", f"{len(dataset):,}"),
        ("patients", f"{counts['patients']:,}"),
        ("studies", f"{counts['studies']:,}"),
        ("reports", f"{counts.get('reports', 0):,}"),
        ("frontal images with a lateral one of the same study", f"{links['with_lateral']:,}" if links else ""),
        ("frontal images with an earlier frontal one", f"{links['with_prior']:,}" if links else ""),
        ("longest time between studies of a patient", f"{days / 365.25:.1f} years" if days else ""),
        ("pixels", f"8-bit grey, shorter side {dataset.settings['image_size_px']}, longer side up to {longest}"),
        ("bytes of images", f"{pc.sum(dataset.column('size_bytes')).as_py() / 1e9:,.2f} GB"),
    ]
    return [row for row in rows if row[1]]


def _of_column(images: duckdb.DuckDBPyRelation, title: str, column: str) -> Counted:
    query = f"coalesce(nullif({column}, ''), 'not stated') AS value, count(*) AS number"
    rows = images.aggregate(query, "value").order("number DESC, value").fetchall()
    total = sum(number for _, number in rows)
    if [value for value, _ in rows] == ["not stated"]:
        return Counted(title, [], total)
    shown = [(str(value), int(number)) for value, number in rows[:NUM_VALUES]]
    others = sum(number for _, number in rows[NUM_VALUES:])
    return Counted(title, told_parts([*shown, *([(f"{len(rows) - NUM_VALUES} others", others)] if others else [])]), total)


def _splits(images: duckdb.DuckDBPyRelation) -> Counted:
    rows = images.aggregate("split, count(*) AS images, count(DISTINCT patient_id) AS patients", "split").fetchall()
    rows = sorted(rows, key=lambda row: (*SPLITS, row[0]).index(row[0]))
    note = ", ".join(f"{split}: {patients:,}" for split, _, patients in rows)
    return Counted("Split", [(split, number) for split, number, _ in rows], sum(row[1] for row in rows), f"Patients: {note}.")


def _sexes(images: duckdb.DuckDBPyRelation) -> Counted:
    rows = images.aggregate("coalesce(sex, 'not stated') AS sex, count(DISTINCT patient_id) AS number", "sex")
    words = {"F": "female", "M": "male", "O": "other"}
    found = [(words.get(sex, sex), number) for sex, number in rows.order("number DESC, sex").fetchall()]
    if [sex for sex, _ in found] == ["not stated"]:
        return Counted("Sex of patients", [], 0)
    return Counted("Sex of patients", told_parts(found), sum(number for _, number in found))


def _ages(images: duckdb.DuckDBPyRelation) -> Counted:
    rows = dict(
        images.filter("age_years IS NOT NULL").aggregate("age_years // 10 AS decade, count(*) AS n", "decade").fetchall()
    )
    total = sum(rows.values())
    known = told_parts([(name, rows.get(decade, 0)) for decade, name in enumerate(AGE_GROUPS)])
    return Counted("Age at the study, images", known if total else [], total, "Ages of 90 and more are one group.")


def _years(years: Mapping[str, int]) -> Counted:
    known = sorted(int(year) for year in years if year != OTHER_YEARS)
    named = map(str, range(known[0], known[-1] + 1)) if known else []
    rows = told_parts([(year, years.get(year, 0)) for year in [*named, *([OTHER_YEARS] if OTHER_YEARS in years else [])]])
    return Counted(
        "Year of the study, studies", rows, sum(years.values()), "True years, counted by the ingest; no table holds them."
    )


def _visits(images: duckdb.DuckDBPyRelation) -> Counted:
    studies = images.aggregate("patient_id, count(DISTINCT study_id) AS studies", "patient_id")
    query = "CASE WHEN studies < 5 THEN studies::VARCHAR WHEN studies < 10 THEN '5 to 9' ELSE '10 and more' END AS group_name"
    rows = dict(studies.aggregate(f"{query}, count(*) AS n", "group_name").fetchall())
    names = ["1", "2", "3", "4", "5 to 9", "10 and more"]
    return Counted("Studies of a patient", told_parts([(name, rows.get(name, 0)) for name in names]), sum(rows.values()))


def _subsets(dataset: Dataset) -> Counted:
    rows: list[tuple[str, int | None]] = [(rank_column(number), dataset.num_train) for number in range(dataset.num_replicates)]
    note = "Orders of the training images by patient; a subset is a prefix of one, so that subsets are strictly nested."
    return Counted("Replicates of nested subsets", rows, dataset.num_train, note)


def _labels(database: duckdb.DuckDBPyConnection, path: Path) -> list[Counted]:
    """Positive statements of the labels that came with the images, by engine."""
    if not (path / "labels.parquet").exists():
        return []
    table = database.read_parquet(str(path / "labels.parquet"))
    tables = []
    for (engine,) in table.project("engine").distinct().order("engine").fetchall():
        own = table.filter(f"engine = {_quoted(engine)}")
        query = "task, count(*) FILTER (state = 'positive') AS positive"
        rows = own.aggregate(query, "task").order("positive DESC, task").fetchall()
        (total,) = own.aggregate("count(DISTINCT id)").fetchall()[0]
        note = "Studies or images in which it is stated to be present."
        # Findings of one column exclude each other: the last of them would follow from the others.
        shown = told_parts([(task.replace("_", " "), positive) for task, positive in rows])
        tables.append(Counted(f"Labels ({engine})", shown, total, note))
    return tables


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _deidentification(dataset: Dataset, counts: dict[str, Any]) -> list[tuple[str, str]]:
    """What was done, with the options of DICOM PS3.15, Annex E."""
    columns = set(dataset.column_names)
    rows = [
        ("fields", "only those of the manifest were copied, by name (allow-list); no DICOM header and no private tag is kept"),
        ("ids", "HMAC-SHA256 with a key that is not in the dataset: PS3.15, E.1.1, UIDs and names replaced"),
        ("age", "in years; 90 stands for 90 and older"),
    ]
    if "shifted_day" in columns and pc.count(dataset.column("shifted_day")).as_py():
        rows.append(("dates", "moved back by 366 to 3,652 days that depend on the patient: intervals are true (option 113107)"))
    scrubbed = counts.get("scrubbed", {})
    if counts.get("reports"):
        found = ", ".join(f"{name} {number:,}" for name, number in sorted(scrubbed.items()))
        rows.append(("reports", f"identifiers replaced by their kind: {found or 'none were found'} (option 113105)"))
    rows += _pixels(dataset, counts)
    return rows


def _pixels(dataset: Dataset, counts: dict[str, Any]) -> list[tuple[str, str]]:
    """What was painted over in the images, and who has looked at them."""
    config, boxes, total = dataset.settings["config"], counts.get("white_boxes", {}), len(dataset)
    text, faces = "was not looked for: look at the images before they are shared", "were not looked for"
    if config.get("burned_in_text") == "mask":
        places = f"; places of known devices in {boxes['place']:,}" if boxes.get("place") else ""
        text = f"white boxes in {boxes.get('text', 0):,} of {total:,} images{places} (option 113101; what it finds is measured)"
    if config.get("faces") == "mask":
        faces = f"white boxes in {boxes.get('face', 0):,} lateral images; images of a skull or face left out (option 113102)"
    seen = "by nobody since files were added last"
    if (review := dataset.review) is not None:
        seen = (
            f"{review['seen']:,} images by {review['reviewer']} on {review['date']}, {review['rejected']:,} rejected: at most "
            f"{review['at_most']:.2%} of the others show who the patient is (95 %)"
        )
    return [("text in pixels", text), ("faces", faces), ("reviewed", seen)]


def contact_sheet_rows(dataset: Dataset, number: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of randomly drawn images by view, in an order that depends on the seed only."""
    codes, words = dataset.words("view")
    rng = np.random.default_rng(seed)
    return {word: rng.permutation(np.flatnonzero(codes == code))[:number] for code, word in enumerate(words)}
