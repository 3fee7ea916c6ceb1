"""Scanners: from line integrals to the stored values of a DICOM image, each manufacturer in its own way."""

from dataclasses import dataclass

import cv2
import numpy as np

from radscale.phantom.geometry import FRONTAL, Canvas

FIELD_MM, TOP_MM = 345.0, -52.0
BODY = 0.9
"""Line integral that only tissue reaches."""


@dataclass(frozen=True)
class Scanner:
    """One manufacturer's rendering."""

    manufacturer: str
    model: str
    modality: str
    bits: int
    photometric: str
    contrast: float
    """Slope of the tone curve around the middle."""
    equalisation: float
    """How much of the coarse density is taken away, so that lungs and abdomen both show."""
    sharpness: float
    noise: float
    windowed: bool
    """Whether the header carries a window."""
    marker: str
    """Where the side marker is drawn: "top", "bottom" or "" for none."""


SCANNERS = {
    "FUJIFILM": Scanner("FUJIFILM Corporation", "FDR-1000", "CR", 10, "MONOCHROME1", 1.25, 0.42, 0.4, 0.016, True, "top"),
    "Carestream": Scanner("Carestream Health", "DRX-1", "DX", 12, "MONOCHROME2", 1.45, 0.50, 0.7, 0.011, True, "top"),
    "GE": Scanner("GE Healthcare", "Optima XR", "DX", 14, "MONOCHROME2", 1.10, 0.36, 0.3, 0.013, False, "bottom"),
    "SIEMENS": Scanner("SIEMENS", "Ysio", "DX", 12, "MONOCHROME1", 1.55, 0.58, 0.9, 0.012, True, ""),
    "Philips": Scanner("Philips", "DigitalDiagnost", "DX", 15, "MONOCHROME2", 1.30, 0.48, 0.5, 0.010, False, "top"),
    "Canon": Scanner("Canon Inc.", "CXDI", "DX", 12, "MONOCHROME1", 1.20, 0.40, 0.6, 0.015, True, "bottom"),
}


def canvas_for(view: str, size_px: int, portable: bool, rng: np.random.Generator) -> Canvas:
    """The field of an exposure; portable ones are less well centred."""
    spread = 9.0 if portable else 4.0
    field = FIELD_MM * float(rng.uniform(0.97, 1.04)) * (1.05 if portable else 1.0)
    return Canvas(view, size_px, field, TOP_MM + float(rng.normal(0, spread)))


def render(image: np.ndarray, canvas: Canvas, scanner: Scanner, portable: bool, rng: np.random.Generator) -> np.ndarray:
    """(S, S) uint16 stored values, bright for dense whatever the photometric interpretation (that is applied on writing)."""
    body = image
    scatter = coarse_blur(image, 45 / canvas.mm_per_px)
    dose = 0.7 if portable else 1.0
    grain = rng.standard_normal(image.shape).astype(np.float32)
    # Few photons pass through dense parts: noise grows with density.
    grain *= scanner.noise / dose * np.exp(0.28 * np.clip(image, 0, 6))
    image = image + cv2.GaussianBlur(grain, (0, 0), 0.6) * 1.6
    image = image - scanner.equalisation * scatter
    image = image + scanner.sharpness * (image - cv2.GaussianBlur(image, (0, 0), 2.2 / canvas.mm_per_px))
    image = cv2.GaussianBlur(image, (0, 0), (0.9 if portable else 0.6) / canvas.mm_per_px)
    # As scanners do, the tones are chosen for what lies in the body: air around it is black.
    inside = body[::4, ::4] > BODY
    low, high = np.percentile(image[::4, ::4][inside], [3.0, 99.0]) if inside.any() else (0.0, 1.0)
    middle = (image - low) / max(high - low, 1e-6) - 0.5
    toned = 1 / (1 + np.exp(-3.2 * scanner.contrast * middle))
    toned = np.clip((toned - 0.06) / 0.88, 0, 1)
    toned = _collimate(toned, portable, rng)
    if scanner.marker and canvas.view == FRONTAL:
        _draw_marker(toned, scanner, portable)
    levels = (1 << scanner.bits) - 1
    return np.rint(toned * levels * 0.92 + levels * 0.03).astype(np.uint16)


def coarse_blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """A wide Gaussian blur, made on a smaller image: nothing finer than the blur is lost."""
    shrink = max(1, int(sigma_px / 4))
    small = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / shrink)
    return np.asarray(cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_CUBIC))


def _collimate(image: np.ndarray, portable: bool, rng: np.random.Generator) -> np.ndarray:
    """Leaves of the collimator: dark borders, a little askew."""
    if rng.random() > (0.55 if portable else 0.3):
        return image
    size = image.shape[0]
    inset = rng.uniform(0.005, 0.035, 4) * size
    angle = np.deg2rad(rng.normal(0, 1.2))
    box = np.array(
        [[inset[0], inset[1]], [size - inset[2], inset[1]], [size - inset[2], size - inset[3]], [inset[0], size - inset[3]]]
    )
    centred = box - size / 2
    turned = centred @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) + size / 2
    open_field = np.zeros(image.shape, np.float32)
    cv2.fillConvexPoly(open_field, np.round(turned * 16).astype(np.int32), 1.0, cv2.LINE_AA, 4)
    return np.asarray(image * open_field)


def _draw_marker(image: np.ndarray, scanner: Scanner, portable: bool) -> None:
    """A lead letter at the patient's left."""
    size = image.shape[0]
    row = int(size * (0.09 if scanner.marker == "top" else 0.93))
    text = "L AP" if portable else "L"
    letters = np.zeros(image.shape, np.uint8)
    thickness = max(1, size // 260)
    cv2.putText(letters, text, (int(size * 0.87), row), cv2.FONT_HERSHEY_SIMPLEX, size / 620, 255, thickness, cv2.LINE_AA)
    np.maximum(image, letters.astype(np.float32) / 255, out=image)
