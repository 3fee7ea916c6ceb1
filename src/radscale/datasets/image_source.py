"""Folders of images with a table, and published sets with their own tables. Their rows are few enough to be held in memory."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from radscale.datasets.decoded import CARE_SETTINGS, SECTIONS, Decoded, LabelRow, label_row
from radscale.datasets.deidentification import Pseudonyms
from radscale.datasets.dicom import DicomImage, read_dicom
from radscale.datasets.dicom_source import failed
from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import fill_padding, prepare_pixels
from radscale.datasets.images import ImageEntry, image_entries, read_image_file
from radscale.datasets.ingest_config import IngestConfig, Progress
from radscale.datasets.labels import slug
from radscale.datasets.patient_groups import known_department, known_ethnicity
from radscale.datasets.public import LAYOUTS, PublicFolder, PublicImage, PublicOptions, detect_layout, layout_hint
from radscale.datasets.report_scrubbing import scrub_report
from radscale.datasets.tables import read_csv
from radscale.datasets.view_classifier import decide_view
from radscale.datasets.white_boxes import boxes_to_paint, face_is_the_subject, paint
from radscale.errors import InputError

TABLE_DICOM_SUFFIXES = (".dcm", ".dicom")
"""Of the images that a table names; other names are read as pictures."""


class ImageSource:
    """The rows of a table, each naming an image file."""

    official = False
    encoding = ""
    patience_seconds = 0.0

    def __init__(self, config: IngestConfig, folder: Path, pseudonyms: Pseudonyms) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder of the archive or of the images")
        self.config, self.folder, self.pseudonyms = config, folder, pseudonyms
        self.entries = self._read_entries()
        self.scrubbed: Counter[str] = Counter()
        self.decode: Callable[[ImageEntry], Decoded] = partial(decode_image, folder, config, pseudonyms)
        settings = (entry.care_setting for entry in self.entries)
        self.unknown_care_settings = sum(bool(setting) and setting not in CARE_SETTINGS for setting in settings)

    @property
    def name_of_inputs(self) -> str:
        return f"rows in {self.config.table if self.config.layout is None else 'its tables'}"

    def _read_entries(self) -> list[ImageEntry]:
        path = self.folder / self.config.table
        if not path.is_file():
            raise InputError(f"{path}: no such file; correct the path of the table{layout_hint(self.folder, LAYOUTS)}")
        table = read_csv(path, self.config.encoding)
        table.require(self.config.columns.values(), path.name, "columns")
        table.require(self.config.labels, path.name, "labels")
        self.encoding = table.encoding
        return image_entries(table.rows, self.config.columns)

    def prepare(self, is_done: Callable[[str], bool], progress: Progress | None = None) -> tuple[int, dict[str, int]]:
        """Keep the inputs that are not in the dataset yet: how many; and no files that are not read."""
        self.entries = [entry for entry in self.entries if not is_done(self.pseudonyms("source", entry.path))]
        return len(self.entries), {}

    def open_tables(self) -> None:
        """Nothing: reports and labels are columns of the table."""

    def identity(self) -> str:
        """Changes if the table names other images: what was begun with one table cannot go on with another."""
        return hashlib.sha256("\0".join(entry.path for entry in self.entries).encode(errors="surrogatepass")).hexdigest()

    def inputs(self, start: int) -> Iterator[ImageEntry]:
        return iter(self.entries[start:])

    def failed(self, entry: ImageEntry, failure: str) -> Decoded:
        """The answer for a file that ended its worker."""
        return failed(self.pseudonyms("source", entry.path), failure, self.config)

    def report_rows(self, rows: pa.Table) -> tuple[list[dict[str, str]], int]:
        """Reports of the images that were kept, scrubbed; and how many are named but missing."""
        columns = rows.select(["entry_number", "study_id", "patient_id"]).to_pydict()
        kept = {number: ids for number, *ids in zip(*columns.values(), strict=True)}
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            if entry.number not in kept:
                continue
            study, patient = kept[entry.number]
            texts = {}
            for name in ("report", *SECTIONS):
                texts[name], kinds = scrub_report(entry.texts.get(name, ""), entry.names)
                self.scrubbed += kinds
            if not any(texts.values()):
                continue
            text = texts.pop("report") or "\n".join(f"{name.upper()}: {texts[name]}" for name in SECTIONS if texts[name])
            found.setdefault(study, {"study_id": study, "patient_id": patient, "text": text, **texts})
        return list(found.values()), 0

    def label_rows(self, rows: pa.Table) -> list[LabelRow]:
        samples = dict(zip(rows["entry_number"].to_pylist(), rows["sample_id"].to_pylist(), strict=True))
        entries = [entry for entry in self.entries if entry.number in samples]
        labels = []
        for column, kind in self.config.labels.items():
            values = [entry.row[column].strip() for entry in entries]
            if kind == "binary":
                labels += [
                    label_row(self.config.labels_engine, "sample", samples[entry.number], column, value)
                    for entry, value in zip(entries, values, strict=True)
                    if value
                ]
                continue
            sets = [_values(value, kind) for value in values]
            for task in sorted(set().union(*sets)):
                labels += [
                    label_row(self.config.labels_engine, "sample", samples[entry.number], task, "1" if task in tasks else "0")
                    for entry, tasks in zip(entries, sets, strict=True)
                    if tasks
                ]
        return labels


class PublicSource(ImageSource):
    """The images that the tables of a published set name, with its labels, split and masks."""

    def _read_entries(self) -> list[ImageEntry]:
        assert self.config.layout is not None
        self.layout = detect_layout(self.folder, LAYOUTS, self.config.layout)
        try:
            images = self.layout.read(PublicFolder(self.folder), PublicOptions(readers_rule=self.config.readers_rule))
        except InputError as error:
            raise InputError(f"{self.folder} (layout {self.layout.name}): {error}") from None
        _require_one_part(images, self.config.official_split)
        self.official = self.config.official_split and any(image.part for image in images)
        self.images = images
        rows = [dict(image.row) for image in images]
        return [
            replace(
                entry,
                part=images[entry.number].part,
                excluded=images[entry.number].excluded,
                masks=images[entry.number].masks,
            )
            for entry in image_entries(rows, {role: role for image in images[:1] for role in image.row})
        ]

    def report_rows(self, rows: pa.Table) -> tuple[list[dict[str, str]], int]:
        texts: dict[str, str] = {}
        missing: set[str] = set()
        for number in rows["entry_number"].to_pylist():
            name = self.images[number].report_file
            if name and name not in texts and name not in missing:
                try:
                    texts[name] = (self.folder / name).read_bytes().decode("utf-8", errors="replace")
                except OSError:
                    missing.add(name)
        self.entries = [
            replace(entry, texts={"report": text}) if (text := texts.get(self.images[entry.number].report_file)) else entry
            for entry in self.entries
        ]
        return super().report_rows(rows)[0], len(missing)

    def label_rows(self, rows: pa.Table) -> list[LabelRow]:
        ids = rows["study_id" if self.layout.level == "study" else "sample_id"].to_pylist()
        found = (
            LabelRow(self.layout.level, key, task, state, engine)
            for number, key in zip(rows["entry_number"].to_pylist(), ids, strict=True)
            for engine, states in self.images[number].labels.items()
            for task, state in states.items()
        )
        return list(dict.fromkeys(found))  # the images of a study repeat what is said of it


def decode_image(folder: Path, config: IngestConfig, pseudonyms: Pseudonyms, entry: ImageEntry) -> Decoded:
    """One image file to the pixels and fields of a dataset; whatever is wrong with it is in the answer."""
    item = Decoded(pseudonyms("source", entry.path))
    header: DicomImage | None = None
    try:
        if entry.excluded:
            raise Excluded("publisher", entry.excluded)
        if Path(entry.path).suffix.lower() in TABLE_DICOM_SUFFIXES:
            header = _read_listed_dicom(folder / entry.path, config)
        patient = entry.patient or (header.patient_id if header else "")
        if not patient:
            raise Excluded("no_patient", "no patient id in its row: the image cannot be put into a split")
        pixels = header.pixels if header else read_image_file(folder / entry.path)
        if header and config.faces == "mask" and face_is_the_subject(header.body_part):
            raise Excluded("face", "an image of a skull or a face, by Body Part Examined (0018,0015)")
        valid = header.valid if header else None
        prepared = prepare_pixels(
            pixels,
            valid,
            size_px=config.image_size_px,
            min_size_px=config.min_size_px,
            pixel_aspect=header.pixel_aspect if header else 1.0,
        )
        tag = header.view if header and entry.view == "unknown" else entry.view
        view, view_source = decide_view(prepared, tag, config.default_view, config.view_from_pixels)
        manufacturer = entry.manufacturer or (header.manufacturer if header else None)
        boxes = boxes_to_paint(
            fill_padding(pixels, valid),
            text=config.burned_in_text == "mask",
            places=config.device_places,
            manufacturer=manufacturer,
            model=header.model if header else "",
            face=config.faces == "mask" and view == "lateral",
        )
    except Excluded as verdict:
        return Decoded.verdict(item.source, verdict)
    except MemoryError:
        return Decoded.verdict(item.source, Excluded("too_large", "it needs more memory than a worker may take"))
    painted = paint(prepared, boxes)
    item.encode(prepared)
    item.fields = {
        "entry_number": entry.number,
        "sample_id": pseudonyms("sample", entry.path),
        "study_id": pseudonyms("study", entry.study),
        "patient_id": pseudonyms("patient", patient),
        "view": view,
        "view_source": view_source,
        "view_position": entry.view_position or (header.view_position if header else ""),
        "shifted_day": pseudonyms.shifted(patient, entry.study_day),
        "study_year": entry.study_year,
        "sex": entry.sex or (header.sex if header else None),
        "age_years": header.age_years if header and entry.age_years is None else entry.age_years,
        "manufacturer": manufacturer,
        "image_type": header.image_type if header else None,
        "white_boxes": [box._asdict() for box in painted],
        "ethnicity": known_ethnicity(entry.ethnicity or (header.ethnicity if header else ""), config.ethnicities),
        "department": known_department(entry.department or (header.department if header else ""), config.departments),
        "care_setting": entry.care_setting if entry.care_setting in CARE_SETTINGS else None,
        "part": entry.part,
        "masks": [{"task": task, "png": _mask_png(draw(pixels.shape), item.size)} for task, draw in entry.masks.items()],
    }
    return item


def _read_listed_dicom(path: Path, config: IngestConfig) -> DicomImage:
    if not path.is_file():
        raise Excluded("missing_file", "the table names it, but it is not in the folder")
    return read_dicom(path, voi=config.voi)


def _mask_png(mask: np.ndarray, size: tuple[int, int]) -> bytes | None:
    """Black and white at the size (width, height) of the stored image; a pixel belongs to the mask if half of it did."""
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    drawn = (share >= 0.5).astype(np.uint8) * 255
    return bytes(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_BILEVEL, 1])[1]) if drawn.any() else None


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
