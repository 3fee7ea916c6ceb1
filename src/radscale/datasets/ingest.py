"""From an archive or a folder of images to a de-identified dataset (paper, section 4).

Every input becomes one row, of the manifest or of the exclusions. Workers decode and resize; the parent writes in the order of
the inputs, so the result does not depend on how many workers there are, nor on how often the ingest was killed and repeated.
The steps: list the inputs, decode them into shards and a journal, then make the tables of the journal.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from radscale.datasets import report_matching, resume_state
from radscale.datasets.compact_set import CompactSet
from radscale.datasets.dataset_tables import (
    RETRIED,
    count_pixels,
    count_years,
    images_of,
    old_parts,
    write_exclusions,
    write_manifest,
    write_masks,
    write_official_splits,
    write_parts,
)
from radscale.datasets.decoded import Decoded, LabelRow
from radscale.datasets.deidentification import Pseudonyms
from radscale.datasets.dicom_source import DicomSource
from radscale.datasets.file_hash import sha256_of
from radscale.datasets.image_source import ImageSource, PublicSource, label_tasks
from radscale.datasets.ingest_config import IngestConfig, Progress
from radscale.datasets.journal import Journal
from radscale.datasets.linking import write_links
from radscale.datasets.manifest import JOURNAL_SCHEMA, LABEL_SCHEMA, REPORTS_SCHEMA, SCHEMA_VERSION, SET_ASIDE
from radscale.datasets.pacs import is_address
from radscale.datasets.parts import Part, items_of_parts, part_folder
from radscale.datasets.public import LAYOUTS, layout_hint
from radscale.datasets.ray_workers import ordered_map_on_ray
from radscale.datasets.shards import ShardWriter
from radscale.datasets.workers import ordered_map
from radscale.errors import InputError

__all__ = ["IngestConfig", "Progress", "ingest", "label_tasks"]

FIXED = (
    "kind",
    "image_size_px",
    "voi",
    "burned_in_text",
    "faces",
    "require_review",
    "split_seed",
    "train_fraction",
    "validation_fraction",
    "test_fraction",
    "num_replicates",
    "stratify_by",
)
"""Settings that a dataset has one value of: who adds to it must use the same."""
OF_OLDER = {"burned_in_text": "keep", "faces": "keep", "require_review": False, "stratify_by": []}
"""Those that an older radscale did not have yet, and what it did."""
OF_TABLES = (
    *(
        "train_fraction",
        "validation_fraction",
        "test_fraction",
        "split_seed",
        "num_replicates",
        "official_split",
        "stratify_by",
    ),
    *("reports_csv", "reports", "report_columns", "report_window_hours", "labels_csv", "labels_engine", "labels"),
    *("seconds_per_file", "worker_memory_gb", "pacs_retry_seconds"),
)
"""Settings that no pixel depends on: they may be corrected when an interrupted ingest goes on."""
ARCHIVES = "archives.json"


@dataclass(frozen=True)
class _Old:
    """The dataset that is added to, if there is one."""

    folder: Path
    settings: dict[str, Any] | None
    archives: list[str]
    """Which archive each ingest read, first to last."""

    @property
    def batch(self) -> int:
        """Number of the ingest that is added."""
        return len(self.archives)

    def table(self, name: str) -> Path | None:
        path = self.folder / name
        return path if self.settings is not None and path.exists() else None

    def done_sources(self, archive: str) -> CompactSet:
        """Inputs of this archive that need not be read again."""
        done = CompactSet()
        batches = pa.array([number for number, name in enumerate(self.archives) if name == archive], pa.int32())
        for part in old_parts(self.table("manifest.parquet")):
            done.update(part.filter(pa.compute.is_in(part["batch"], batches))["source"].to_pylist())
        for part in old_parts(self.table("exclusions.parquet")):
            part = part.filter(pa.compute.is_in(part["batch"], batches))
            done.update(
                part.filter(pa.compute.invert(pa.compute.is_in(part["reason"], pa.array(RETRIED))))["source"].to_pylist()
            )
        return done


def ingest(
    config: IngestConfig,
    source: Path | str,
    out: Path,
    *,
    secret: bytes,
    num_workers: int = 1,
    add: bool = False,
    part: Part | None = None,
    backend: Literal["local", "ray"] = "local",
    work: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a dataset into the folder `out`, or add new files to the one that is there.

    Killed at any moment and called again it goes on where it was, at most some seconds back, and ends with the same bytes.
    With `part` only a share of the inputs is decoded, beside other parts, into `work`; called without it afterwards this
    function takes over what all parts have done, and ends with the same bytes again.

    Args:
        config: see `IngestConfig`.
        source: folder, tar or zip file, or DICOMDIR of the archive; address of a PACS (a string that begins with https:// or
            http://, see `Pacs`); or folder of the images.
        out: new or empty folder, or with `add` a dataset. It is whole only when this function has returned.
        secret: key of the pseudonyms; with `add` the one that the dataset was made with.
        num_workers: decoding processes; 0 decodes in this one, which a hostile file may then end or hang.
        part: the share that this call decodes; None: all, and the tables.
        backend: "ray": decode on the cluster of RAY_ADDRESS, where `source` has the same path; `num_workers` 0: all its cores.
        add: add the files that are not in the dataset yet. Patients keep their split; new training images are ranked after the
            old ones. Files of the same archive folder that are in (or excluded for good) are not read again.
        work: folder that survives a kill; None: `.ingest` in `out`.
        progress: called with (inputs done, inputs in all, what).

    Returns:
        Counts: inputs, images, exclusions by reason, patients, studies, links (frontal images, and of them those with a lateral
            one and with a prior), reports, unmatched reports, encoding of the table,
        files that are not read (tables, notes, pictures beside an archive) by suffix, unknown care settings; for a published
        set its layout, masks, and whose split it has. Of a part: inputs of the whole, inputs of the part, images, exclusions.

    Raises:
        InputError: no such archive, nothing in it, a table that does not fit, a folder that holds something else or that
            another ingest is writing into, another key.
    """
    pseudonyms = Pseudonyms(secret)
    if not is_address(source):
        source = Path(source)
    work = work or out / resume_state.WORK
    with resume_state.exclusive(out, shared=part is not None):
        if part is None and resume_state.move_into_place(work, out) and not add:
            return _counts(out)
        old = _open_old(config, out, pseudonyms, add, work)
        with resume_state.exclusive(work, wait=True, mode=0o700):  # of parts that begin together one makes the list of inputs
            reader, archive = _begin(config, source, old, work, pseudonyms, progress)
            facts = resume_state.facts_of(work)
        if not facts["num_inputs"]:
            if part is None:
                resume_state.clear(work)
                work.rmdir()
            if add:
                return _counts(out)
            raise _nothing_to_ingest(config, source, reader)

        def decode(first: int, after: int) -> Iterator[Decoded]:
            return _decoded(config, reader, first, after, num_workers, backend)

        if part is not None:
            return _decode_part(config, *part.inputs(facts["num_inputs"]), work, facts["num_inputs"], decode, progress)
        reader.open_tables()
        journal = Journal(work / "journal", JOURNAL_SCHEMA)
        _decode_all(config, journal, old, work, facts["num_inputs"], decode, progress)
        _write_tables(config, source, reader, journal, old, work, facts["not_read"], pseudonyms, num_workers, archive)
        resume_state.finish(work, out)
        return _counts(out)


def _begin(
    config: IngestConfig, source: Path | str, old: "_Old", work: Path, pseudonyms: Pseudonyms, progress: Progress | None
) -> tuple[DicomSource | ImageSource, str]:
    """List the inputs, or find them listed; what reads them, and the pseudonym of the archive."""
    settings = {
        "source": pseudonyms("archive", source.rstrip("/") if isinstance(source, str) else str(source.resolve())),
        "batch": old.batch,
        **{name: value for name, value in asdict(config).items() if name not in OF_TABLES},
    }
    reader = _source(config, source, pseudonyms, work)
    if isinstance(reader, ImageSource):
        settings["table"] = reader.identity()
    resumed = resume_state.open_work(work, settings, pseudonyms.check)
    done = old.done_sources(settings["source"]) if not resumed or isinstance(reader, ImageSource) else CompactSet()
    if not resumed:
        num_inputs, not_read = reader.prepare(done.__contains__, progress)
        resume_state.begin(work, settings, pseudonyms.check, {"num_inputs": num_inputs, "not_read": not_read})
    elif isinstance(reader, ImageSource):
        reader.prepare(done.__contains__)
    return reader, settings["source"]


def _nothing_to_ingest(config: IngestConfig, source: Path | str, reader: DicomSource | ImageSource) -> InputError:
    if isinstance(source, str):
        return InputError(
            f"{source}: no images of modality {config.pacs_modalities} found; correct the filters (--modalities, --dates)"
        )
    hint = layout_hint(source, LAYOUTS) if config.layout is None else ""
    return InputError(
        f"{source}: no {reader.name_of_inputs} found, so there is nothing to ingest; give the folder of the archive{hint}"
    )


def _counts(dataset: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["counts"]
    return counts


def _open_old(config: IngestConfig, out: Path, pseudonyms: Pseudonyms, add: bool, work: Path) -> _Old:
    """What is in `out`, before anything is written.

    Raises:
        InputError: something else than the call says, another key, or settings that a dataset has one value of.
    """
    settings = resume_state.read_json(out / "dataset.json")
    if settings is None:
        if add:
            raise InputError(f"{out}: no dataset to add to (dataset.json is missing); ingest without adding first")
        others = [path.name for path in out.iterdir() if path != work]
        if others:
            raise InputError(f"{out}: holds other things than an ingest's ({len(others)}); choose a new or empty folder")
        return _Old(out, None, [])
    if not add:
        raise InputError(f"{out}: is a dataset already; choose a new folder, or add the new files with `--add`")
    archives = resume_state.read_json(out / ARCHIVES)
    if archives is None or "secret_check" not in settings:
        raise InputError(f"{out}: made by an older radscale, which kept no list of its inputs; ingest all of it again")
    if settings["secret_check"] != pseudonyms.check:
        raise InputError(
            f"{out}: made with another secret, with which its patients would get other pseudonyms and splits; give the key "
            "that it was made with. Nothing was written"
        )
    if config.layout is not None:
        raise InputError(f"{out}: a published set (layout {config.layout}) is ingested whole; files cannot be added to it")
    for name in FIXED:
        given, held = getattr(config, name), settings["config"].get(name, OF_OLDER.get(name))
        if given != held:
            raise InputError(f"{name} is {given}, but {out} was made with {held}; add with the same value")
    return _Old(out, settings, archives)


def _source(config: IngestConfig, source: Path | str, pseudonyms: Pseudonyms, work: Path) -> DicomSource | ImageSource:
    if config.kind == "dicom":
        return DicomSource(config, source, pseudonyms, work)
    if isinstance(source, str):
        raise InputError(f"{source}: a PACS gives DICOM files; leave kind and layout out")
    return (ImageSource if config.layout is None else PublicSource)(config, source, pseudonyms)


def _decoded(
    config: IngestConfig,
    reader: DicomSource | ImageSource,
    first: int,
    after: int,
    num_workers: int,
    backend: Literal["local", "ray"],
) -> Iterator[Decoded]:
    """The inputs from `first` to before `after`, by workers here or of a cluster."""
    options: dict[str, Any] = {
        "on_failure": reader.failed,
        "seconds_per_input": config.seconds_per_file + reader.patience_seconds,
        "memory_bytes": int(config.worker_memory_gb * 2**30),
    }
    inputs = islice(reader.inputs(first), after - first)
    if backend == "ray":
        return ordered_map_on_ray(reader.decode, inputs, num_workers=num_workers or None, **options)
    return ordered_map(reader.decode, inputs, num_workers=num_workers, preload=__name__, **options)


def _decode_all(
    config: IngestConfig,
    journal: Journal,
    old: _Old,
    work: Path,
    num_inputs: int,
    decode: Callable[[int, int], Iterator[Decoded]],
    progress: Progress | None,
) -> None:
    """Decode the inputs that have no row yet, or take them from the parts that have."""
    seen = CompactSet()
    for name in ("manifest.parquet", SET_ASIDE):
        for part in old_parts(old.table(name)):
            seen.update(part["sha256"].to_pylist())
            seen.update(part["sample_id"].to_pylist())
    for table in journal.tables(["sha256", "sample_id", "reason"]):
        images = images_of(table)
        seen.update(images["sha256"].to_pylist())
        seen.update(images["sample_id"].to_pylist())
    first = len(list((old.folder / resume_state.SHARDS).glob("*.tar"))) if old.settings is not None else 0

    def unique() -> Iterator[Decoded]:
        for item in items_of_parts(work, journal.num_rows, num_inputs, decode):
            if item.excluded is None and item.sha256 in seen:
                item.excluded = ("duplicate", "same pixels as an image before it")
            if item.excluded is None and item.fields["sample_id"] in seen:
                item.excluded = ("duplicate", "same SOP Instance UID (0008,0018) as an image before it, with other pixels")
            if item.excluded is None:
                seen.update((item.sha256, item.fields["sample_id"]))
            yield item

    _write_items(config, unique(), journal, work, num_inputs, progress, first)


def _decode_part(
    config: IngestConfig,
    first: int,
    after: int,
    work: Path,
    num_inputs: int,
    decode: Callable[[int, int], Iterator[Decoded]],
    progress: Progress | None,
) -> dict[str, Any]:
    """Decode one share of the inputs into its own folder; what is a duplicate is known only when all are together."""
    folder = part_folder(work, first, after)
    with resume_state.exclusive(folder, mode=0o700):
        journal = Journal(folder / "journal", JOURNAL_SCHEMA)
        _write_items(config, decode(first + journal.num_rows, after), journal, folder, after - first, progress)
        reasons = Counter(reason for table in journal.tables(["reason"]) for reason in table["reason"].to_pylist())
    images = reasons.pop(None, 0)
    return {"inputs": num_inputs, "inputs_of_part": after - first, "images": images, "excluded": dict(sorted(reasons.items()))}


def _write_items(
    config: IngestConfig,
    items: Iterator[Decoded],
    journal: Journal,
    folder: Path,
    num_inputs: int,
    progress: Progress | None,
    first_shard: int = 0,
) -> None:
    """Write the inputs that follow the journal's, their pixels into shards below `folder`."""
    last: tuple[str, int, int] | None = None
    for table in journal.tables(["shard", "offset", "size_bytes", "reason"]):
        images = images_of(table)
        if images.num_rows:
            last = tuple(images.slice(images.num_rows - 1).select(["shard", "offset", "size_bytes"]).to_pylist()[0].values())
    if journal.num_rows == num_inputs and last is None:
        return
    with ShardWriter(folder / resume_state.SHARDS, config.shard_max_bytes, first=first_shard, last=last) as shards:
        for count, item in enumerate(items, start=journal.num_rows + 1):
            row = item.row()
            if item.excluded is None:
                member = shards.add(f"{item.fields['sample_id']}.png", item.png, item.sha256)
                row |= {"shard": member.shard, "offset": member.offset}
            journal.add(row)
            if journal.is_due():
                shards.sync()
                journal.commit()
            if progress is not None:
                progress(count, num_inputs, "images")
        shards.sync()
        journal.close()


def _write_tables(
    config: IngestConfig,
    source: Path | str,
    reader: DicomSource | ImageSource,
    journal: Journal,
    old: _Old,
    work: Path,
    not_read: dict[str, int],
    pseudonyms: Pseudonyms,
    num_workers: int,
    archive: str,
) -> None:
    tables = work / resume_state.TABLES
    tables.mkdir(exist_ok=True)
    resume_state.clear(tables)
    excluded = write_exclusions(tables / "exclusions.parquet", journal, old.table("exclusions.parquet"), old.batch)
    if sum(excluded.values()) == journal.num_rows and old.settings is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(excluded.items(), key=lambda pair: -pair[1]))
        resume_state.clear(work)
        raise InputError(f"{source}: none of {journal.num_rows} files is a usable chest X-ray ({reasons})")
    if isinstance(reader, DicomSource):
        report_counts, settings = _write_dicom_reports(config, reader, journal, old, work, pseudonyms, num_workers)
    else:
        report_counts, settings = _write_image_reports(reader, journal, old, tables), None
    counts: dict[str, Any] = write_manifest(
        tables / "manifest.parquet",
        config,
        journal,
        old.table("manifest.parquet"),
        old.batch,
        official=reader.official,
        settings=settings,
    )
    with report_matching.connect(work) as database:
        links = write_links(database, tables / "manifest.parquet", tables / "links.parquet")
    images = pa.concat_tables(
        [images_of(t) for t in journal.tables(["sample_id", "study_id", "accession_id", "entry_number", "reason"])]
    )
    labels = label_table(reader.label_rows(images))
    old_labels = old.table("labels.parquet")
    if labels.num_rows or old_labels is not None:
        write_parts(tables / "labels.parquet", (*old_parts(old_labels), labels), LABEL_SCHEMA)
    if (aside := old.table(SET_ASIDE)) is not None:
        shutil.copyfile(aside, tables / SET_ASIDE)
    masks = write_masks(tables / "masks.parquet", journal)
    if reader.official:
        write_official_splits(tables / "official_splits.parquet", journal)
    counts = {
        "inputs": counts["images"] + sum(excluded.values()),
        "images": counts["images"],
        "excluded": excluded,
        "patients": counts["patients"],
        "studies": counts["studies"],
        "links": links,
        **count_pixels(tables / "manifest.parquet"),
        "years": count_years(journal, {} if old.settings is None else old.settings["counts"].get("years", {})),
        **report_counts,
        "table_encoding": reader.encoding,
        "not_read": not_read,
    }
    if isinstance(reader, PublicSource):
        counts |= {"layout": reader.layout.name, "masks": masks, "split": "official" if reader.official else "by keyed hash"}
    settings_file = {
        "schema_version": SCHEMA_VERSION,
        "image_size_px": config.image_size_px,
        "counts": counts,
        "config": asdict(config),
        "secret_check": pseudonyms.check,
        "tables": {path.name: sha256_of(path) for path in sorted(tables.glob("*.parquet"))},
    }
    resume_state.write_json(tables / ARCHIVES, [*old.archives, archive])
    (tables / "dataset.json").write_text(json.dumps(settings_file, indent=1, sort_keys=True), encoding="utf-8")


def _write_dicom_reports(
    config: IngestConfig,
    reader: DicomSource,
    journal: Journal,
    old: _Old,
    work: Path,
    pseudonyms: Pseudonyms,
    num_workers: int,
) -> tuple[dict[str, Any], pa.ChunkedArray]:
    """Write the tables of reports; counts, and the care setting of each new image."""
    tables, staged = work / resume_state.TABLES, work / "reports"
    staged.mkdir(exist_ok=True)
    resume_state.clear(staged)
    unknown = report_matching.stage_reports(reader.reports.read() if reader.reports else (), pseudonyms, staged)
    with report_matching.connect(work) as database:
        report_matching.view_images(database, journal)
        old_reports = old.table("reports.parquet")
        report_matching.match_reports(database, staged, config.report_window_hours, old_reports, old.table("manifest.parquet"))
        scrubbed: Counter[str] = Counter()
        new = report_matching.joined_reports(database, staged, num_workers, scrubbed)
        count = write_parts(
            tables / "reports.parquet", (part for parts in (old_parts(old_reports), new) for part in parts), REPORTS_SCHEMA
        )
        unmatched = report_matching.unmatched_table(database)
        pq.write_table(unmatched, tables / "unmatched_reports.parquet")
        settings = report_matching.care_settings(database)
    counts = {
        "reports": count,
        "unmatched_reports": unmatched.num_rows,
        "unmatched_reasons": report_matching.count_reasons(unmatched),
        "unknown_care_settings": unknown,
        "scrubbed": dict(sorted(scrubbed.items())),
    }
    return counts, settings


def _write_image_reports(reader: ImageSource, journal: Journal, old: _Old, tables: Path) -> dict[str, Any]:
    names = ["entry_number", "study_id", "patient_id", "reason"]
    images = pa.concat_tables([images_of(table) for table in journal.tables(names)])
    found, unmatched = reader.report_rows(images)
    new = pa.Table.from_pylist(found, REPORTS_SCHEMA)
    old_reports = old.table("reports.parquet")
    count = write_parts(tables / "reports.parquet", (*old_parts(old_reports), new), REPORTS_SCHEMA)
    return {
        "reports": count,
        "unmatched_reports": unmatched,
        "unknown_care_settings": reader.unknown_care_settings,
        "scrubbed": dict(sorted(reader.scrubbed.items())),
    }


def label_table(labels: list[LabelRow]) -> pa.Table:
    """In columns: large sets have millions of statements, many of each image."""
    columns = {name: [getattr(label, name) for label in labels] for name in LABEL_SCHEMA.names}
    return pa.Table.from_pydict(columns, LABEL_SCHEMA)
