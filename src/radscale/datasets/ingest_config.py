"""Settings of an ingest."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from radscale.datasets.public import LAYOUTS, ReadersRule
from radscale.datasets.splits import patient_split
from radscale.datasets.subsets import STRATA
from radscale.datasets.view_classifier import FromPixels
from radscale.datasets.white_boxes import DevicePlaces, Treatment
from radscale.errors import InputError

Progress = Callable[[int, int, str], None]
"""Called with (inputs done, inputs in all or 0 while that is not known, what)."""
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
    stratify_by: list[str] = field(default_factory=list)
    """Of sex, view, age, manufacturer: every subset holds the shares of these that all training images have, to about one
    patient of each group. A patient counts where the first image does; ages by decade."""
    num_replicates: int = 3
    """How many random orders of the training images: subsets of different replicates are drawn independently."""
    reports_csv: str | None = "reports.csv"
    """DICOM: table of reports, relative to the archive; None for an archive without reports."""
    report_columns: dict[str, str] = field(default_factory=lambda: dict(REPORT_COLUMNS))
    """Roles to column names: accession_number, report; optional patient_id (then it must agree with the
    image's), care_setting, time, indication, comparison, findings, impression."""
    reports: str | None = None
    """DICOM: in the place of `reports_csv` a table (.csv, .parquet, .jsonl) or a folder of text files named by accession number
    (.txt) and of HL7 v2 messages (.hl7); relative to the archive. Beside a PACS only this one is read, relative to the current
    folder."""
    report_window_hours: float = 24.0
    """DICOM: a report without an accession number belongs to the patient's study that is nearest in time, within this."""
    labels_csv: str | None = None
    """DICOM: table with accession_number and one column per task (1, 0, blank; -1 or "uncertain")."""
    labels_engine: str = "csv"
    """Who made the labels that come with the data, for the label table."""
    table: str = "metadata.csv"
    """Images: table with one row per image, relative to the folder."""
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image_path", "patient": "patient_id"})
    """Images: roles to column names: image, patient; optional study, study_day (a date or a count of days), report, the
    sections, sex, age, view, manufacturer, care_setting, ethnicity, department, and name (never kept: only scrubbed from the
    report)."""
    labels: dict[str, str] = field(default_factory=dict)
    """Images: label columns and their kind: "binary" (1, 0, blank), "categorical" (one value), or "multiple" ("a|b")."""
    ethnicities: dict[str, str] = field(default_factory=dict)
    """This hospital's words for ethnicities (in small letters) to the group that is kept, before the rules (docs/ingest.md)."""
    departments: dict[str, str] = field(default_factory=dict)
    """This hospital's words for departments (in small letters) to the one that is kept, before the rules (docs/ingest.md)."""
    default_view: Literal["frontal", "lateral", "unknown"] = "unknown"
    """View of images whose table or header does not say it, where the owner knows."""
    view_from_pixels: FromPixels = "absent"
    """Where the pixels decide the view. "absent": of images whose table or header does not say it; a view that they contradict
    is kept and counted. "wrong": they overrule that one too. "never" (docs/views.md)."""
    voi: Literal["none", "window"] = "none"
    """DICOM: "window" applies the header's VOI LUT, or else its first window (PS3.3 C.11.2), before the range is scaled."""
    burned_in_text: Treatment | None = None
    """Text in the pixels: "mask" paints white boxes over it, "keep" does not look for it. None: mask, but keep where `layout`
    is given: its publisher has looked already, and results are compared on its images as they come (docs/burned_in_text.md)."""
    faces: Treatment | None = None
    """Heads in lateral views: "mask" paints a white box down to the neck, and excludes images of a skull or face (`face`)."""
    device_places: tuple[DevicePlaces, ...] = ()
    """DICOM: where devices of the archive write, painted over whatever is found there, if `burned_in_text` is "mask"."""
    require_review: bool = False
    """The dataset is not trained on or evaluated before a person has looked at a sample of it (`radscale review`)."""
    seconds_per_file: float = 120.0
    """A file that takes a worker longer is excluded (`hung`)."""
    max_file_mb: int = 1024
    """A larger file, or member of an archive, is excluded (`too_large`) before it is read."""
    worker_memory_gb: float = 4.0
    """That decoding one file may take; a file that needs more is excluded (`too_large` or `crashed`)."""
    pacs_modalities: str = "CR,DX"
    """PACS: of the series that are read."""
    pacs_dates: str | None = None
    """PACS: of the studies that are read, YYYYMMDD-YYYYMMDD; either end may be left out."""
    pacs_retry_seconds: float = 120.0
    """PACS: for how long a request is repeated while the server has a fault or does not answer."""
    encoding: str | None = None
    shard_max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("burned_in_text", "faces"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, "mask" if self.layout is None else "keep")
        patient_split("", self.split_seed, self.train_fraction, self.validation_fraction, self.test_fraction)
        if self.image_size_px < 8:
            raise InputError(f"image_size_px is {self.image_size_px}; it must be 8 or more")
        if set(self.stratify_by) - set(STRATA) or len(set(self.stratify_by)) < len(self.stratify_by):
            said = ", ".join(self.stratify_by)
            raise InputError(f"stratify_by is {said}; give any of {', '.join(STRATA)}, each once")
        if self.num_replicates < 1:
            raise InputError(f"num_replicates is {self.num_replicates}; it must be 1 or more")
        for name in ("report_window_hours", "seconds_per_file", "max_file_mb", "worker_memory_gb", "pacs_retry_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not re.fullmatch("[A-Z0-9_]{1,16}(,[A-Z0-9_]{1,16})*", self.pacs_modalities):
            raise InputError(f"pacs_modalities is '{self.pacs_modalities}'; give codes of DICOM with commas, such as CR,DX")
        if self.pacs_dates is not None and not re.fullmatch(r"\d{8}(-(\d{8})?)?|-\d{8}", self.pacs_dates):
            raise InputError(f"pacs_dates is '{self.pacs_dates}'; give YYYYMMDD-YYYYMMDD, either end may be left out")
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
