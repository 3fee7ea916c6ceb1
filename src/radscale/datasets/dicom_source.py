"""An archive of DICOM files and its reports."""

import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from radscale.datasets.archive_files import (
    DICOMDIR,
    ArchiveFile,
    ArchiveListing,
    is_container,
    read_archive_file,
    read_listing,
    write_listing,
)
from radscale.datasets.decoded import Decoded, LabelRow, label_row
from radscale.datasets.deidentification import Pseudonyms, parse_date, parse_second, year_of
from radscale.datasets.dicom import read_dicom
from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import fill_padding, prepare_pixels
from radscale.datasets.ingest_config import IngestConfig, Progress
from radscale.datasets.pacs import Pacs, PacsListing
from radscale.datasets.patient_groups import known_department, known_ethnicity
from radscale.datasets.public import LAYOUTS, layout_hint
from radscale.datasets.report_files import ReportFile, open_reports
from radscale.datasets.tables import read_csv
from radscale.datasets.view_classifier import decide_view
from radscale.datasets.white_boxes import boxes_to_paint, face_is_the_subject, paint
from radscale.errors import InputError

INPUTS = "inputs.jsonl"
# What pydicom says of a damaged value shows the value, which may be a name; here too its warnings are not let through.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class DicomSource:
    """Every file of an archive that is not a table of ours.

    Args:
        config: see `IngestConfig`.
        source: folder, tar or zip file, or DICOMDIR; or the address of a PACS.
        pseudonyms: of the archive's ids.
        work: folder of this ingest; holds the list of inputs and what compressed tar files unpack to.

    Raises:
        InputError: no such archive.
    """

    official: bool = False
    name_of_inputs = "files"

    def __init__(self, config: IngestConfig, source: Path | str, pseudonyms: Pseudonyms, work: Path) -> None:
        self.config, self.pseudonyms, self._inputs = config, pseudonyms, work / INPUTS
        self.patience_seconds = 0.0
        """That an input may take beyond `seconds_per_file`, before it is decoded."""
        max_bytes = config.max_file_mb << 20
        self._listing: Callable[[Progress | None], ArchiveListing | PacsListing]
        read: Callable[[ArchiveFile], bytes]
        if isinstance(source, str):
            modalities = tuple(config.pacs_modalities.split(","))
            pacs = Pacs(source, modalities, config.pacs_dates, config.pacs_retry_seconds, max_bytes)
            self.folder, self.patience_seconds = Path(), pacs.patience_seconds
            self._reports = config.reports
            self._listing, read = partial(pacs.listing, work), pacs.read
        else:
            single = source.is_file() and (is_container(source) or source.name.upper() == DICOMDIR)
            if not single and not source.is_dir():
                raise InputError(
                    f"{source}: no such folder, tar, zip or DICOMDIR; give the archive, or the folder of the images"
                )
            self.folder = source if source.is_dir() else source.parent
            self._reports = config.reports or config.reports_csv
            unpacked = work / "unpacked"
            self._listing = lambda _: ArchiveListing(source, unpacked, max_bytes)
            read = partial(read_archive_file, self.folder, unpacked, max_bytes=max_bytes)
        self.decode: Callable[[ArchiveFile], Decoded] = partial(decode_dicom, read, config, pseudonyms)
        self.reports: ReportFile | None = None

    def open_tables(self) -> None:
        """Find the reports.

        Raises:
            InputError: they are not where the settings say, or a column is missing.
        """
        if self._reports is not None:
            path = self.folder / self._reports
            if not path.exists():
                raise InputError(
                    f"{path}: no such file; name the table in `reports_csv`, or null for an archive without reports "
                    "(a folder of images with a table is of kind images)" + layout_hint(self.folder, LAYOUTS)
                )
            self.reports = open_reports(path, self.config.report_columns, self.config.encoding)

    def prepare(self, is_done: Callable[[str], bool], progress: Progress | None = None) -> tuple[int, dict[str, int]]:
        """List the inputs that are not in the dataset yet: how many, and files that are no images by suffix."""
        listing = self._listing(progress)
        new = (entry for entry in listing if not is_done(self.pseudonyms("source", entry.name)))
        count = write_listing(new, self._inputs)
        return count, {suffix: number for suffix, number in sorted(listing.not_read.items()) if number}

    def inputs(self, start: int) -> Iterator[ArchiveFile]:
        """From number `start` on, as `prepare` listed them."""
        return read_listing(self._inputs, start)

    @property
    def encoding(self) -> str:
        return self.reports.encoding if self.reports is not None else ""

    def failed(self, entry: ArchiveFile, failure: str) -> Decoded:
        """The answer for a file that ended its worker."""
        return failed(self.pseudonyms("source", entry.name), failure, self.config)

    def label_rows(self, rows: pa.Table) -> list[LabelRow]:
        if self.config.labels_csv is None:
            return []
        path = self.folder / self.config.labels_csv
        table = read_csv(path, self.config.encoding)
        key = self.config.report_columns["accession_number"]
        table.require([key], path.name, "report_columns")
        accessions = [self.pseudonyms("accession", row[key].strip()) for row in table.rows]
        wanted = set(accessions)
        pairs = zip(rows["accession_id"].to_pylist(), rows["study_id"].to_pylist(), strict=True)
        studies = {accession: study for accession, study in pairs if accession in wanted}
        labels = []
        for row, accession in zip(table.rows, accessions, strict=True):
            study = studies.get(accession)
            if study is not None:
                tasks = ((task, value) for task, value in row.items() if task != key)
                engine = self.config.labels_engine
                labels += [label_row(engine, "study", study, task, value) for task, value in tasks if value.strip()]
        return labels


def failed(source: str, failure: str, config: IngestConfig) -> Decoded:
    """An exclusion for an input whose worker `died` or `hung`."""
    if failure == "hung":
        return Decoded(source, excluded=("hung", f"not decoded after {config.seconds_per_file:g} s"))
    return Decoded(source, excluded=("crashed", "the process that decoded it died, by a fault or a lack of memory"))


def decode_dicom(
    read: Callable[[ArchiveFile], bytes], config: IngestConfig, pseudonyms: Pseudonyms, entry: ArchiveFile
) -> Decoded:
    """One file, whose bytes `read` gives, to the pixels and fields of a dataset; whatever is wrong with it is in the answer."""
    item = Decoded(pseudonyms("source", entry.name))
    try:
        data = read(entry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_dicom(data, voi=config.voi)
        if not image.patient_id:
            raise Excluded("no_patient", "no Patient ID (0010,0020): the image cannot be put into a split")
        if config.faces == "mask" and face_is_the_subject(image.body_part):
            raise Excluded("face", "an image of a skull or a face, by Body Part Examined (0018,0015)")
        pixels = prepare_pixels(
            image.pixels,
            image.valid,
            size_px=config.image_size_px,
            min_size_px=config.min_size_px,
            pixel_aspect=image.pixel_aspect,
        )
        view, view_source = decide_view(pixels, image.view, config.default_view, config.view_from_pixels)
        boxes = boxes_to_paint(
            fill_padding(image.pixels, image.valid),
            text=config.burned_in_text == "mask",
            places=config.device_places,
            manufacturer=image.manufacturer,
            model=image.model,
            face=config.faces == "mask" and view == "lateral",
        )
    except Excluded as verdict:
        return Decoded.verdict(item.source, verdict)
    except MemoryError:
        return Decoded.verdict(item.source, Excluded("too_large", "it needs more memory than a worker may take"))
    painted = paint(pixels, boxes)
    item.encode(pixels)
    item.fields = {
        "sample_id": pseudonyms("sample", image.sop_uid or entry.name),
        "study_id": pseudonyms("study", image.study_uid or entry.name),
        "patient_id": pseudonyms("patient", image.patient_id),
        "accession_id": pseudonyms("accession", image.accession_number) if image.accession_number else None,
        "view": view,
        "view_source": view_source,
        "view_position": image.view_position,
        "shifted_day": pseudonyms.shifted(image.patient_id, parse_date(image.study_date)),
        "study_second": parse_second(image.study_time),
        "study_year": year_of(image.study_date),
        "sex": image.sex,
        "age_years": image.age_years,
        "manufacturer": image.manufacturer,
        "image_type": image.image_type,
        "white_boxes": [box._asdict() for box in painted],
        "ethnicity": known_ethnicity(image.ethnicity, config.ethnicities),
        "department": known_department(image.department, config.departments),
        "names": list(image.names),
    }
    return item
