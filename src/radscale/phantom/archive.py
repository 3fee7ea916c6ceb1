"""The archive of a phantom hospital: DICOM files, reports and, beside them, the truth."""

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from radscale.errors import InputError
from radscale.phantom.acquisition import SCANNERS, Scanner, canvas_for, render
from radscale.phantom.anatomy import Chest, Patient, draw_patient, project_chest
from radscale.phantom.devices import DEVICES, Device, add_devices, draw_devices
from radscale.phantom.findings import FINDINGS, Finding, add_findings, change_anatomy, draw_findings
from radscale.phantom.geometry import FRONTAL, LATERAL
from radscale.phantom.hospitals import HOSPITALS, Hospital
from radscale.phantom.reports import write_report

UID_ROOT = "2.25"
STORAGE_CLASS = {"CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}
LABELS = (*FINDINGS, "no_finding", *DEVICES, "NT")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """A synthetic hospital. All its patients, images and texts follow from these values."""

    hospital: str = "own"
    num_patients: int = 300
    seed: int = 0
    image_size_px: int = 256
    """Rows and columns of the DICOM images."""
    studies_per_patient: float = 1.7
    lateral_rate: float = 0.35
    """Share of studies of walking patients that have a lateral view too."""
    device_mention_rate: float | None = None
    """How often reports mention devices; None takes the hospital's habit."""
    finding_mention_rate: float | None = None
    dirt_rate: float = 0.004
    """Share of files that are damaged, duplicated or no image at all, each."""

    def __post_init__(self) -> None:
        if self.hospital not in HOSPITALS:
            raise InputError(f"hospital is '{self.hospital}'; allowed: {', '.join(HOSPITALS)}")
        if self.num_patients < 1:
            raise InputError(f"num_patients is {self.num_patients}; it must be 1 or more")
        if not 64 <= self.image_size_px <= 4096:
            raise InputError(f"image_size_px is {self.image_size_px}; it must be from 64 to 4096")
        if self.studies_per_patient < 1:
            raise InputError(f"studies_per_patient is {self.studies_per_patient}; it must be 1 or more")
        for name in ("lateral_rate", "device_mention_rate", "finding_mention_rate", "dirt_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; it must be from 0 to 1")


@dataclass(frozen=True)
class Person:
    """Somebody, with the invented identity that de-identification must remove."""

    index: int
    patient_id: str
    name: str
    birth: date
    anatomy: Patient


@dataclass
class Study:
    """One visit."""

    number: int
    when: date
    inpatient: bool
    findings: list[Finding]
    devices: list[Device]
    report: str
    accession: str


@dataclass(frozen=True)
class View:
    """One image of a study, rendered."""

    view: str
    position: str
    pixels: np.ndarray
    mask: np.ndarray
    tips: dict[int, tuple[float, float]]


FIRST_NAMES = (
    "ANNA",
    "PETER",
    "MARIA",
    "JOHN",
    "LUCIA",
    "DAVID",
    "EMMA",
    "PAUL",
    "NORA",
    "KARIM",
    "ELENA",
    "TOMAS",
    "INES",
    "OSCAR",
)
LAST_NAMES = (
    "ROSSI",
    "KELLER",
    "NOVAK",
    "GARCIA",
    "JANSEN",
    "MOREAU",
    "LINDQVIST",
    "OKAFOR",
    "TANAKA",
    "PETROV",
    "HOLM",
    "SILVA",
)


def generate_archive(
    config: PhantomConfig, out: Path, *, num_workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Write `dicom/`, `reports.csv`, `truth/` and `phantom.json` into `out`.

    The bytes follow from the configuration alone, whatever the number of workers.

    Returns:
        Numbers of patients, studies and images, and of damaged, duplicated and foreign files.
    """
    for name in ("dicom", "truth/masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    reports: list[dict[str, str]] = []
    labels: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    counts = {"patients": config.num_patients, "studies": 0, "images": 0, "damaged": 0, "duplicates": 0, "foreign": 0}
    for done, rows in enumerate(_all_patients(config, out, num_workers), start=1):
        reports += rows["reports"]
        labels += rows["labels"]
        devices += rows["devices"]
        for key, value in rows["counts"].items():
            counts[key] += value
        if progress is not None:
            progress(done, config.num_patients, "phantom patients")
    _write_csv(out / "reports.csv", reports, ("accession_number", "patient_id", "study_date", "care_setting", "report"))
    _write_csv(out / "truth" / "labels.csv", labels, ("accession_number", *LABELS))
    _write_csv(
        out / "truth" / "devices.csv",
        devices,
        ("accession_number", "sop_uid", "type", "side", "tip", "placement", "mask_value", "tip_x_px", "tip_y_px"),
    )
    (out / "phantom.json").write_text(json.dumps({"config": asdict(config), "counts": counts}, indent=1), encoding="utf-8")
    return counts


def _all_patients(config: PhantomConfig, out: Path, num_workers: int) -> Iterator[dict[str, Any]]:
    work = partial(_write_patient, config, out)
    if num_workers <= 1:
        yield from map(work, range(config.num_patients))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(num_workers) as pool:
        yield from pool.imap(work, range(config.num_patients), chunksize=2)


def _write_csv(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_person(config: PhantomConfig, index: int) -> tuple[Person, list[Study]]:
    """A person and all their visits, drawn from a random stream of their own."""
    hospital = HOSPITALS[config.hospital]
    rng = np.random.default_rng([config.seed, sorted(HOSPITALS).index(config.hospital), index])
    sex = "F" if rng.random() < hospital.female_share else "M"
    age = int(np.clip(rng.normal(hospital.age_mean, hospital.age_std), 18, 97))
    first_visit = date(2014, 1, 1) + timedelta(days=int(rng.integers(0, 3000)))
    birth = first_visit - timedelta(days=int(age * 365.25 + rng.integers(0, 365)))
    person = Person(
        index=index,
        patient_id=f"{rng.integers(10**7, 10**8):08d}",
        name=f"{rng.choice(LAST_NAMES)}^{rng.choice(FIRST_NAMES)}",
        birth=birth,
        anatomy=draw_patient(rng, sex, age),
    )
    studies: list[Study] = []
    count = 1 + int(rng.poisson(config.studies_per_patient - 1))
    when = first_visit
    inpatient = bool(rng.random() < hospital.inpatient_share)
    for number in range(count):
        before = studies[-1] if studies else None
        findings = draw_findings(rng, hospital.finding_rates, age, inpatient, before.findings if before else [])
        devices = draw_devices(rng, hospital.device_rates, inpatient, hospital.incorrect_rate, before.devices if before else [])
        report = write_report(
            rng,
            _habits(config, hospital),
            findings,
            devices,
            before.findings if before else None,
            before.devices if before else [],
            inpatient,
            "Single portable AP view" if inpatient else "Frontal and lateral views",
        )
        accession = f"A{rng.integers(10**8, 10**9)}"
        studies.append(Study(number, when, inpatient, findings, devices, report, accession))
        when += timedelta(days=int(rng.integers(1, 6) if inpatient else rng.integers(30, 700)))
        inpatient = bool(rng.random() < (0.75 if inpatient else 0.15))
    return person, studies


def _habits(config: PhantomConfig, hospital: Hospital) -> Any:
    habits = hospital.habits
    if config.device_mention_rate is not None:
        habits = replace(habits, device_mention_rate=config.device_mention_rate)
    if config.finding_mention_rate is not None:
        habits = replace(habits, finding_mention_rate=config.finding_mention_rate)
    return habits


def render_views(config: PhantomConfig, person: Person, study: Study) -> tuple[Scanner, list[View]]:
    """The images of a study on one of the hospital's scanners."""
    hospital = HOSPITALS[config.hospital]
    rng = np.random.default_rng([config.seed, 7, person.index, study.number])
    cv2.setNumThreads(1)
    names = list(hospital.scanners)
    shares = np.array(list(hospital.scanners.values()))
    scanner = SCANNERS[names[int(rng.choice(len(names), p=shares / shares.sum()))]]
    views = [(FRONTAL, "AP" if study.inpatient else "PA")]
    if not study.inpatient and rng.random() < config.lateral_rate:
        views.append((LATERAL, "LL" if rng.random() < 0.7 else "LATERAL"))
    chest = Chest(person.anatomy)
    change_anatomy(chest, study.findings)
    if study.inpatient:  # lying down: shallower breath, larger heart shadow
        chest.heart *= 1.05
        chest.dome_right -= 8
        chest.dome_left -= 8
    rendered = []
    for view, position in views:
        canvas = canvas_for(view, config.image_size_px, study.inpatient, rng)
        image = project_chest(chest, canvas)
        add_findings(chest, canvas, image, study.findings)
        mask, tips = add_devices(chest, canvas, image, study.devices)
        rendered.append(View(view, position, render(image, canvas, scanner, study.inpatient, rng), mask, tips))
    return scanner, rendered


def _write_patient(config: PhantomConfig, out: Path, index: int) -> dict[str, Any]:
    person, studies = draw_person(config, index)
    rows: dict[str, Any] = {"reports": [], "labels": [], "devices": [], "counts": {"studies": len(studies), "images": 0}}
    dirt = np.random.default_rng([config.seed, 11, index])
    for study in studies:
        scanner, views = render_views(config, person, study)
        study_uid = _uid(config, index, study.number)
        folder = out / "dicom" / person.patient_id / study_uid
        folder.mkdir(parents=True, exist_ok=True)
        for number, view in enumerate(views):
            sop_uid = _uid(config, index, study.number, number)
            data = _dicom_bytes(config, person, study, scanner, view, study_uid, sop_uid)
            (folder / f"{sop_uid}.dcm").write_bytes(data)
            rows["counts"]["images"] += 1
            _add_dirt(dirt, config.dirt_rate, folder, sop_uid, data, rows["counts"])
            if view.view == FRONTAL:
                cv2.imwrite(str(out / "truth" / "masks" / f"{sop_uid}.png"), view.mask)
                rows["devices"] += _device_rows(study, view, sop_uid)
        rows["labels"].append(_truth(study))
        setting = "inpatient" if study.inpatient else "outpatient"
        rows["reports"].append(
            {
                "accession_number": study.accession,
                "patient_id": person.patient_id,
                "study_date": study.when.isoformat(),
                "care_setting": setting,
                "report": study.report,
            }
        )
    return rows


def _add_dirt(rng: np.random.Generator, rate: float, folder: Path, sop_uid: str, data: bytes, counts: dict[str, int]) -> None:
    """What real archives hold too: a file cut short, a copy, something that is no image."""
    draws = rng.random(3)
    kinds = (
        ("damaged", "cut", data[: len(data) // 3]),
        ("duplicates", "copy", data),
        ("foreign", "note", b"not a DICOM file\n"),
    )
    for draw, (kind, suffix, content) in zip(draws, kinds, strict=True):
        if draw < rate:
            (folder / f"{sop_uid}.{suffix}.dcm").write_bytes(content)
            counts[kind] = counts.get(kind, 0) + 1


def _truth(study: Study) -> dict[str, Any]:
    present = {finding.key for finding in study.findings}
    tubes = {device.code for device in study.devices}
    values = {key: int(key in present) for key in FINDINGS} | {code: int(code in tubes) for code in DEVICES}
    return {"accession_number": study.accession, **values, "no_finding": int(not present), "NT": int(not tubes)}


def _device_rows(study: Study, view: View, sop_uid: str) -> Iterator[dict[str, Any]]:
    for index, device in enumerate(study.devices):
        column, row = view.tips[index]
        yield {
            "accession_number": study.accession,
            "sop_uid": sop_uid,
            "type": device.code,
            "side": {-1: "right", 1: "left", 0: "midline"}[device.side],
            "tip": device.tip,
            "placement": device.placement,
            "mask_value": DEVICES.index(device.code) + 1,
            "tip_x_px": f"{column:.1f}",
            "tip_y_px": f"{row:.1f}",
        }


def _uid(config: PhantomConfig, *numbers: int) -> str:
    """A UID under the root for generated ones (PS3.5 B.2), the same for the same study."""
    draws = np.random.default_rng([config.seed, 13, sorted(HOSPITALS).index(config.hospital), *numbers]).integers(
        10**17, 10**18, 2
    )
    return f"{UID_ROOT}.{draws[0]}{draws[1]}"


def _voi_lut(bits: int) -> Dataset:
    """A gentle S-curve over all stored values, as a VOI LUT (PS3.3 C.11.2)."""
    lut = Dataset()
    steps = np.linspace(-1, 1, 1 << bits)
    table = np.rint((0.5 + 0.5 * np.tanh(1.4 * steps) / np.tanh(1.4)) * ((1 << bits) - 1)).astype("<u2")
    lut.add_new("LUTDescriptor", "US", [len(table), 0, bits])
    lut.LUTExplanation = "STANDARD"
    lut.add_new("LUTData", "OW", table.tobytes())
    return lut


def _dicom_bytes(
    config: PhantomConfig, person: Person, study: Study, scanner: Scanner, view: View, study_uid: str, sop_uid: str
) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(STORAGE_CLASS[scanner.modality])
    meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID("2.25.1")
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    when = study.when.strftime("%Y%m%d")
    age = (study.when - person.birth).days // 365
    rng = np.random.default_rng([config.seed, 17, person.index, study.number])
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY"] if rng.random() < 0.8 else ["DERIVED", "PRIMARY"]
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, sop_uid
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = when
    header.StudyTime = f"{rng.integers(0, 24):02d}{rng.integers(0, 60):02d}00"
    header.AccessionNumber, header.Modality = study.accession, scanner.modality
    header.Manufacturer, header.ManufacturerModelName = scanner.manufacturer, scanner.model
    header.InstitutionName = f"Phantom {config.hospital} hospital"
    header.InstitutionalDepartmentName = "ICU" if study.inpatient else "OUTPATIENT CLINIC"
    header.ReferringPhysicianName = "WEBER^R"
    header.StudyDescription = "XR CHEST PORTABLE" if study.inpatient else "XR CHEST 2 VIEWS"
    header.PatientName, header.PatientID = person.name, person.patient_id
    header.PatientBirthDate, header.PatientSex = person.birth.strftime("%Y%m%d"), person.anatomy.sex
    header.PatientAge = f"{age:03d}Y"
    groups = HOSPITALS[config.hospital].ethnic_groups
    header.EthnicGroup = str(
        np.random.default_rng([config.seed, 18, person.index]).choice(list(groups), p=list(groups.values()))
    )
    header.BodyPartExamined = "CHEST"
    header.BurnedInAnnotation = "NO"
    if rng.random() > HOSPITALS[config.hospital].missing_view_rate:
        header.ViewPosition = view.position
    header.StudyInstanceUID, header.SeriesInstanceUID = study_uid, f"{study_uid[:-1]}1"
    header.StudyID, header.SeriesNumber, header.InstanceNumber = str(study.number + 1), 1, 1
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, scanner.photometric
    header.Rows, header.Columns = view.pixels.shape
    header.PixelSpacing = [f"{345 / config.image_size_px:.4f}"] * 2
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, scanner.bits, scanner.bits - 1, 0
    levels = (1 << scanner.bits) - 1
    # An image for presentation has a window or a VOI LUT (PS3.3 C.8.11.3.1.5), and says how to present its values.
    header.PresentationIntentType = "FOR PRESENTATION"
    header.PresentationLUTShape = "INVERSE" if scanner.photometric == "MONOCHROME1" else "IDENTITY"
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", "1", "US"
    if scanner.windowed:
        header.WindowCenter, header.WindowWidth = str(levels // 2), str(levels)
    else:
        header.VOILUTSequence = [_voi_lut(scanner.bits)]
    stored = levels - view.pixels if scanner.photometric == "MONOCHROME1" else view.pixels
    header.PixelData = stored.astype("<u2").tobytes()
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
