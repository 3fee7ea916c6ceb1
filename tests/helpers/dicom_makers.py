"""DICOM files for tests, made without any code of ours."""

import io

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

SECRET = bytes(range(32))


def make_dicom(
    pixels: np.ndarray, transfer_syntax: str = ExplicitVRLittleEndian, encoded: bytes | None = None, **fields: object
) -> bytes:
    """A DICOM file as bytes; `encoded` are the bytes of a compressed frame."""
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = UID(str(fields.get("SOPInstanceUID", "1.2.3")))
    meta.TransferSyntaxUID = UID(transfer_syntax)
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = 8 * pixels.dtype.itemsize
    header.BitsStored = header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PatientID, header.StudyInstanceUID, header.SOPInstanceUID = "P1", "1.2.3.4", "1.2.3"
    header.PixelData = pixels.tobytes() if encoded is None else encapsulate([encoded])
    if encoded is not None:
        header["PixelData"].is_undefined_length = True
    for name, value in fields.items():
        setattr(header, name, value)
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
