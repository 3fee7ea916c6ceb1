"""From an archive or a folder of images to a de-identified dataset (paper, section 4).

Every input becomes one row, of the manifest or of the exclusions. Workers decode and resize; the parent writes in the order of
the inputs, so the result does not depend on how many workers there are.
"""

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.datasets.deidentification import parse_date, pseudonym, scrub_text
from radscale.datasets.dicom import DicomImage, read_dicom
from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import files_below, prepare_pixels
from radscale.datasets.images import ImageEntry, image_entries, read_image_file
from radscale.datasets.labels import STATES, slug
from radscale.datasets.manifest import (
    EXCLUSIONS_SCHEMA,
    LABEL_SCHEMA,
    MASK_SCHEMA,
    OFFICIAL_SPLITS_SCHEMA,
    REPORTS_SCHEMA,
    SCHEMA_VERSION,
    manifest_schema,
    rank_column,
)
from radscale.datasets.png import encode_png
from radscale.datasets.public import LAYOUTS, PublicFolder, PublicImage, PublicOptions, ReadersRule, detect_layout, layout_hint
from radscale.datasets.shards import ShardWriter
from radscale.datasets.splits import patient_split, split_patients
from radscale.datasets.subsets import subset_ranks
from radscale.datasets.tables import read_csv
from radscale.errors import InputError

Progress = Callable[[int, int, str], None]
SECTIONS = ("indication", "comparison", "findings", "impression")
CARE_SETTINGS = ("inpatient", "outpatient", "emergency")
TABLE_DICOM_SUFFIXES = (".dcm", ".dicom")
"""Of the images that a table names; other names are read as pictures."""
NOT_IMAGES = (".csv", ".json", ".png", ".parquet", ".txt", ".md")
REPORT_COLUMNS = {"accession_number": "accession_number", "report": "report"}


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read and how to split it."""

    kind: Literal["dicom", "images"]
    layout: str | None = None
    """Images: the layout of a published set ("nih", "vindr-cxr", ...; "auto" looks), whose own tables are read then instead of
    `table`, `columns` and `labels` (docs/public_datasets.md)."""
    readers_rule: ReadersRule = "majority"
    """Layouts with several readers per image: positive if most say so (the prevalences of the paper's Table 4 fit this one), if
    any does, or "unanimous": where they disagree the label is uncertain."""
    official_split: bool = True
    """Layouts with a published split keep it; where it has no validation set, one is drawn from its training patients."""
    image_size_px: int = 518
    """Shorter side on disk (paper, section 4)."""
    min_size_px: int = 32
    """Images with a shorter side below this are excluded."""
    train_fraction: float = 0.8
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    num_replicates: int = 3
    """How many random orders of the training images: subsets of different replicates are drawn independently."""
    reports_csv: str | None = "reports.csv"
    """DICOM: table of reports, relative to the archive; None for an archive without reports."""
    report_columns: dict[str, str] = field(default_factory=lambda: dict(REPORT_COLUMNS))
    """Roles to column names: accession_number, report; optional patient_id (then it must agree with the
    image's), care_setting, indication, comparison, findings, impression."""
    labels_csv: str | None = None
    """DICOM: table with accession_number and one column per task (1, 0, blank; -1 or "uncertain")."""
    labels_engine: str = "csv"
    """Who made the labels that come with the data, for the label table."""
    table: str = "metadata.csv"
    """Images: table with one row per image, relative to the folder."""
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image_path", "patient": "patient_id"})
    """Images: roles to column names: image, patient; optional study, study_day (a date or a count of days), report, the
    sections, sex, age, view, manufacturer, care_setting, and name (never kept: only scrubbed from the report)."""
    labels: dict[str, str] = field(default_factory=dict)
    """Images: label columns and their kind: "binary" (1, 0, blank), "categorical" (one value), or "multiple" ("a|b")."""
    default_view: Literal["frontal", "lateral", "unknown"] = "unknown"
    """View of images whose table or header does not say it, where the owner knows."""
    encoding: str | None = None
    shard_max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        patient_split("", self.split_seed, self.train_fraction, self.validation_fraction, self.test_fraction)
        if self.image_size_px < 8:
            raise InputError(f"image_size_px is {self.image_size_px}; it must be 8 or more")
        if self.num_replicates < 1:
            raise InputError(f"num_replicates is {self.num_replicates}; it must be 1 or more")
        kinds = ("binary", "categorical", "multiple")
        for column, kind in self.labels.items():
            if kind not in kinds:
                raise InputError(f"labels.{column} is '{kind}'; allowed: {', '.join(kinds)}")
        if self.layout not in (None, "auto", *LAYOUTS):
            raise InputError(f"layout '{self.layout}' is not one of auto, {', '.join(LAYOUTS)}")
        if self.layout is not None and self.kind != "images":
            raise InputError(f"layout is '{self.layout}', but kind is {self.kind}; published layouts are of kind images")
        if self.layout is not None and self.labels:
            raise InputError(f"layout '{self.layout}' brings its own labels; leave `labels` out (null, if a recipe has it)")


@dataclass
class _Decoded:
    """What a worker hands back for one input."""

    key: str
    """Relative path, for the exclusion row's hash only."""
    excluded: tuple[str, str] | None = None
    png: bytes = b""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    fields: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    masks: dict[str, bytes | None] = field(default_factory=dict)
    """Task to the PNG of its mask, of the size of the stored image; None where it was looked for and is not there."""


class _Label(NamedTuple):
    level: str
    key: str
    task: str
    state: str
    engine: str


def ingest(
    config: IngestConfig,
    source: Path,
    out: Path,
    *,
    secret: bytes,
    num_workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a dataset into the folder `out`.

    Args:
        config: see `IngestConfig`.
        source: folder of the archive or of the images.
        out: folder that the caller owns; it is whole only when this function has returned.
        secret: key of the pseudonyms.
        num_workers: decoding processes.
        progress: called with (inputs done, inputs in all, what).

    Returns:
        Counts: inputs, images, exclusions by reason, patients, studies, reports, unmatched reports, encoding of the table,
        files that are not read (tables, notes, pictures beside an archive) by suffix, unknown care settings; for a published
        set its layout, masks, and whose split it has.

    Raises:
        InputError: no such folder, nothing in it, or a table that does not fit.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder of the archive or of the images")
    reader = _source(config, source)
    if not reader.inputs:
        what = "files" if config.kind == "dicom" else f"rows in {config.table if config.layout is None else 'its tables'}"
        hint = layout_hint(source, LAYOUTS) if config.layout is None else ""
        raise InputError(f"{source}: no {what} found, so there is nothing to ingest; give the folder of the archive{hint}")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    exclusions: list[dict[str, str]] = []
    names: dict[str, set[str]] = {}
    seen: set[str] = set()
    with ShardWriter(out / "shards", config.shard_max_bytes) as shards:
        for count, item in enumerate(_decode_all(reader, num_workers), start=1):
            if item.excluded is None and item.digest in seen:
                item.excluded = ("duplicate", "same pixels as an image before it")
            if item.excluded is None and item.fields["sample_key"] in seen:
                item.excluded = ("duplicate", "same SOP Instance UID (0008,0018) as an image before it, with other pixels")
            if item.excluded is not None:
                reason, detail = item.excluded
                exclusions.append({"source": pseudonym(secret, "source", item.key), "reason": reason, "detail": detail})
            else:
                seen |= {item.digest, item.fields["sample_key"]}
                names.setdefault(item.fields["patient_key"], set()).update(item.names)
                rows.append(_manifest_row(item, secret, shards))
                masks += [{"sample_id": rows[-1]["sample_id"], "task": task, "png": png} for task, png in item.masks.items()]
            if progress is not None:
                progress(count, len(reader.inputs), "images")
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(e["reason"] for e in exclusions).most_common())
        raise InputError(f"{source}: none of {len(exclusions)} files is a usable chest X-ray ({reasons})")
    reports, unmatched = reader.reports(rows, names)
    labels = reader.label_rows(rows)
    official = _official_splits(rows) if config.official_split else {}
    table = _finish_rows(config, rows, official)
    pq.write_table(table, out / "manifest.parquet")
    pq.write_table(pa.Table.from_pylist(exclusions, EXCLUSIONS_SCHEMA), out / "exclusions.parquet")
    pq.write_table(_report_table(reports, secret), out / "reports.parquet")
    if labels:
        pq.write_table(_label_table(labels, secret), out / "labels.parquet")
    if masks:
        pq.write_table(pa.Table.from_pylist(masks, MASK_SCHEMA), out / "masks.parquet")
    if official:
        split_rows = [{"patient_id": patient, "part": part} for patient, part in sorted(official.items())]
        pq.write_table(pa.Table.from_pylist(split_rows, OFFICIAL_SPLITS_SCHEMA), out / "official_splits.parquet")
    tables = sorted(out.glob("*.parquet"))
    counts = {
        "inputs": len(reader.inputs),
        "images": len(rows),
        "excluded": dict(sorted(Counter(row["reason"] for row in exclusions).items())),
        "patients": len({row["patient_id"] for row in rows}),
        "studies": len({row["study_id"] for row in rows}),
        "reports": len(reports),
        "unmatched_reports": unmatched,
        "table_encoding": reader.encoding,
        "not_read": reader.not_read,
        "unknown_care_settings": reader.unknown_care_settings,
    }
    if isinstance(reader, _PublicSource):
        counts |= {"layout": reader.layout.name, "masks": len(masks), "split": "official" if official else "by keyed hash"}
    settings = {
        "schema_version": SCHEMA_VERSION,
        "image_size_px": config.image_size_px,
        "counts": counts,
        "config": asdict(config),
        "tables": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tables},
    }
    (out / "dataset.json").write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
    return counts


def _source(config: IngestConfig, folder: Path) -> "_DicomSource | _ImageSource":
    if config.kind == "dicom":
        return _DicomSource(config, folder)
    return _ImageSource(config, folder) if config.layout is None else _PublicSource(config, folder)


def _decode_all(reader: "_DicomSource | _ImageSource", num_workers: int) -> Iterator[_Decoded]:
    if num_workers <= 1:
        yield from map(reader.decode, reader.inputs)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(num_workers) as pool:
        yield from pool.imap(reader.decode, reader.inputs, chunksize=8)


def _encode(image: np.ndarray, item: _Decoded) -> _Decoded:
    item.png = encode_png(image)
    item.digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    item.size = (image.shape[1], image.shape[0])
    return item


class _DicomSource:
    """Every file below a folder that is not a table of ours."""

    def __init__(self, config: IngestConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        files = files_below(folder)
        skipped = [name for name in files if Path(name).suffix.lower() in NOT_IMAGES]
        self.inputs = sorted(set(files) - set(skipped))
        self.not_read = dict(sorted(Counter(Path(name).suffix.lower() for name in skipped).items()))
        self.unknown_care_settings = 0
        self.decode = partial(_decode_dicom, folder, config)
        self.encoding = ""
        self.report_rows: list[dict[str, str]] = []
        if config.reports_csv is not None and self.inputs:
            path = folder / config.reports_csv
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file; name the table in `reports_csv`, or null for an archive without reports "
                    "(a folder of images with a table is of kind images)" + layout_hint(folder, LAYOUTS)
                )
            table = read_csv(path, config.encoding)
            table.require(config.report_columns.values(), path.name, "report_columns")
            self.report_rows, self.encoding = table.rows, table.encoding

    def reports(self, rows: list[dict[str, Any]], names: dict[str, set[str]]) -> tuple[list[dict[str, str]], int]:
        """Reports whose accession number some image has, scrubbed; and how many have none."""
        columns = self.config.report_columns
        by_accession: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_accession.setdefault(row["accession_key"], []).append(row)
        texts: dict[str, dict[str, list[str]]] = {}
        patients: dict[str, str] = {}
        unmatched = 0
        for report in self.report_rows:
            accession = report[columns["accession_number"]].strip()
            images = by_accession.get(accession, []) if accession else []
            if "patient_id" in columns:
                patient = report[columns["patient_id"]].strip()
                images = [image for image in images if image["patient_key"] == patient]
            # A number that two patients share (archives that were merged) names neither.
            if len({image["patient_key"] for image in images}) != 1:
                unmatched += 1
                continue
            setting = self._care_setting(report.get(columns.get("care_setting", "care_setting"), ""))
            scrub = partial(scrub_text, known=names.get(images[0]["patient_key"], ()))
            parts = {"text": scrub(report[columns["report"]])}
            parts |= {name: scrub(report.get(columns.get(name, ""), "")) for name in SECTIONS}
            for image in images:
                image["care_setting"] = setting
                patients[image["study_key"]] = image["patient_key"]
                study = texts.setdefault(image["study_key"], {})
                for name, part in parts.items():
                    if part not in study.setdefault(name, []):
                        study[name].append(part)
        # Several rows of a study are its report and what was added later: all of it, once, in the table's order.
        joined = [
            {"study_key": key, "patient_key": patients[key]} | {name: "\n\n".join(filter(None, p)) for name, p in parts.items()}
            for key, parts in texts.items()
        ]
        return joined, unmatched

    def _care_setting(self, value: str) -> str | None:
        setting = value.strip().lower()
        self.unknown_care_settings += bool(setting) and setting not in CARE_SETTINGS
        return setting if setting in CARE_SETTINGS else None

    def label_rows(self, rows: list[dict[str, Any]]) -> list[_Label]:
        if self.config.labels_csv is None:
            return []
        path = self.folder / self.config.labels_csv
        table = read_csv(path, self.config.encoding)
        key = self.config.report_columns["accession_number"]
        table.require([key], path.name, "report_columns")
        studies = {row["accession_key"]: row["study_key"] for row in rows}
        labels = []
        for row in table.rows:
            study = studies.get(row[key].strip())
            if study is not None:
                tasks = ((task, value) for task, value in row.items() if task != key)
                labels += [_label(self.config, "study", study, task, value) for task, value in tasks if value.strip()]
        return labels


def _decode_dicom(folder: Path, config: IngestConfig, name: str) -> _Decoded:
    item = _Decoded(key=name)
    try:
        image = read_dicom(folder / name)
        if not image.patient_id:
            raise Excluded("no_patient", "no Patient ID (0010,0020): the image cannot be put into a split")
        pixels = prepare_pixels(
            image.pixels,
            image.valid,
            size_px=config.image_size_px,
            min_size_px=config.min_size_px,
            pixel_aspect=image.pixel_aspect,
        )
        _encode(pixels, item)
    except Excluded as verdict:
        item.excluded = (verdict.reason, str(verdict))
        return item
    item.fields = {
        "sample_key": image.sop_uid or name,
        "study_key": image.study_uid or name,
        "patient_key": image.patient_id,
        "accession_key": image.accession_number,
        "view": image.view,
        "view_position": image.view_position,
        "date": parse_date(image.study_date),
        "sex": image.sex,
        "age_years": image.age_years,
        "manufacturer": image.manufacturer,
    }
    item.names = image.names
    return item


class _ImageSource:
    """The rows of a table, each naming an image file."""

    def __init__(self, config: IngestConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        path = folder / config.table
        if not path.is_file():
            raise InputError(f"{path}: no such file; correct the path of the table{layout_hint(folder, LAYOUTS)}")
        table = read_csv(path, config.encoding)
        table.require(config.columns.values(), path.name, "columns")
        table.require(config.labels, path.name, "labels")
        self.encoding = table.encoding
        self.inputs = image_entries(table.rows, config.columns)
        self.not_read: dict[str, int] = {}
        self.unknown_care_settings = sum(bool(e.care_setting) and e.care_setting not in CARE_SETTINGS for e in self.inputs)
        self.decode = partial(_decode_image, folder, config)

    def reports(self, rows: list[dict[str, Any]], names: dict[str, set[str]]) -> tuple[list[dict[str, str]], int]:
        kept = {row["entry_number"]: row for row in rows}
        found: dict[str, dict[str, str]] = {}
        for entry in self.inputs:
            row = kept.get(entry.number)
            if row is None:
                continue
            texts = {name: scrub_text(entry.texts.get(name, ""), entry.names) for name in ("report", *SECTIONS)}
            if not any(texts.values()):
                continue
            text = texts.pop("report") or "\n".join(f"{name.upper()}: {texts[name]}" for name in SECTIONS if texts[name])
            found.setdefault(
                row["study_key"], {"study_key": row["study_key"], "patient_key": row["patient_key"], "text": text, **texts}
            )
        return list(found.values()), 0

    def label_rows(self, rows: list[dict[str, Any]]) -> list[_Label]:
        kept = {row["entry_number"] for row in rows}
        entries = [entry for entry in self.inputs if entry.number in kept]
        labels = []
        for column, kind in self.config.labels.items():
            values = [entry.row[column].strip() for entry in entries]
            if kind == "binary":
                labels += [
                    _label(self.config, "sample", entry.path, column, value)
                    for entry, value in zip(entries, values, strict=True)
                    if value
                ]
                continue
            sets = [_values(value, kind) for value in values]
            for task in sorted(set().union(*sets)):
                labels += [
                    _label(self.config, "sample", entry.path, task, "1" if task in tasks else "0")
                    for entry, tasks in zip(entries, sets, strict=True)
                    if tasks
                ]
        return labels


def _decode_image(folder: Path, config: IngestConfig, entry: ImageEntry) -> _Decoded:
    item = _Decoded(key=entry.path)
    header: DicomImage | None = None
    try:
        if entry.excluded:
            raise Excluded("publisher", entry.excluded)
        if Path(entry.path).suffix.lower() in TABLE_DICOM_SUFFIXES:
            header = _read_listed_dicom(folder / entry.path)
        patient = entry.patient or (header.patient_id if header else "")
        if not patient:
            raise Excluded("no_patient", "no patient id in its row: the image cannot be put into a split")
        pixels = header.pixels if header else read_image_file(folder / entry.path)
        prepared = prepare_pixels(
            pixels,
            header.valid if header else None,
            size_px=config.image_size_px,
            min_size_px=config.min_size_px,
            pixel_aspect=header.pixel_aspect if header else 1.0,
        )
        _encode(prepared, item)
    except Excluded as verdict:
        item.excluded = (verdict.reason, str(verdict))
        return item
    item.masks = {name: _mask_png(draw(pixels.shape), item.size) for name, draw in entry.masks.items()}
    item.fields = {
        "entry_number": entry.number,
        "sample_key": entry.path,
        "study_key": entry.study,
        "patient_key": patient,
        "accession_key": "",
        "view": header.view if header and entry.view == "unknown" else entry.view,
        "view_position": entry.view_position or (header.view_position if header else ""),
        "date": entry.study_day,
        "sex": entry.sex or (header.sex if header else None),
        "age_years": header.age_years if header and entry.age_years is None else entry.age_years,
        "manufacturer": entry.manufacturer or (header.manufacturer if header else None),
        "care_setting": entry.care_setting if entry.care_setting in CARE_SETTINGS else None,
        "part": entry.part,
    }
    return item


def _read_listed_dicom(path: Path) -> DicomImage:
    if not path.is_file():
        raise Excluded("missing_file", "the table names it, but it is not in the folder")
    return read_dicom(path)


def _mask_png(mask: np.ndarray, size: tuple[int, int]) -> bytes | None:
    """Black and white at the size (width, height) of the stored image; a pixel belongs to the mask if half of it did."""
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    drawn = (share >= 0.5).astype(np.uint8) * 255
    return bytes(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_BILEVEL, 1])[1]) if drawn.any() else None


class _PublicSource(_ImageSource):
    """The images that the tables of a published set name, with its labels, split and masks."""

    def __init__(self, config: IngestConfig, folder: Path) -> None:
        assert config.layout is not None
        self.config, self.folder = config, folder
        self.layout = detect_layout(folder, LAYOUTS, config.layout)
        try:
            images = self.layout.read(PublicFolder(folder), PublicOptions(readers_rule=config.readers_rule))
        except InputError as error:
            raise InputError(f"{folder} (layout {self.layout.name}): {error}") from None
        _require_one_part(images, config.official_split)
        self.images = images
        entries = image_entries(
            [dict(image.row) for image in images], {role: role for image in images[:1] for role in image.row}
        )
        self.inputs = [
            replace(
                entry,
                part=images[entry.number].part,
                excluded=images[entry.number].excluded,
                masks=images[entry.number].masks,
            )
            for entry in entries
        ]
        self.encoding = ""
        self.not_read: dict[str, int] = {}
        self.unknown_care_settings = 0
        self.decode = partial(_decode_image, folder, config)

    def reports(self, rows: list[dict[str, Any]], names: dict[str, set[str]]) -> tuple[list[dict[str, str]], int]:
        kept = {row["entry_number"] for row in rows}
        texts: dict[str, str] = {}
        missing: set[str] = set()
        for number in kept:
            name = self.images[number].report_file
            if name and name not in texts and name not in missing:
                try:
                    texts[name] = (self.folder / name).read_bytes().decode("utf-8", errors="replace")
                except OSError:
                    missing.add(name)
        self.inputs = [
            replace(entry, texts={"report": text}) if (text := texts.get(self.images[entry.number].report_file)) else entry
            for entry in self.inputs
        ]
        return super().reports(rows, names)[0], len(missing)

    def label_rows(self, rows: list[dict[str, Any]]) -> list[_Label]:
        key = "study_key" if self.layout.level == "study" else "sample_key"
        found = (
            _Label(self.layout.level, row[key], task, state, engine)
            for row in rows
            for engine, states in self.images[row["entry_number"]].labels.items()
            for task, state in states.items()
        )
        return list(dict.fromkeys(found))  # the images of a study repeat what is said of it


def _require_one_part(images: Sequence[PublicImage], official_split: bool) -> None:
    """Raises InputError if the published split puts a patient into two parts."""
    parts: dict[str, set[str]] = {}
    for image in images:
        parts.setdefault(image.row["patient"], set()).add(image.part)
    crossing = sum(len(names) > 1 for patient, names in parts.items() if patient)
    if crossing and official_split:
        raise InputError(
            f"{crossing:,} of {len(parts):,} patients have images in two parts of the official split, so that no test would be "
            "one; restore the published tables, or set `official_split: false` to split by patient anew"
        )


def label_tasks(rows: Sequence[Mapping[str, str]], labels: Mapping[str, str]) -> list[str]:
    """Tasks that the label columns of an image table stand for."""
    tasks: set[str] = set()
    for column, kind in labels.items():
        tasks |= {column} if kind == "binary" else set().union(*(_values(row[column], kind) for row in rows))
    return sorted(tasks)


def _values(value: str, kind: str) -> set[str]:
    """Tasks that a cell of a categorical or multiple column names."""
    return {slug(part) for part in (value.split("|") if kind == "multiple" else [value]) if part.strip()}


def _label(config: IngestConfig, level: str, key: str, task: str, value: str) -> _Label:
    text = value.strip().lower()
    states = {"1": "positive", "1.0": "positive", "0": "negative", "0.0": "negative", "-1": "uncertain", "-1.0": "uncertain"}
    state = states.get(text, text)
    if state not in STATES:
        raise InputError(
            # Not the value: a column that is no label may hold names.
            f"label column '{task}': a value of {len(text)} characters is none of 1, 0, -1 (uncertain), blank,"
            f" {', '.join(STATES)}; correct it or leave the column out"
        )
    return _Label(level, key, task, state, config.labels_engine)


def _manifest_row(item: _Decoded, secret: bytes, shards: ShardWriter) -> dict[str, Any]:
    fields = item.fields
    sample = pseudonym(secret, "sample", fields["sample_key"])
    member = shards.add(f"{sample}.png", item.png)
    return {
        **fields,
        "sample_id": sample,
        "study_id": pseudonym(secret, "study", fields["study_key"]),
        "patient_id": pseudonym(secret, "patient", fields["patient_key"]),
        "width_px": item.size[0],
        "height_px": item.size[1],
        "shard": member.shard,
        "offset": member.offset,
        "size_bytes": member.size_bytes,
        "sha256": member.sha256,
    }


def _official_splits(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Patient to part of the published split; empty without one."""
    return {row["patient_id"]: row["part"] for row in rows if row.get("part")}


def _finish_rows(config: IngestConfig, rows: list[dict[str, Any]], official: Mapping[str, str]) -> pa.Table:
    """Add splits, ranks and days since the patient's first study; keep only the columns of the schema."""
    first: dict[str, int] = {}
    for row in rows:
        if row["date"] is not None:
            first[row["patient_id"]] = min(first.get(row["patient_id"], row["date"]), row["date"])
    fractions = (config.train_fraction, config.validation_fraction, config.test_fraction)
    splits = split_patients({row["patient_id"] for row in rows}, official, config.split_seed, *fractions)
    for row in rows:
        row["view"] = config.default_view if row["view"] == "unknown" else row["view"]
        row["split"] = splits[row["patient_id"]]
        row["study_day"] = None if row["date"] is None else row["date"] - first[row["patient_id"]]
        row.setdefault("care_setting", None)
    patients = [row["patient_id"] for row in rows]
    is_train = [row["split"] == "train" for row in rows]
    for replicate in range(config.num_replicates):
        ranks = subset_ranks(patients, is_train, config.split_seed, replicate)
        for row, rank in zip(rows, ranks.tolist(), strict=True):
            row[rank_column(replicate)] = None if rank < 0 else rank
    return pa.Table.from_pylist(rows, manifest_schema(config.num_replicates))


def _report_table(reports: list[dict[str, str]], secret: bytes) -> pa.Table:
    rows = [
        {
            **report,
            "study_id": pseudonym(secret, "study", report["study_key"]),
            "patient_id": pseudonym(secret, "patient", report["patient_key"]),
        }
        for report in reports
    ]
    return pa.Table.from_pylist(rows, REPORTS_SCHEMA)


def _label_table(labels: list[_Label], secret: bytes) -> pa.Table:
    """In columns: large sets have millions of statements, many of each image."""
    name = lru_cache(maxsize=1024)(partial(pseudonym, secret))
    columns = {field: [getattr(label, field) for label in labels] for field in ("level", "task", "state", "engine")}
    columns["id"] = [name(label.level, label.key) for label in labels]
    return pa.Table.from_pydict({field: columns[field] for field in LABEL_SCHEMA.names}, LABEL_SCHEMA)
