"""Nineteen findings with a visible signature each. Strength varies, so that some are plain and some are hardly there."""

from collections.abc import Callable

import cv2
import numpy as np

from radscale.phantom.anatomy import Chest, carina, lung_path
from radscale.phantom.geometry import FRONTAL, Canvas, Ellipsoid, blob_noise, draw_curve, smooth_curve

FINDINGS = (
    "hyperinflation",
    "interstitial_lung_disease_pattern",
    "atelectasis",
    "costophrenic_angle_blunting",
    "pleural_effusion",
    "pneumothorax",
    "adenopathy",
    "enlarged_pulmonary_artery",
    "arterial_calcification",
    "osseous_abnormalities",
    "rib_fracture",
    "bronchial_wall_thickening",
    "hernia",
    "subcutaneous_air",
    "opacity",
    "vascular_congestion",
    "cardiomegaly",
    "diaphragm_elevation",
    "pulmonary_edema",
)
SIDED = {
    "atelectasis", "costophrenic_angle_blunting", "pleural_effusion", "pneumothorax", "rib_fracture", "subcutaneous_air",
    "opacity", "diaphragm_elevation",
}  # fmt: skip


class Finding:
    """One finding of one study: its side (-1 right, 1 left, 0 none), strength in (0, 1], and a seed for its shape."""

    def __init__(self, key: str, side: int, strength: float, seed: int) -> None:
        self.key, self.side, self.strength, self.seed = key, side, strength, seed

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def change_anatomy(chest: Chest, findings: list[Finding]) -> None:
    """Findings that alter organs: applied before the chest is projected."""
    for finding in findings:
        s = finding.strength
        if finding.key == "cardiomegaly":
            chest.heart *= 1.16 + 0.26 * s
        elif finding.key == "hyperinflation":
            chest.dome_right += 10 + 14 * s
            chest.dome_left += 10 + 14 * s
            chest.dome_flat *= 0.55 - 0.35 * s
            chest.lucency *= 1.06 + 0.10 * s
        elif finding.key == "diaphragm_elevation":
            shift = -(22 + 26 * s)
            chest.dome_right += shift if finding.side < 0 else 0
            chest.dome_left += shift if finding.side > 0 else 0
        elif finding.key == "enlarged_pulmonary_artery":
            chest.artery *= 1.4 + 0.6 * s
        elif finding.key == "vascular_congestion":
            chest.vessels *= 1.3 + 0.5 * s
            chest.upper_vessels *= 1.2 + 0.5 * s
        elif finding.key == "rib_fracture":
            rng = finding.rng()
            first = int(rng.integers(3, 7))
            for rib in range(first, first + 1 + int(s > 0.5)):
                chest.rib_breaks.append((finding.side, rib, float(rng.uniform(0.40, 0.56))))
        elif finding.key == "osseous_abnormalities" and s > 0:
            chest.spine_curve += float(finding.rng().choice([-1, 1])) * (9 + 14 * s)


def add_findings(chest: Chest, canvas: Canvas, image: np.ndarray, findings: list[Finding]) -> None:
    """Findings that add or take away density: applied to the projected image, in place."""
    for finding in findings:
        painter = PAINTERS.get(finding.key)
        if painter is not None:
            painter(chest, canvas, image, finding)


def _lung(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    return np.clip(lung_path(chest, canvas, side) * 3, 0, 1)


def _base_z(chest: Chest, side: int) -> float:
    p = chest.patient
    return p.dome_right + chest.dome_right if side < 0 else p.dome_left + chest.dome_left


def _lateral_distance(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    """(1, S) 0 at the spine, 1 at the chest wall of a side (in a lateral view: at the back)."""
    u = canvas.columns_mm()[None, :]
    if canvas.view == FRONTAL:
        return np.clip(side * u / (chest.patient.thorax_width * 0.95), 0, 1.1)
    return np.clip((u + chest.patient.thorax_depth) / (2 * chest.patient.thorax_depth), 0, 1.1)


def _fluid(chest: Chest, canvas: Canvas, side: int, height_mm: float) -> np.ndarray:
    """Fluid in the pleural space: a level that climbs towards the chest wall (the meniscus)."""
    bottom = _base_z(chest, side) + 30
    edge = bottom - height_mm * (0.25 + 0.95 * _lateral_distance(chest, canvas, side) ** 2.2)
    below = 1 / (1 + np.exp(-(canvas.rows_mm()[:, None] - edge) / 4.0))
    reach = canvas.columns_mm()[None, :]
    inside = side * reach > 0 if canvas.view == FRONTAL else np.ones(1)
    return below * inside * (canvas.rows_mm()[:, None] < bottom + 25)


def _pleural_effusion(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    fluid = _fluid(chest, canvas, finding.side, 40 + 80 * finding.strength)
    image += 1.0 * fluid * np.clip(lung_path(chest, canvas, finding.side) * 3 + 0.15, 0, 1)


def _blunting(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    distance = _lateral_distance(chest, canvas, finding.side)
    corner = np.exp(-(((1.0 - distance) / 0.16) ** 2)) * np.exp(
        -(((canvas.rows_mm()[:, None] - _base_z(chest, finding.side) - 24) / (10 + 12 * finding.strength)) ** 2)
    )
    image += (0.9 + 0.5 * finding.strength) * corner * _lung(chest, canvas, finding.side)


def _pneumothorax(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    lung = lung_path(chest, canvas, finding.side)
    depth = 10 + 26 * finding.strength
    shift = max(1, round(depth / canvas.mm_per_px))
    inner = cv2.erode((lung > 0.02).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (shift, shift)))
    gap = ((lung > 0.02) & (inner == 0)).astype(np.float32) * np.clip(
        1.3 - (canvas.rows_mm()[:, None] - 20) / (chest.patient.lung_height * (0.35 + 0.5 * finding.strength)), 0, 1
    )
    gap = gap * (_lateral_distance(chest, canvas, finding.side) > 0.18)
    # No vessels in the free air, and a thin white line where the lung ends.
    smooth = cv2.GaussianBlur(image, (0, 0), 6 / canvas.mm_per_px)
    image += gap * (np.minimum(smooth - image, 0) * 0.9 - 0.13)
    edge = cv2.morphologyEx(inner, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)).astype(np.float32)
    near = cv2.dilate(gap, np.ones((3, 3), np.uint8))
    image += 0.16 * edge * np.clip(near, 0, 1)


def _atelectasis(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    for _ in range(1 + int(finding.strength > 0.45)):
        z = _base_z(chest, finding.side) - rng.uniform(12, 45)
        x = finding.side * p.thorax_width * rng.uniform(0.3, 0.55)
        half = rng.uniform(20, 36)
        slope = rng.normal(0, 8)
        y = rng.uniform(-25, 35)
        band = np.array([[x - half, y - 15, z - slope], [x, y, z + rng.normal(0, 3)], [x + half, y + 15, z + slope]])
        layer = draw_curve(canvas, smooth_curve(band, 20), 3.5 + 5 * finding.strength)
        image += (0.22 + 0.22 * finding.strength) * layer * _lung(chest, canvas, finding.side)


def _cloud(canvas: Canvas, centre: np.ndarray, radius_mm: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.project(centre[None])[0]
    u = (np.arange(canvas.size_px)[None, :] - x) * canvas.mm_per_px / radius_mm[0]
    v = (np.arange(canvas.size_px)[:, None] - y) * canvas.mm_per_px / radius_mm[1]
    texture = 1 + 0.45 * blob_noise(rng, canvas.size_px, 9 / canvas.mm_per_px)
    return np.exp(-((u * u + v * v) ** 1.3)) * np.clip(texture, 0, 2)


def _opacity(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    centre = np.array(
        [finding.side * p.thorax_width * rng.uniform(0.35, 0.65), rng.uniform(-40, 45), p.lung_height * rng.uniform(0.35, 0.85)]
    )
    radius = rng.uniform(16, 30, 2)
    cloud = _cloud(canvas, centre, (float(radius[0]), float(radius[1])), rng)
    image += (0.22 + 0.42 * finding.strength) * cloud * _lung(chest, canvas, finding.side)


def _edema(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    for side in (-1, 1):
        centre = np.array([side * p.thorax_width * 0.38, 10.0, 14 + p.lung_height * 0.48])
        haze = _cloud(canvas, centre, (40.0, 52.0), rng)
        image += (0.14 + 0.34 * finding.strength) * haze * _lung(chest, canvas, side)
        for index in range(6):  # Kerley B lines
            z = _base_z(chest, side) - 8 - 7 * index
            x = side * p.thorax_width * 0.86
            line = np.array([[x, 0, z], [x - side * 14, 0, z + 1.5]])
            image += 0.12 * finding.strength * draw_curve(canvas, line, 1.2) * _lung(chest, canvas, side)


def _interstitial(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng = finding.rng()
    net = np.abs(blob_noise(rng, canvas.size_px, 4.2 / canvas.mm_per_px))
    net = np.clip(0.55 - net, 0, 1) * 1.8
    for side in (-1, 1):
        low = np.clip((canvas.rows_mm()[:, None] - 40) / (chest.patient.lung_height * 0.6), 0.15, 1)
        image += (0.07 + 0.13 * finding.strength) * net * low * _lung(chest, canvas, side)


def _adenopathy(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    for side in (-1, 1):
        for _ in range(3):
            centre = (
                side * rng.uniform(30, 46),
                float(rng.uniform(5, 20)),
                12 + p.lung_height * float(rng.uniform(0.28, 0.46)),
            )
            radius = 8 + 7 * finding.strength
            Ellipsoid(centre, (radius, radius, radius), 0.012).add_to(image, canvas)


def _calcification(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    p = chest.patient
    angle = np.linspace(-0.9, 1.3 + finding.strength, 24)
    radius = 15 + 6 * p.aorta_bulge
    centre = np.array([21 + 7 * p.aorta_bulge, 14, 58 + p.lung_height * 0.07])
    arc = centre + np.stack([radius * np.cos(angle), 4 * np.sin(angle), radius * np.sin(angle)], axis=1)
    image += (0.16 + 0.20 * finding.strength) * draw_curve(canvas, arc, 2.6)


def _bronchial(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    start = carina(p)
    for side in (-1, 1):
        for _ in range(4):
            angle = rng.uniform(0.1, 1.1)
            a = start + np.array([side * rng.uniform(30, 44), 5, rng.uniform(18, 50)])
            b = a + rng.uniform(16, 26) * np.array([side * np.cos(angle), 0, np.sin(angle)])
            for shift in (-2.2, 2.2):  # the two walls seen from the side: tram lines
                wall = np.stack([a, b]) + np.array([0, 0, shift])
                image += (0.10 + 0.12 * finding.strength) * draw_curve(canvas, wall, 1.5)
        ring = a + 5.0 * np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 20)), np.sin(t), np.sin(t)], axis=1)
        image += (0.12 + 0.14 * finding.strength) * draw_curve(canvas, ring, 1.6)


def _hernia(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    size = 20 + 16 * finding.strength
    base = _base_z(chest, 1)
    Ellipsoid((6, 40, base - size * 0.55), (size * 1.15, size, size), 0.006).add_to(image, canvas)
    Ellipsoid((6, 36, base - size * 0.85), (size * 0.7, size * 0.6, size * 0.42), -0.012).add_to(image, canvas)


def _subcutaneous_air(chest: Chest, canvas: Canvas, image: np.ndarray, finding: Finding) -> None:
    rng, p = finding.rng(), chest.patient
    wall = p.thorax_width + 16 * p.habitus
    for _ in range(16 + int(18 * finding.strength)):
        z = rng.uniform(-20, 130)
        x = finding.side * (wall - rng.uniform(0, 24) - 0.09 * max(0.0, 60 - z))
        streak = np.array([[x, rng.uniform(-40, 60), z], [x + rng.normal(0, 7), 0, z + rng.uniform(8, 20)]])
        image -= (0.08 + 0.10 * finding.strength) * draw_curve(canvas, streak, float(rng.uniform(1.4, 3.2)))


Painter = Callable[[Chest, Canvas, np.ndarray, Finding], None]
PAINTERS: dict[str, Painter] = {
    "pleural_effusion": _pleural_effusion,
    "costophrenic_angle_blunting": _blunting,
    "pneumothorax": _pneumothorax,
    "atelectasis": _atelectasis,
    "opacity": _opacity,
    "pulmonary_edema": _edema,
    "interstitial_lung_disease_pattern": _interstitial,
    "adenopathy": _adenopathy,
    "arterial_calcification": _calcification,
    "bronchial_wall_thickening": _bronchial,
    "hernia": _hernia,
    "subcutaneous_air": _subcutaneous_air,
}


ACUTE = (
    "pleural_effusion",
    "pneumothorax",
    "atelectasis",
    "pulmonary_edema",
    "opacity",
    "vascular_congestion",
    "subcutaneous_air",
)


def draw_findings(
    rng: np.random.Generator, rates: dict[str, float], age: int, inpatient: bool, before: list[Finding]
) -> list[Finding]:
    """Findings of a study: correlated, and often those of the study before.

    Args:
        rng: of the study.
        rates: probability of each finding in a person of 60.
        age: in years.
        inpatient: acute findings are commoner then.
        before: findings of the patient's study before.
    """
    old = {finding.key: finding for finding in before}
    found: dict[str, Finding] = {}
    for key in ("cardiomegaly", *(name for name in FINDINGS if name != "cardiomegaly")):
        rate = rates[key] * (1.6 if inpatient and key in ACUTE else 1.0)
        if key in ("arterial_calcification", "osseous_abnormalities", "cardiomegaly"):
            rate *= float(np.clip(age / 60, 0.2, 1.6))
        if key in ("pulmonary_edema", "vascular_congestion", "pleural_effusion") and "cardiomegaly" in found:
            rate *= 2.2
        if key == "costophrenic_angle_blunting" and "pleural_effusion" in found:
            rate *= 2.0
        if key == "pulmonary_edema" and "pleural_effusion" in found:
            rate *= 1.5
        if key in old:
            rate = 0.55 if key in ACUTE else 0.97
        draws = rng.random(), rng.random(), rng.integers(2**31), rng.choice([-1, 1])
        if draws[0] < min(rate, 0.97):
            if key in old:
                strength = float(np.clip(old[key].strength * rng.uniform(0.7, 1.35), 0.1, 1))
                found[key] = Finding(key, old[key].side, strength, old[key].seed)
            else:
                side = int(draws[3]) if key in SIDED else 0
                found[key] = Finding(key, side, 0.15 + 0.85 * float(draws[1]), int(draws[2]))
    if "rib_fracture" in found and "osseous_abnormalities" not in found:
        # A fracture is an osseous abnormality; its own signature is all that shows.
        found["osseous_abnormalities"] = Finding("osseous_abnormalities", 0, 0.0, found["rib_fracture"].seed)
    return list(found.values())
