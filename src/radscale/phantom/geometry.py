"""Solids and curves in space, and their projections: what an X-ray adds up along its path.

Space is in millimetres with the origin behind the sternal notch: x to the patient's left, y to the back, z downwards. A frontal
image shows x (patient's left on the right) and z, a lateral image y and z.
"""

from dataclasses import dataclass

import cv2
import numpy as np

FRONTAL, LATERAL = "frontal", "lateral"
SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Canvas:
    """A view's pixel grid."""

    view: str
    size_px: int
    field_mm: float
    """Width and height of the field."""
    top_mm: float
    """z of the upper edge."""

    @property
    def mm_per_px(self) -> float:
        return self.field_mm / self.size_px

    @property
    def horizontal(self) -> int:
        """Index of the space axis along image columns."""
        return 0 if self.view == FRONTAL else 1

    @property
    def depth(self) -> int:
        """Index of the space axis along the rays."""
        return 1 if self.view == FRONTAL else 0

    def columns_mm(self) -> np.ndarray:
        return ((np.arange(self.size_px) + 0.5) * self.mm_per_px - self.field_mm / 2).astype(np.float32)

    def rows_mm(self) -> np.ndarray:
        return ((np.arange(self.size_px) + 0.5) * self.mm_per_px + self.top_mm).astype(np.float32)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) mm -> (n, 2) pixels (column, row)."""
        columns = (points[:, self.horizontal] + self.field_mm / 2) / self.mm_per_px - 0.5
        rows = (points[:, 2] - self.top_mm) / self.mm_per_px - 0.5
        return np.stack([columns, rows], axis=1)

    def empty(self) -> np.ndarray:
        return np.zeros((self.size_px, self.size_px), np.float32)


@dataclass(frozen=True)
class Ellipsoid:
    """A solid of one attenuation."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    density: float
    """Attenuation per mm relative to soft tissue (1); negative where it displaces tissue with air."""
    tilt: float = 0.0
    """Rotation in the frontal plane, in radians; positive lowers the patient's left."""

    def add_to(self, image: np.ndarray, canvas: Canvas, scale: float = 1.0) -> None:
        """Add density times path length to the image, inside the solid's bounding box only."""
        chord, box = self.path_length(canvas)
        if chord is not None:
            image[box] += np.float32(self.density * scale) * chord

    def path_length(self, canvas: Canvas) -> tuple[np.ndarray | None, tuple[slice, slice]]:
        """Millimetres inside the solid along each ray, and the box of the image that it covers."""
        reach = max(self.radii) if self.tilt else None
        h, d = canvas.horizontal, canvas.depth
        half_h = reach if reach and h == 0 else self.radii[h]
        half_z = reach or self.radii[2]
        corner = canvas.project(np.array([self.centre, self.centre], np.float64))[0]
        extent = (half_h / canvas.mm_per_px, half_z / canvas.mm_per_px)
        left, right = (int(np.clip(corner[0] + s * extent[0] + o, 0, canvas.size_px)) for s, o in ((-1, 0), (1, 2)))
        top, bottom = (int(np.clip(corner[1] + s * extent[1] + o, 0, canvas.size_px)) for s, o in ((-1, 0), (1, 2)))
        box = (slice(top, bottom), slice(left, right))
        if right <= left or bottom <= top:
            return None, box
        u = canvas.columns_mm()[left:right][None, :] - self.centre[h]
        v = canvas.rows_mm()[top:bottom][:, None] - self.centre[2]
        # |Q^(1/2) (p + t e)|^2 = 1 is a quadratic in t; the chord is the distance of its roots.
        matrix = self._quadratic_form()
        a = matrix[d, d]
        b = matrix[d, h] * u + matrix[d, 2] * v
        c = matrix[h, h] * u * u + 2 * matrix[h, 2] * u * v + matrix[2, 2] * v * v - 1
        return 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a, box

    def _quadratic_form(self) -> np.ndarray:
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        return (rotation.T @ np.diag(1 / np.square(self.radii)) @ rotation).astype(np.float32)


def smooth_curve(points: np.ndarray, num_points: int = 60) -> np.ndarray:
    """(num_points, 3) smooth curve through (n, 3) points that does not overshoot them."""
    from scipy.interpolate import PchipInterpolator

    points = np.asarray(points, dtype=np.float64)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    parameter = np.r_[0, np.cumsum(np.maximum(steps, 1e-3))]
    return np.asarray(PchipInterpolator(parameter, points)(np.linspace(0, parameter[-1], num_points)))


def draw_on(layer: np.ndarray, canvas: Canvas, points: np.ndarray, width_mm: float, value: float = 1.0) -> None:
    """Draw an antialiased band along a curve in space onto an 8-bit layer, over what is there; 255 stands for 1."""
    pixels = np.round(canvas.project(points) * 2**SUBPIXEL_BITS).astype(np.int32)
    thickness = max(1, round(width_mm / canvas.mm_per_px))
    # Lines thinner than a pixel are drawn fainter instead.
    faint = min(1.0, width_mm / canvas.mm_per_px)
    cv2.polylines(layer, [pixels[:, None]], False, round(255 * value * faint), thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_curve(canvas: Canvas, points: np.ndarray, width_mm: float) -> np.ndarray:
    """(S, S) float32 in [0, 1]: one band on a layer of its own."""
    layer = np.zeros((canvas.size_px, canvas.size_px), np.uint8)
    draw_on(layer, canvas, points, width_mm)
    return layer.astype(np.float32) / 255


def blob_noise(rng: np.random.Generator, size_px: int, scale_px: float) -> np.ndarray:
    """(S, S) smooth noise with zero mean and unit standard deviation, features of about `scale_px`."""
    coarse = max(4, int(np.ceil(size_px / scale_px)))
    noise = rng.standard_normal((coarse, coarse)).astype(np.float32)
    field = cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / max(float(field.std()), 1e-6)
