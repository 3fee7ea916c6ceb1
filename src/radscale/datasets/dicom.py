"""Read a chest X-ray from a DICOM file: pixels in the units of its modality, and the few fields that radscale may know.

Clauses are those of the DICOM standard (PS3.3, PS3.5).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset as DicomDataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from radscale.datasets.exclusions import Excluded

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", EXPLICIT_BIG_ENDIAN}
RLE = "1.2.840.10008.1.2.5"
MAX_PIXEL_ASPECT = 4.0
MAX_AGE_YEARS = 120
MAX_PIXELS = 150_000_000
"""Ten times the largest detectors: a header that says more is damaged or hostile."""
GREY_IN_COLOURS = ("RGB",)
"""Secondary captures (PS3.3 A.8) store grey images so; read if their three samples are equal (C.7.6.3.1.2)."""


def _decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Decoders of compressed transfer syntaxes (PS3.5 A.4); all permissively licensed, inside imagecodecs."""
    import imagecodecs

    jpeg8, lossless = imagecodecs.jpeg8_decode, imagecodecs.ljpeg_decode
    return {
        "1.2.840.10008.1.2.4.50": jpeg8,
        "1.2.840.10008.1.2.4.51": jpeg8,
        "1.2.840.10008.1.2.4.57": lossless,
        "1.2.840.10008.1.2.4.70": lossless,
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
        "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
        "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
        "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_decode,
        "1.2.840.10008.1.2.4.202": imagecodecs.htj2k_decode,
        "1.2.840.10008.1.2.4.203": imagecodecs.htj2k_decode,
    }


@dataclass(frozen=True)
class DicomImage:
    """One decoded image and its allow-listed fields. The ids are still the hospital's: they must be made pseudonyms."""

    pixels: np.ndarray
    """(H, W) float32; larger is denser tissue (brighter), whatever the photometric interpretation."""
    valid: np.ndarray | None
    """(H, W) bool, false at padding; None if all pixels count."""
    pixel_aspect: float
    """Height of a pixel over its width."""
    patient_id: str
    study_uid: str
    sop_uid: str
    accession_number: str
    study_date: str
    study_time: str
    view_position: str
    view: str
    sex: str | None
    age_years: int | None
    manufacturer: str | None
    image_type: str | None
    """ORIGINAL or DERIVED, and PRIMARY or SECONDARY, with a slash; None if the header says neither."""
    ethnicity: str
    """Ethnic Group, in the hospital's words."""
    department: str
    """Requesting Service, else Institutional Department Name, in the hospital's words."""
    model: str
    """Manufacturer's Model Name: only to know where the device writes."""
    body_part: str
    """Body Part Examined."""
    names: tuple[str, ...]
    """Names and numbers of the patient, only to be scrubbed from the report."""


def read_dicom(source: Path | bytes, *, voi: Literal["none", "window"] = "none") -> DicomImage:
    """Decode one file, or the bytes of one.

    Values are those after the modality transformation. A window or VOI LUT (C.11.2) is a way to look at them, and is not
    applied unless `voi` says so: ingest scales the whole range, as RAD-DINO's data were made.

    Raises:
        Excluded: with a reason and one line without identifying values, if the file holds no usable grey image.
    """
    try:
        if isinstance(source, Path) and not source.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        header = pydicom.dcmread(BytesIO(source) if isinstance(source, bytes) else source)
        if "PixelData" not in header:
            raise Excluded("no_pixels", "no Pixel Data (7FE0,0010)")
        _check_kind(header)
    except Excluded:
        raise
    except MemoryError:  # a deflated file may hold anything
        raise Excluded("too_large", "the header needs more memory than a worker may take") from None
    except Exception as error:  # elements are parsed on first use, and raise whatever their damage makes of them
        raise Excluded("unreadable", f"not a readable DICOM file ({type(error).__name__})") from None
    try:
        stored = _stored_values(header)
    except Excluded:
        raise
    except MemoryError:
        raise Excluded("too_large", "the pixels need more memory than a worker may take") from None
    except Exception as error:  # codecs raise errors of their own on damaged streams
        raise Excluded("unreadable", f"pixels cannot be decoded ({type(error).__name__})") from None
    try:
        valid = _padding_mask(header, stored)
        pixels = _modality_values(header, stored)
        if voi == "window":
            pixels = _windowed(header, pixels)
        # C.7.6.3.1.2: in MONOCHROME1 the lowest value is shown white.
        if header.PhotometricInterpretation == "MONOCHROME1":
            pixels = pixels.max() + pixels.min() - pixels
        return _with_fields(header, pixels, valid)
    except MemoryError:
        raise Excluded("too_large", "the pixels need more memory than a worker may take") from None
    except Exception as error:
        raise Excluded("unreadable", f"a header value is not of its type ({type(error).__name__})") from None


def _modality_values(header: DicomDataset, stored: np.ndarray) -> np.ndarray:
    """(H, W) float32 after the modality LUT, or stored * slope + intercept (PS3.3 C.11.1)."""
    if header.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    if not (np.isfinite(slope) and np.isfinite(intercept) and slope):
        raise ValueError("rescale")
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored * slope + intercept).astype(np.float32)


def _windowed(header: DicomDataset, values: np.ndarray) -> np.ndarray:
    """(H, W) float32 after the VOI LUT, or without one the first window (PS3.3 C.11.2; LINEAR, LINEAR_EXACT and SIGMOID)."""
    if header.get("VOILUTSequence"):
        return np.asarray(apply_voi(np.rint(values).astype(np.int32), header), dtype=np.float32)
    if header.get("WindowCenter") is None or header.get("WindowWidth") is None:
        return values
    return np.asarray(apply_windowing(values, header), dtype=np.float32)


def _pixel_aspect(header: DicomDataset) -> float:
    """Pixel height over width: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), else from the spacings, rows first (10.7.1.3)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = header.get(keyword)
        if isinstance(value, MultiValue) and len(value) == 2:
            height, width = float(value[0]), float(value[1])
            if height > 0 and width > 0 and 1 / MAX_PIXEL_ASPECT <= height / width <= MAX_PIXEL_ASPECT:
                # Spacings are rounded numbers: what is square to a part in a thousand is square.
                return height / width if abs(height / width - 1) > 1e-3 else 1.0
    return 1.0


def _check_kind(header: DicomDataset) -> None:
    rows, columns = int(header.Rows), int(header.Columns)
    if rows * columns > MAX_PIXELS:
        raise Excluded("too_large", f"{columns} x {rows} px are more than {MAX_PIXELS:,}")
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2", *GREY_IN_COLOURS):
        raise Excluded("unsupported", f"(0028,0004) Photometric Interpretation is {_shown(photometric)}; grey images are read")
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise Excluded("unsupported", f"(0028,0008) Number of Frames is {frames}; single images are read")
    samples = int(header.get("SamplesPerPixel", 1))
    if samples != (3 if photometric in GREY_IN_COLOURS else 1):
        raise Excluded("unsupported", f"(0028,0002) Samples per Pixel is {samples}, which does not fit {photometric}")


def _shown(value: str) -> str:
    """A code or UID of a header for a message. In a damaged header any value may have swallowed its neighbours, names too."""
    return (value if re.fullmatch(r"[0-9.]{1,64}|[A-Z0-9_]{1,16}", value) else "no valid code") if value else "missing"


def _stored_values(header: DicomDataset) -> np.ndarray:
    """(Rows, Columns) integers with unused high bits removed and the sign applied (PS3.5 8.1.1)."""
    rows, columns = int(header.Rows), int(header.Columns)
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored", header.BitsAllocated))
    high = int(header.get("HighBit", stored - 1))
    syntax = str(header.file_meta.TransferSyntaxUID)
    if allocated not in (8, 16):
        raise Excluded("unsupported", f"(0028,0100) Bits Allocated is {allocated}; 8 and 16 are read")
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise Excluded("unreadable", f"Bits Stored {stored} and High Bit {high} do not fit Bits Allocated {allocated}")
    samples = int(header.get("SamplesPerPixel", 1))
    raw = _decode(header, syntax, rows, columns, allocated)
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    if raw.shape != shape:
        raise Excluded("unreadable", f"decoded to {raw.shape}, header says {shape}")
    if samples > 1:
        if (raw != raw[..., :1]).any():
            raise Excluded("unsupported", "a picture in colours; grey images are read")
        raw = raw[..., 0]
    signed = int(header.get("PixelRepresentation", 0)) == 1
    if not signed and high == stored - 1 and int(raw.max(initial=0)) >> stored and not _has_embedded_overlay(header):
        stored = _used_bits(raw, stored)
    if not signed and high == stored - 1 and not int(raw.max(initial=0)) >> stored:
        return raw.astype(raw.dtype.newbyteorder("="), copy=False)  # as nearly all are: nothing to cut off
    values = raw.astype(np.int32)
    values = (values >> (high + 1 - int(header.get("BitsStored", allocated)))) & ((1 << stored) - 1)
    if signed:
        sign = 1 << (stored - 1)
        values = (values ^ sign) - sign
    return values


def _has_embedded_overlay(header: DicomDataset) -> bool:
    """Whether an overlay lies in bits of the pixels that are not stored values (60xx,0102; PS3.5 8.1.2, PS3.3 C.9.2)."""
    return any((group, 0x0102) in header and header[group, 0x0102].value for group in range(0x6000, 0x6020, 2))


def _used_bits(values: np.ndarray, stored: int) -> int:
    """Bits Stored (PS3.5 8.1.1), or more where a scanner names too few: cut off, its brightest pixels would turn dark.

    Bits that follow without a gap are the values' own; those beyond a gap are an overlay that nobody declared.
    """
    used = int(np.bitwise_or.reduce(values, axis=None))
    while used >> stored & 1:
        stored += 1
    return stored


def _decode(header: DicomDataset, syntax: str, rows: int, columns: int, allocated: int) -> np.ndarray:
    """(Rows, Columns), or (Rows, Columns, 3), unsigned."""
    samples = int(header.get("SamplesPerPixel", 1))
    planar = samples > 1 and int(header.get("PlanarConfiguration", 0)) == 1  # PS3.3 C.7.6.3.1.3
    shape = (rows, columns) if samples == 1 else (samples, rows, columns) if planar else (rows, columns, samples)
    if syntax in UNCOMPRESSED:
        order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
        data, size = header.PixelData, rows * columns * samples
        if len(data) < size * (allocated // 8):
            raise Excluded("unreadable", f"pixel data end after {len(data) // (allocated // 8)} of {size} values")
        if allocated == 8 and order == ">" and header["PixelData"].VR == "OW":  # PS3.5 A.3: words are swapped, also of bytes
            words = np.frombuffer(data, dtype=">u2")
            values = words.astype("<u2").view(np.uint8)[:size].reshape(shape)
        else:
            values = np.frombuffer(data, dtype=f"{order}u{allocated // 8}", count=size).reshape(shape)
        return np.moveaxis(values, 0, -1) if planar else values
    frame = next(generate_frames(header.PixelData, number_of_frames=1))
    if syntax == RLE:
        return _decode_rle(frame, rows, columns, samples, allocated)
    decoder = _decoders().get(syntax)
    if decoder is None:
        raise Excluded("unsupported", f"transfer syntax {_shown(syntax)} is not read")
    values = decoder(frame)
    values = values if samples > 1 else np.squeeze(values)
    return values.view(np.uint16 if values.dtype.itemsize == 2 else np.uint8)


def _decode_rle(frame: bytes, rows: int, columns: int, samples: int, allocated: int) -> np.ndarray:
    """RLE Lossless (PS3.5 Annex G): one PackBits segment per byte of a sample, most significant first."""
    import imagecodecs

    offsets = np.frombuffer(frame[:64], dtype="<u4")
    size, count = allocated // 8, int(offsets[0])
    if count != samples * size:
        raise Excluded("unreadable", f"{count} RLE segments, {samples * size} are needed (PS3.5 G.2)")
    bounds = [*offsets[1 : count + 1].tolist(), len(frame)]
    planes = np.empty((rows * columns, samples, size), dtype=np.uint8)
    for number in range(count):
        segment = imagecodecs.packbits_decode(frame[bounds[number] : bounds[number + 1]])
        plane = np.frombuffer(segment, np.uint8, count=rows * columns)
        planes[:, number // size, size - 1 - number % size] = plane
    values = planes.view(f"<u{size}")[..., 0]
    return values.reshape((rows, columns) if samples == 1 else (rows, columns, samples))


def _padding_mask(header: DicomDataset, stored: np.ndarray) -> np.ndarray | None:
    """False where Pixel Padding Value (and Range Limit) say that there is no image (PS3.3 C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in header:
        return None
    first = _number(header, "PixelPaddingValue", 0.0)
    last = _number(header, "PixelPaddingRangeLimit", first)
    low, high = min(first, last), max(first, last)
    padded = (stored >= low) & (stored <= high)
    return ~padded if 0 < padded.sum() < padded.size else None


def _number(header: DicomDataset, keyword: str, default: float) -> float:
    value = header.get(keyword)
    return default if value is None or value == "" else float(value)


def _with_fields(header: DicomDataset, pixels: np.ndarray, valid: np.ndarray | None) -> DicomImage:
    text, names = partial(_text, header), _names(header)
    position = normalise_view_position(text("ViewPosition")) or _coded_view(header)
    return DicomImage(
        pixels=pixels,
        valid=valid,
        pixel_aspect=_pixel_aspect(header),
        patient_id=text("PatientID"),
        study_uid=text("StudyInstanceUID"),
        sop_uid=text("SOPInstanceUID"),
        accession_number=text("AccessionNumber"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
        view_position=position,
        view=view_of(position),
        sex=text("PatientSex") if text("PatientSex") in ("M", "F", "O") else None,
        age_years=parse_age(text("PatientAge"), text("PatientBirthDate"), text("StudyDate")),
        manufacturer=_unless_named(text("Manufacturer"), names),
        image_type=_image_type(header),
        ethnicity=text("EthnicGroup"),
        department=text("RequestingService") or text("InstitutionalDepartmentName"),
        model=text("ManufacturerModelName"),
        body_part=text("BodyPartExamined"),
        names=names,
    )


def _unless_named(value: str, names: tuple[str, ...]) -> str | None:
    """A free text that is kept as it is, unless the patient's name or number stands in it."""
    return value if value and not any(name.lower() in value.lower() for name in names) else None


def _image_type(header: DicomDataset) -> str | None:
    """Values 1 and 2 of Image Type (0008,0008), whose words the standard names (PS3.3 C.7.6.1.1.2); the others are free."""
    values = header.get("ImageType")
    words = [str(value).strip().upper() for value in (values if isinstance(values, MultiValue) else [values])[:2]]
    closed = (("ORIGINAL", "DERIVED"), ("PRIMARY", "SECONDARY"))
    known = [word for word, allowed in zip(words, closed, strict=False) if word in allowed]
    return "/".join(known) or None


def _coded_view(header: DicomDataset) -> str:
    """View from the meaning of View Code Sequence (0054,0220), which digital radiographs carry (PS3.3 C.8.11.5)."""
    for code in header.get("ViewCodeSequence") or ():
        meaning = re.sub(r"[^a-z]", "", str(code.get("CodeMeaning", "")).lower())
        for part, position in (("lateral", "LATERAL"), ("anteroposterior", "AP"), ("posteroanterior", "PA")):
            if part in meaning:
                return position
    return ""


def _names(header: DicomDataset) -> tuple[str, ...]:
    """Every person's name in the header, in its parts, and the numbers of patient and study."""
    found: set[str] = set()
    for element in header.iterall():
        if element.VR == "PN":
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            found.update(part for value in values for part in re.split(r"[\^\s=,]+", str(value)) if len(part) > 2)
    for keyword in ("PatientID", "AccessionNumber", "OtherPatientIDs", "InstitutionName"):
        value = header.get(keyword)
        values = value if isinstance(value, MultiValue) else [value]
        found.update(text for item in values if item is not None and len(text := str(item).strip()) > 3)
    return tuple(sorted(found))


def _text(header: DicomDataset, keyword: str) -> str:
    value: Any = header.get(keyword)
    return "" if value is None else str(value).strip()


def normalise_view_position(value: str) -> str:
    """`AP`, `PA`, `LATERAL` or empty, from what scanners write into View Position (0018,5101)."""
    upper = value.upper()
    if upper in ("LL", "RL", "LLO", "RLO") or "LAT" in upper:
        return "LATERAL"
    for position in ("AP", "PA"):
        if upper == position or upper.startswith((position + " ", position + "_")):
            return position
    return ""


def view_of(position: str) -> str:
    """`frontal`, `lateral` or `unknown`."""
    return {"AP": "frontal", "PA": "frontal", "LATERAL": "lateral"}.get(position, "unknown")


def parse_age(age: str, birth_date: str, study_date: str) -> int | None:
    """Whole years from an Age String (PS3.5 6.2: nnnD, nnnW, nnnM or nnnY), else from two dates; 90 for 90 and older.

    None for what cannot be an age (above 120: archives hold 999 for unknown).
    """
    match = re.fullmatch(r"0*(\d{1,4})([DWMY])?", age.strip().upper())
    if match:
        per_year = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, None: 1}[match.group(2)]
        return _pooled_age(int(int(match.group(1)) / per_year))
    if re.fullmatch(r"\d{8}", birth_date) and re.fullmatch(r"\d{8}", study_date):
        return _pooled_age((int(study_date) - int(birth_date)) // 10000)
    return None


def _pooled_age(years: int) -> int | None:
    return min(years, 90) if 0 <= years <= MAX_AGE_YEARS else None
