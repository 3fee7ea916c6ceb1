"""The tables of a dataset from the rows of its inputs: splits, ranks and days, which are known only when all images are.

Tables are read and written a part at a time; what is held of every image is some 50 bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets.ingest_config import IngestConfig
from radscale.datasets.journal import Journal, write_durably
from radscale.datasets.manifest import EXCLUSIONS_SCHEMA, MASK_SCHEMA, OFFICIAL_SPLITS_SCHEMA, manifest_schema, rank_column
from radscale.datasets.patient_groups import SMALLEST_CELL
from radscale.datasets.splits import SPLITS, split_patients
from radscale.datasets.subsets import STRATA, patient_codes, ranks_of_codes, strata_of

OTHER_YEARS = "others"
RETRIED = ("unreadable", "missing_file", "hung", "crashed")
"""Exclusions that a later ingest tries again: a file may have been still on its way, or a machine short of memory."""


def images_of(table: pa.Table) -> pa.Table:
    """The rows of a journal that are images."""
    return table.filter(pc.is_null(table["reason"]))


def write_parts(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write a table part by part; returns its rows."""
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            if part.num_rows:
                for field in schema:
                    if field.name not in part.column_names:  # of a dataset that an older radscale made
                        part = part.append_column(field, pa.nulls(part.num_rows, field.type))
                writer.write_table(part.select(schema.names).cast(schema))
                count += part.num_rows
    return count


def old_parts(path: Path | None) -> Iterator[pa.Table]:
    """A table of the dataset that is added to, part by part; none if there is none."""
    if path is not None and path.exists():
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)


def write_manifest(
    path: Path,
    config: IngestConfig,
    journal: Journal,
    old: Path | None,
    batch: int,
    *,
    official: bool,
    settings: pa.ChunkedArray | None,
) -> dict[str, int]:
    """Write the manifest: rows of the dataset that is added to, then those of the journal.

    Args:
        path: of the new manifest.
        config: see `IngestConfig`.
        journal: of this ingest.
        old: manifest that is added to.
        batch: number of this ingest.
        official: the images' own parts are the split.
        settings: care setting of each new image; None: the images' own.

    Returns:
        Counts: images, patients, studies.
    """
    columns = _all_columns(journal, old, batch, [STRATA[name] for name in config.stratify_by])
    names, codes = patient_codes(columns["patient_id"])
    days = columns["shifted_day"].to_numpy()  # float with NaN where any is missing
    first = np.full(len(names), np.inf)
    np.fmin.at(first, codes, days)
    with np.errstate(invalid="ignore"):
        study_days = days - first[codes]
    parts = _official_parts(columns) if official else {}
    fractions = (config.train_fraction, config.validation_fraction, config.test_fraction)
    by_patient = split_patients(names, parts, config.split_seed, *fractions)
    splits = np.array([SPLITS.index(by_patient[name]) for name in names], dtype=np.int8)[codes]
    batches = columns["batch"].to_numpy()
    is_train = splits == SPLITS.index("train")
    strata = strata_of(config.stratify_by, columns.column)

    def ranks_of(replicate: int) -> np.ndarray:
        return ranks_of_codes(names, codes, is_train, config.split_seed, replicate, batches, strata).astype(np.int32)

    ranks = {rank_column(replicate): ranks_of(replicate) for replicate in range(config.num_replicates)}

    def rows() -> Iterator[pa.Table]:
        start = 0
        num_old = 0 if settings is None else len(codes) - len(settings)
        for part in old_parts(old):
            yield with_derived(part, start)
            start += part.num_rows
        for table in journal.tables():
            part = images_of(table)
            if settings is not None:
                place = part.schema.get_field_index("care_setting")
                part = part.set_column(place, "care_setting", settings.slice(start - num_old, part.num_rows))
            yield with_derived(part, start)
            start += part.num_rows

    def with_derived(part: pa.Table, start: int) -> pa.Table:
        here = slice(start, start + part.num_rows)
        missing = ~np.isfinite(study_days[here])
        derived = {
            "split": pa.array(np.array(SPLITS)[splits[here]], pa.string()),
            "study_day": pa.array(np.where(missing, 0, study_days[here]).astype(np.int32), mask=missing),
            "batch": pa.array(batches[here]),
            **{name: pa.array(values[here], mask=values[here] < 0) for name, values in ranks.items()},
        }
        kept = [name for name in part.column_names if name not in derived]
        part = part.select(kept)
        for name, values in derived.items():
            part = part.append_column(name, values)
        return part

    count = write_parts(path, rows(), manifest_schema(config.num_replicates))
    return {"images": count, "patients": len(names), "studies": pc.count_distinct(columns["study_id"]).as_py()}


def count_pixels(manifest: Path) -> dict[str, dict[str, int]]:
    """What the pixels said: `views` counts images by who says the view, `white_boxes` those with a white box of each kind."""
    views: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    with pq.ParquetFile(manifest) as file:
        if not {"view_source", "white_boxes"} <= set(file.schema_arrow.names):
            return {}
        for batch in file.iter_batches(columns=["view_source", "white_boxes"]):
            views.update({pair["values"] or "tag": pair["counts"] for pair in batch["view_source"].value_counts().to_pylist()})
            lists = batch["white_boxes"]
            rows, kinds = pc.list_parent_indices(lists), pc.struct_field(pc.list_flatten(lists), "kind")
            boxes.update(pa.table({"row": rows, "kind": kinds}).group_by(["row", "kind"]).aggregate([])["kind"].to_pylist())
    return {"views": dict(sorted(views.items())), "white_boxes": dict(sorted(boxes.items()))}


def count_years(journal: Journal, before: Mapping[str, int]) -> dict[str, int]:
    """Studies by their true year, which no table holds; years of fewer than ten are `others`.

    Args:
        journal: of this ingest.
        before: counts of the ingests before.
    """
    parts = [
        images_of(table).select(["study_id", "study_year"]) for table in journal.tables(["study_id", "study_year", "reason"])
    ]
    studies = pa.concat_tables(parts).group_by("study_id").aggregate([("study_year", "min")])
    years = Counter(before)
    for pair in pc.drop_null(studies["study_year_min"]).value_counts().to_pylist():
        years[str(pair["values"])] += pair["counts"]
    few = [year for year, count in years.items() if year != OTHER_YEARS and count < SMALLEST_CELL]
    if few:
        years[OTHER_YEARS] += sum(years.pop(year) for year in few)
    return dict(sorted(years.items()))


def _all_columns(journal: Journal, old: Path | None, batch: int, others: list[str]) -> pa.Table:
    names = ["patient_id", "study_id", "shifted_day", "part", "batch", *others]
    parts = []
    if old is not None:
        table = pq.read_table(old, columns=[name for name in names if name != "part"])
        parts.append(table.append_column("part", pa.nulls(table.num_rows, pa.string())).select(names))
    for table in journal.tables([*(name for name in names if name != "batch"), "reason"]):
        images = images_of(table)
        parts.append(images.append_column("batch", pa.array(np.full(images.num_rows, batch, np.int32))).select(names))
    return pa.concat_tables(parts)


def _official_parts(columns: pa.Table) -> dict[str, str]:
    pairs = columns.select(["patient_id", "part"]).group_by(["patient_id", "part"]).aggregate([]).to_pydict()
    return dict(zip(pairs["patient_id"], pairs["part"], strict=True))


def write_official_splits(path: Path, journal: Journal) -> None:
    """Table of the published split that was kept."""
    columns = pa.concat_tables([images_of(table) for table in journal.tables(["patient_id", "part", "reason"])])
    rows = [{"patient_id": patient, "part": part} for patient, part in sorted(_official_parts(columns).items())]
    write_durably(path, pa.Table.from_pylist(rows, OFFICIAL_SPLITS_SCHEMA))


def write_exclusions(path: Path, journal: Journal, old: Path | None, batch: int) -> dict[str, int]:
    """Write the exclusions, of which an earlier one goes if its input was tried again. Returns their number by reason."""
    counts: dict[str, int] = {}

    def counted(part: pa.Table) -> pa.Table:
        for pair in part["reason"].value_counts().to_pylist():
            counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        return part

    def rows() -> Iterator[pa.Table]:
        if old is not None:
            tried = pa.concat_tables(list(journal.tables(["source"])))["source"]
            for part in old_parts(old):
                again = pc.and_(pc.is_in(part["source"], tried), pc.is_in(part["reason"], pa.array(RETRIED)))
                yield counted(part.filter(pc.invert(again)))
        for table in journal.tables(["source", "reason", "detail"]):
            part = table.filter(pc.is_valid(table["reason"]))
            yield counted(part.append_column("batch", pa.array(np.full(part.num_rows, batch, np.int32))))

    write_parts(path, rows(), EXCLUSIONS_SCHEMA)
    return dict(sorted(counts.items()))


def write_masks(path: Path, journal: Journal) -> int:
    """Write the masks that came with the images, if there are any; returns how many."""

    def rows() -> Iterator[pa.Table]:
        for table in journal.tables(["sample_id", "masks", "reason"]):
            images = images_of(table)
            lists = images["masks"].combine_chunks()
            found, parents = pc.list_flatten(lists), pc.list_parent_indices(lists)
            columns: Mapping[str, pa.Array] = {
                "sample_id": images["sample_id"].take(parents).combine_chunks(),
                "task": pc.struct_field(found, "task"),
                "png": pc.struct_field(found, "png"),
                "tips": pa.nulls(len(found), MASK_SCHEMA.field("tips").type),
            }
            yield pa.table(columns)

    count = write_parts(path, rows(), MASK_SCHEMA)
    if not count:
        path.unlink()
    return count
