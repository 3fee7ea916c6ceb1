"""From DICOM files to a dataset: the tables of four million images, one file to its PNG, and what a second process brings."""

import atexit
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.datasets.archive_files import ArchiveFile, read_archive_file
from radscale.datasets.dataset_tables import write_exclusions, write_manifest
from radscale.datasets.decoded import Decoded
from radscale.datasets.deidentification import Pseudonyms
from radscale.datasets.dicom_source import decode_dicom
from radscale.datasets.ingest_config import IngestConfig
from radscale.datasets.journal import PART_ROWS, Journal
from radscale.datasets.linking import write_links
from radscale.datasets.manifest import JOURNAL_SCHEMA
from radscale.datasets.report_matching import (
    STAGED_SCHEMA,
    TEXTS,
    care_settings,
    connect,
    match_reports,
    unmatched_table,
    view_images,
)
from radscale.datasets.workers import ordered_map

RAW, JPEG_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
SYNTAXES = {"raw": RAW, "JPEG lossless": JPEG_LOSSLESS, "JPEG 2000 lossless": JPEG_2000}
SECRET = bytes(32)
IMAGES_PER_PATIENT, IMAGES_PER_STUDY = 3.4, 1.3
"""Of the paper's data: 4.0 million images of 3.1 million studies and 1.2 million patients."""
SCALING_FILES_PER_PROCESS = 8


def cases(options: Options) -> list[Case]:
    """Tables first, so that the memory of the process is theirs."""
    temporary = tempfile.TemporaryDirectory(prefix="radscale-ingest-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    num_rows = 30_000 if options.quick else 4_000_000
    shape, size_px = ((250, 300), 64) if options.quick else ((2500, 3000), 518)
    # Without the search for text, which the peer does not do; `bench text` measures it.
    config = IngestConfig(kind="dicom", image_size_px=size_px, min_size_px=16, burned_in_text="keep", faces="keep")
    files = _write_files(folder, shape, options.seed)
    tables = Case(
        title=f"splits, stratified ranks, reports, exclusions, laterals and priors of {num_rows:,} images",
        unit="table set",
        workload=lambda number: _write_rows(folder / f"tables{number}", num_rows, options.seed),
        contestants=[Contestant("radscale", "radscale", lambda: _make_tables)],
        rounds=1,
        warm_up=False,
        note="no peer; peak memory is that of the process, with what made the rows",
    )
    single = [
        Case(
            title=f"{name}, {shape[0]} x {shape[1]}, 12 bit, to a PNG of {size_px} px",
            unit="file",
            workload=lambda _, path=path: path,  # type: ignore[misc]
            contestants=[
                Contestant("radscale", "radscale", partial(_radscale, config)),
                Contestant("floor: read and decode only", "imagecodecs", partial(_floor, SYNTAXES[name], shape)),
                Contestant("SimpleITK, one thread", "SimpleITK", partial(_simple_itk, folder, size_px)),
            ],
            rounds=options.repeat or (1 if options.quick else 5),
            note="de-identified and hashed by radscale, only decoded, resized and encoded by SimpleITK",
        )
        for name, path in files.items()
    ]
    processes = min(2, os.cpu_count() or 1)
    count = processes * SCALING_FILES_PER_PROCESS
    scaling = Case(
        title=f"{count} files of JPEG lossless in worker processes, their start included",
        unit="file",
        workload=lambda _: [ArchiveFile(files["JPEG lossless"].name)] * count,
        contestants=[
            Contestant(
                f"radscale, {number} process{'es' * (number > 1)}", "radscale", partial(_pool, config, folder, number), count
            )
            for number in dict.fromkeys((processes, 1))
        ],
        rounds=options.repeat or (1 if options.quick else 3),
    )
    return [tables, *single, scaling]


def _write_files(folder: Path, shape: tuple[int, int], seed: int) -> dict[str, Path]:
    """The same smooth picture with the noise of a detector in each syntax; 6 to 7 MB compressed, as X-rays are."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.random((12, 14)), shape[::-1], interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(smooth * 3000 + 400 + rng.normal(0, 8, shape), 0, 4095).astype(np.uint16)
    encoded = {
        "raw": None,
        "JPEG lossless": imagecodecs.ljpeg_encode(pixels, bitspersample=12),
        "JPEG 2000 lossless": imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True),
    }
    paths = {}
    for name, data in encoded.items():
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = UID(SYNTAXES[name])
        meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
        meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        header = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        header.PatientID, header.PhotometricInterpretation, header.SamplesPerPixel = "1", "MONOCHROME2", 1
        header.Rows, header.Columns = shape
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
        header.PixelData = pixels.tobytes() if data is None else encapsulate([bytes(data)])
        header["PixelData"].is_undefined_length = data is not None
        paths[name] = folder / f"{name.replace(' ', '_')}.dcm"
        header.save_as(paths[name], enforce_file_format=True)
    return paths


def _decode(folder: Path, config: IngestConfig) -> Callable[[ArchiveFile], Decoded]:
    read = partial(read_archive_file, folder, folder, max_bytes=config.max_file_mb << 20)
    return partial(decode_dicom, read, config, Pseudonyms(SECRET))


def _radscale(config: IngestConfig) -> Callable[[Path], Any]:
    def convert(path: Path) -> bytes:
        item = _decode(path.parent, config)(ArchiveFile(path.name))
        assert item.excluded is None, item.excluded
        return item.png

    return convert


def _floor(syntax: str, shape: tuple[int, int]) -> Callable[[Path], Any]:
    """What cannot be saved: the bytes from disk, and the codec."""
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    decoders: dict[str, Callable[[bytes], Any]] = {
        JPEG_LOSSLESS: imagecodecs.ljpeg_decode,
        JPEG_2000: imagecodecs.jpeg2k_decode,
    }

    def decode(path: Path) -> np.ndarray:
        data = dcmread(path).PixelData
        if syntax == RAW:
            return np.frombuffer(data, "<u2").reshape(shape).copy()
        return np.asarray(decoders[syntax](next(generate_frames(data, number_of_frames=1))))

    return decode


def _simple_itk(folder: Path, size_px: int) -> Callable[[Path], Any]:
    import SimpleITK as sitk

    out = str(folder / "theirs.png")

    def convert(path: Path) -> None:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)[:, :, 0]
        image.SetSpacing((1.0, 1.0))
        image.SetOrigin((0.0, 0.0))
        width, height = image.GetSize()
        scale = min(width, height) / size_px
        new = (round(width / scale), round(height / scale))
        kx, ky = width / new[0], height / new[1]
        blur = sitk.SmoothingRecursiveGaussianImageFilter()
        blur.SetSigma([float(np.sqrt((k * k - 1) / (8 * np.log(2)))) for k in (kx, ky)])
        grid = (new, sitk.Transform(), sitk.sitkBSpline, (0.5 * (kx - 1), 0.5 * (ky - 1)), (kx, ky))
        resized = sitk.Resample(blur.Execute(image), *grid, image.GetDirection(), 0.0, sitk.sitkFloat32)
        sitk.WriteImage(sitk.Cast(sitk.RescaleIntensity(resized, 0, 255), sitk.sitkUInt8), out)

    return convert


def _pool(config: IngestConfig, folder: Path, num_processes: int) -> Callable[[list[ArchiveFile]], Any]:
    decode = _decode(folder, config)

    def convert(entries: list[ArchiveFile]) -> int:
        preload = decode_dicom.__module__
        items = ordered_map(decode, entries, num_workers=num_processes, on_failure=_failed, preload=preload)
        return sum(len(item.png) for item in items)

    return convert


def _failed(entry: ArchiveFile, failure: str) -> None:
    raise RuntimeError(f"{entry.name}: its worker {failure}")


@dataclass(frozen=True)
class _Rows:
    """A made journal and made reports."""

    folder: Path
    journal: Journal


def _write_rows(folder: Path, num_rows: int, seed: int) -> _Rows:
    """Journal of an archive in which one input of 25 is excluded, with a report for each study and one of 20 that fits none."""
    rng = np.random.default_rng(seed)
    (folder / "journal").mkdir(parents=True)
    (folder / "reports").mkdir()
    num_patients, num_studies = max(1, round(num_rows / IMAGES_PER_PATIENT)), max(1, round(num_rows / IMAGES_PER_STUDY))
    for start in range(0, num_rows, PART_ROWS):
        count = min(PART_ROWS, num_rows - start)
        studies = rng.integers(0, num_studies, count)
        excluded = rng.random(count) < 0.04
        columns: dict[str, Any] = {name: pa.nulls(count, JOURNAL_SCHEMA.field(name).type) for name in JOURNAL_SCHEMA.names}
        columns |= {
            "source": _hashes(np.arange(start, start + count), 1),
            "sample_id": _hashes(np.arange(start, start + count), 2),
            "study_id": _hashes(studies, 3),
            "patient_id": _hashes(studies % num_patients, 4),
            "accession_id": _hashes(studies, 5),
            "shifted_day": pa.array((studies % 4000 + 730_000).astype(np.int32)),
            "sha256": pc.binary_repeat(_hashes(np.arange(start, start + count), 6), 3),
            "reason": pa.array(np.where(excluded, "duplicate", ""), mask=~excluded),
            "view": pa.array(["frontal"] * count),
            "sex": pa.array(rng.choice(["F", "M"], count)),
            "age_years": pa.array(rng.integers(0, 91, count).astype(np.int32)),
            "manufacturer": pa.array(rng.choice([f"MAKER {number}" for number in range(19)], count)),
            "shard": pa.array([f"shards/{start // PART_ROWS:06d}.tar"] * count),
            "offset": pa.array(np.arange(count) * 140_000),
            "size_bytes": pa.array(np.full(count, 139_000)),
            "names": pa.array([["NAME", "GIVEN"]] * count),
        }
        path = folder / "journal" / f"{start:010d}-{start + count:010d}.parquet"
        pq.write_table(pa.table([columns[name] for name in JOURNAL_SCHEMA.names], schema=JOURNAL_SCHEMA), path)
    for start in range(0, num_studies, PART_ROWS):
        numbers = np.arange(start, min(start + PART_ROWS, num_studies))
        shown = np.where(numbers % 20 == 0, numbers + num_studies, numbers)
        columns = {name: pa.nulls(len(numbers), STAGED_SCHEMA.field(name).type) for name in STAGED_SCHEMA.names}
        columns |= {name: pa.array(["Clear lungs."] * len(numbers)) for name in TEXTS}
        columns |= {"number": pa.array(numbers), "source": _hashes(shown, 7), "accession_id": _hashes(shown, 5)}
        columns["care_setting"] = pa.array(["inpatient"] * len(numbers))
        table = pa.table([columns[name] for name in STAGED_SCHEMA.names], schema=STAGED_SCHEMA)
        pq.write_table(table, folder / "reports" / f"{start:010d}.parquet")
    return _Rows(folder, Journal(folder / "journal", JOURNAL_SCHEMA))


def _hashes(numbers: np.ndarray, kind: int) -> pa.Array:
    """20 hexadecimal digits that look as random as pseudonyms do."""
    factor = 0x9E3779B97F4A7C15F39D
    return pa.array([f"{(int(number) + 1) * factor * (2 * kind + 1) % 2**80:020x}" for number in numbers])


def _make_tables(rows: _Rows) -> int:
    """All that an ingest does after the last image, except scrubbing the texts of the reports, which is the workers' work."""
    config = IngestConfig(kind="dicom", stratify_by=["sex", "view", "age", "manufacturer"])
    with connect(rows.folder) as database:
        view_images(database, rows.journal)
        match_reports(database, rows.folder / "reports", config.report_window_hours, None, None)
        pq.write_table(unmatched_table(database), rows.folder / "unmatched_reports.parquet")
        settings = care_settings(database)
    path = rows.folder / "manifest.parquet"
    counts = write_manifest(path, config, rows.journal, None, 0, official=False, settings=settings)
    write_exclusions(rows.folder / "exclusions.parquet", rows.journal, None, 0)
    with connect(rows.folder / "work") as database:
        write_links(database, path, rows.folder / "links.parquet")
    return counts["images"]
