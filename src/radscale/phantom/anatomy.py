"""A patient's chest: sizes drawn once per patient, the same in every study and both views."""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from radscale.phantom.geometry import FRONTAL, SUBPIXEL_BITS, Canvas, Ellipsoid, blob_noise, draw_curve, draw_on, smooth_curve

TISSUE, AIR_IN_LUNG, BONE = 0.020, -0.0155, 0.022
NUM_RIBS = 10


@dataclass(frozen=True)
class Patient:
    """Anatomy of one person. Lengths in mm; `left` means the patient's left, on the right of a frontal image."""

    sex: str
    habitus: float
    """Thickness of soft tissue, 1 for average."""
    thorax_width: float
    thorax_depth: float
    lung_height: float
    heart_scale: float
    heart_tilt: float
    aorta_bulge: float
    spine_curve: float
    """Sideways amplitude of the spine, in mm."""
    texture_seed: int
    vessel_seed: int
    dome_right: float
    """z of the right diaphragm's top."""
    dome_left: float
    bone: float
    """Bone density, 1 for average."""


def draw_patient(rng: np.random.Generator, sex: str, age: int) -> Patient:
    """Random anatomy for a person of this sex and age."""
    small = 0.93 if sex == "F" else 1.0
    lung_height = float(np.clip(rng.normal(225, 14) * small, 180, 265))
    dome = 18 + lung_height
    return Patient(
        sex=sex,
        habitus=float(np.clip(rng.normal(1.0, 0.18), 0.65, 1.55)),
        thorax_width=float(np.clip(rng.normal(132, 8) * small, 108, 155)),
        thorax_depth=float(np.clip(rng.normal(92, 8) * small, 72, 118)),
        lung_height=lung_height,
        heart_scale=float(np.clip(rng.normal(0.96 + 0.0012 * max(age - 40, 0), 0.05), 0.82, 1.12)),
        heart_tilt=float(rng.normal(0.62, 0.08)),
        aorta_bulge=float(np.clip(rng.normal(0.15 + 0.006 * age, 0.12), 0.1, 1.0)),
        spine_curve=float(rng.normal(0, 1.5)),
        texture_seed=int(rng.integers(2**31)),
        vessel_seed=int(rng.integers(2**31)),
        dome_right=float(dome + rng.normal(0, 5)),
        dome_left=float(dome + 12 + rng.normal(0, 5)),
        bone=float(np.clip(rng.normal(1.1 - 0.004 * max(age - 45, 0), 0.1), 0.6, 1.3)),
    )


@dataclass
class Chest:
    """What findings may change before the chest is projected."""

    patient: Patient
    heart: float = 1.0
    dome_right: float = 0.0
    """Shift of the diaphragm's top in mm, positive downwards."""
    dome_left: float = 0.0
    dome_flat: float = 1.0
    """Below 1: flattened domes."""
    lucency: float = 1.0
    vessels: float = 1.0
    """Calibre of lung vessels, 1 for normal."""
    upper_vessels: float = 1.0
    artery: float = 1.0
    """Calibre of the main pulmonary artery."""
    spine_curve: float = 0.0
    rib_breaks: list[tuple[int, int, float]] = field(default_factory=list)
    """(side, rib, position along it from 0 at the spine to 1)."""


def lungs(patient: Patient, lucency: float = 1.0) -> list[Ellipsoid]:
    """Right and left lung."""
    w, h = patient.thorax_width, patient.lung_height
    density = AIR_IN_LUNG * lucency
    shape = (w * 0.43, patient.thorax_depth * 0.86, h * 0.60)
    centre_z = 8 + h * 0.56
    return [Ellipsoid((side * w * 0.50, 4, centre_z), shape, density, tilt=-side * 0.09) for side in (-1, 1)]


def lung_path(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    """(S, S) share of the largest path through air in one lung (side -1: the patient's right), 0 below the diaphragm."""
    image = canvas.empty()
    solid = lungs(chest.patient)[0 if side < 0 else 1]
    chord, box = solid.path_length(canvas)
    if chord is not None:
        image[box] = chord / (2 * solid.radii[canvas.depth])
    return image * above_diaphragm(chest, canvas, side)


def above_diaphragm(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    """(S, S) 1 in the thorax, 0 in the abdomen, soft where rays graze the dome."""
    p = chest.patient
    top = p.dome_right + chest.dome_right if side < 0 else p.dome_left + chest.dome_left
    u = canvas.columns_mm()[None, :]
    if canvas.view == FRONTAL:
        offset, reach = u - side * p.thorax_width * 0.40, p.thorax_width * 0.52
    else:
        offset, reach = u + 12, p.thorax_depth * 0.95
    dome = top + 46 * chest.dome_flat * (np.abs(offset) / reach) ** 2.4
    return np.clip((dome - canvas.rows_mm()[:, None]) / 7, 0, 1)


def rib_curve(patient: Patient, side: int, rib: int, spine_shift: float = 0.0) -> np.ndarray:
    """(60, 3) points of a rib, from the spine around the side to the front."""
    angle = np.linspace(0.10, 0.93, 60) * np.pi
    level = 4 + rib * patient.lung_height / 10.5
    swell = np.clip(0.62 + 0.085 * rib, 0.62, 1.0)
    x = side * (patient.thorax_width * swell * np.sin(angle) ** 0.72) + spine_shift
    y = patient.thorax_depth * 0.92 * np.cos(angle)
    drop = (18 + 7.5 * rib) * (1 - np.cos(angle)) / 1.7 - 10 * np.sin(angle) ** 2
    return np.stack([x, y, level + drop], axis=1)


def spine_x(chest: Chest, z: np.ndarray) -> np.ndarray:
    """Sideways place of the spine at a height."""
    bend = chest.patient.spine_curve + chest.spine_curve
    return bend * np.sin(np.pi * (z + 20) / 260)


CALIBRES_MM = (0.5, 0.8, 1.2, 1.7, 2.3, 3.1, 4.0, 5.2, 7.0)
BRANCH_PARAMETER = np.linspace(0, 1, 6)[:, None]


@lru_cache(maxsize=64)
def vessel_trees(seed: int, lung_height: float) -> tuple[np.ndarray, np.ndarray]:
    """Branches of both lungs: (n, 6, 3) points and (n,) widths in mm."""
    rng = np.random.default_rng(seed)
    branches: list[tuple[np.ndarray, float]] = []
    for side in (-1, 1):
        hilum = np.array([side * 32.0, 15.0, 18 + lung_height * 0.42])
        for elevation in rng.uniform(-1.35, 1.45, 9):
            heading = np.array([side * np.cos(elevation), rng.normal(0, 0.45), np.sin(elevation)])
            _grow(rng, hilum, heading, rng.uniform(3.6, 5.6), rng.uniform(30, 44), branches, 4)
    return np.stack([points for points, _ in branches]), np.array([width for _, width in branches])


def _grow(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: np.ndarray,
    width: float,
    length: float,
    branches: list[tuple[np.ndarray, float]],
    depth: int,
) -> None:
    heading = heading / np.sqrt(heading @ heading)
    bends = rng.standard_normal((2, 3))
    middle = start + heading * length / 2 + 2.0 * bends[0]
    end = start + heading * length + 3.0 * bends[1]
    t = BRANCH_PARAMETER
    branches.append(((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end, width))
    if depth == 0 or width < 0.9:
        return
    for _ in range(2):
        turn = rng.normal(0, 0.42, 3)
        _grow(rng, end, heading + turn, width * rng.uniform(0.58, 0.78), length * rng.uniform(0.6, 0.85), branches, depth - 1)


def project_chest(chest: Chest, canvas: Canvas) -> np.ndarray:
    """(S, S) float32 line integrals of the chest without devices: larger is denser."""
    p = chest.patient
    image = _soft_tissue(chest, canvas)
    inside = np.maximum(lung_path(chest, canvas, -1), lung_path(chest, canvas, 1))
    air = np.float32(-AIR_IN_LUNG * chest.lucency * 2 * lungs(p)[0].radii[canvas.depth]) * inside
    image -= air
    _mediastinum(chest, canvas, image, air)
    _bones(chest, canvas, image)
    _vessels(chest, canvas, image, inside)
    rng = np.random.default_rng([p.texture_seed, canvas.horizontal])
    grain = 0.6 * blob_noise(rng, canvas.size_px, 6.0) + 0.4 * blob_noise(rng, canvas.size_px, 3.0)
    image += 0.035 * grain * inside + 0.02 * blob_noise(rng, canvas.size_px, 50.0)
    return image


def _soft_tissue(chest: Chest, canvas: Canvas) -> np.ndarray:
    p = chest.patient
    image = canvas.empty()
    wall = 24 * p.habitus
    w, d = p.thorax_width + wall, p.thorax_depth + wall * 0.9
    solids = [
        Ellipsoid((0, 0, 190), (w, d, 430), TISSUE),
        Ellipsoid((0, 0, 380), (w * 1.05, d * 1.05, 210), TISSUE * 0.35),
        Ellipsoid((0, 24, -75), (48 + 6 * p.habitus, 50, 100), TISSUE * 0.7),
    ]
    for side in (-1, 1):
        if canvas.view == FRONTAL:  # in a lateral view the arms are raised
            solids.append(Ellipsoid((side * (w + 4), 20, 10), (95, 60, 70), TISSUE * 0.5, tilt=side * 0.35))
            solids.append(Ellipsoid((side * (w + 40), 10, 190), (46, 42, 230), TISSUE * 0.6, tilt=-side * 0.06))
        if p.sex == "F":
            size = 42 + 18 * p.habitus
            centre = (side * w * 0.50, -d * 0.70, 168 + 14 * p.habitus)
            solids.append(Ellipsoid(centre, (size, 40 * p.habitus, size * 0.85), TISSUE * 0.32))
    for solid in solids:
        solid.add_to(image, canvas)
    stomach = Ellipsoid((58, -5, p.dome_left + chest.dome_left + 26), (23, 24, 13), AIR_IN_LUNG * 0.8)
    stomach.add_to(image, canvas)
    # Skin, fat and muscle fade into each other: no organ edge in them is sharp.
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 4 / canvas.mm_per_px))


def _mediastinum(chest: Chest, canvas: Canvas, image: np.ndarray, air: np.ndarray) -> None:
    """Heart and vessels show where they push air aside; amid other tissue they have no edge."""
    p = chest.patient
    size = p.heart_scale * chest.heart
    base = p.dome_left + chest.dome_left * 0.5
    heart = (52 * size, 46 * size, 62 * size)
    solids = [
        Ellipsoid((20 * size, -22, base - 36 * size - 8), heart, TISSUE * 0.72, tilt=p.heart_tilt),
        Ellipsoid((-14, -18, base - 62), (34 * size, 36, 50 * size), TISSUE * 0.40),
        # great vessels, aortic knob, trunk of the pulmonary artery
        Ellipsoid((2, 4, 52), (25, 34, 78), TISSUE * 0.50),
        Ellipsoid(
            (21 + 7 * p.aorta_bulge, 14, 58 + p.lung_height * 0.07),
            (14 + 6 * p.aorta_bulge, 18, 15 + 5 * p.aorta_bulge),
            TISSUE * 0.62,
        ),
        Ellipsoid(
            (24 + 6 * (chest.artery - 1) * 3, -2, 26 + p.lung_height * 0.33),
            (17 * chest.artery, 17, 15 * chest.artery),
            TISSUE * 0.5,
        ),
        # hila
        Ellipsoid((-33, 14, 20 + p.lung_height * 0.40), (11 * chest.artery, 14, 20), TISSUE * 0.6, tilt=0.3),
        Ellipsoid((34, 14, 14 + p.lung_height * 0.38), (10 * chest.artery, 14, 18), TISSUE * 0.6, tilt=-0.3),
    ]
    solid_tissue = canvas.empty()
    for solid in solids:
        solid.add_to(solid_tissue, canvas)
    image += np.minimum(solid_tissue, 0.96 * air)
    aorta = np.array([[24, 20, 70], [25, 48, 110], [18, 58, 170], [8, 60, 260]], float)
    image += 0.07 * draw_curve(canvas, smooth_curve(aorta), 24)
    for points, width in airways(p):
        image -= 0.16 * draw_curve(canvas, points, width) * (width / 17)


def carina(patient: Patient) -> np.ndarray:
    """(3,) where the trachea divides."""
    return np.array([-3.0, 16.0, 10 + patient.lung_height * 0.30])


def airways(patient: Patient) -> list[tuple[np.ndarray, float]]:
    """Trachea and main bronchi (points, width in mm)."""
    c = carina(patient)
    trachea = np.array([[0, -6, -70], [-1, 2, -10], c], float)
    right = c + np.array([[0, 0, 0], [-16, 4, 16], [-34, 6, 30]], float)
    left = c + np.array([[0, 0, 0], [20, 6, 14], [42, 8, 24]], float)
    return [(smooth_curve(trachea), 17), (smooth_curve(right), 13), (smooth_curve(left), 11)]


def _bones(chest: Chest, canvas: Canvas, image: np.ndarray) -> None:
    p = chest.patient
    for index in range(17):
        z = -60 + index * 23.0
        x = float(spine_x(chest, np.array(z)))
        Ellipsoid((x, 58, z), (17, 19, 11), BONE * 0.42 * p.bone).add_to(image, canvas)
        Ellipsoid((x, 84, z + 6), (4, 12, 7), BONE * 0.55 * p.bone).add_to(image, canvas)
        Ellipsoid((x, 76, z), (27, 7, 4.5), BONE * 0.35 * p.bone).add_to(image, canvas)
    _ribs(chest, canvas, image)
    for side in (-1, 1) if canvas.view == FRONTAL else ():
        clavicle = smooth_curve(
            np.array([[side * 14, -62, 30], [side * 60, -58, 14], [side * 105, -30, 3], [side * 150, 5, -8]])
        )
        image += p.bone * (0.22 * draw_curve(canvas, clavicle, 12) - 0.07 * draw_curve(canvas, clavicle, 6))
        blade = Ellipsoid((side * p.thorax_width * 0.95, 70, 88), (19, 6, 60), BONE * 0.9 * p.bone, tilt=-side * 0.25)
        blade.add_to(image, canvas)
        Ellipsoid((side * (p.thorax_width + 34), 15, 16), (22, 22, 24), BONE * 0.35 * p.bone).add_to(image, canvas)
    depth = p.thorax_depth
    sternum = smooth_curve(np.array([[0, -depth * 0.95, 20], [0, -depth * 1.08, 95], [0, -depth * 1.1, 165]], float))
    image += 0.07 * p.bone * draw_curve(canvas, sternum, 30 if canvas.view == FRONTAL else 9)


def _ribs(chest: Chest, canvas: Canvas, image: np.ndarray) -> None:
    """Ribs are tubes: a dense rim and a lighter core. Their backs lie close to the detector; the fronts are cartilage."""
    p = chest.patient
    breaks = {(side, rib): place for side, rib, place in chest.rib_breaks}
    parts = [(0, 34, 0.25), (30, 52, 0.15)]
    for start, end, density in parts:
        rims = np.zeros((canvas.size_px, canvas.size_px), np.uint8)
        cores = rims.copy()
        for rib in range(NUM_RIBS):
            for side in (-1, 1):
                points = rib_curve(p, side, rib, float(spine_x(chest, np.array(rib * 22.0))))
                pieces = [points[start:end]]
                if (side, rib) in breaks:
                    pieces = _break(points, breaks[side, rib], start, end)
                for piece in pieces:
                    if len(piece) > 1:
                        draw_on(rims, canvas, piece, 11.0)
                        draw_on(cores, canvas, piece, 6.5)
        image += np.float32(p.bone * density / 255) * (rims.astype(np.float32) - 0.45 * cores)


def _break(points: np.ndarray, place: float, start: int, end: int) -> list[np.ndarray]:
    """The two ends of a broken rib, with a gap and a step."""
    at = int(place * len(points))
    stepped = points + np.array([0, 0, 5.5])
    return [points[start : min(at, end)], stepped[max(at + 1, start) : end]]


def _vessels(chest: Chest, canvas: Canvas, image: np.ndarray, inside: np.ndarray) -> None:
    p = chest.patient
    layer = np.zeros((canvas.size_px, canvas.size_px), np.uint8)
    points, widths = vessel_trees(p.vessel_seed, p.lung_height)
    calibre = widths * chest.vessels * np.where(points[:, -1, 2] < 90, chest.upper_vessels, 1.0)
    pixels = np.round(canvas.project(points.reshape(-1, 3)) * 2**SUBPIXEL_BITS).astype(np.int32).reshape(len(points), -1, 1, 2)
    # Drawn in a few groups of about one calibre, thin ones first.
    for calibre_mm in CALIBRES_MM:
        group = np.abs(np.array(CALIBRES_MM) - calibre[:, None]).argmin(axis=1) == CALIBRES_MM.index(calibre_mm)
        thickness = max(1, round(calibre_mm / canvas.mm_per_px))
        value = 255 * min(1.0, calibre_mm / 4.5) * min(1.0, calibre_mm / canvas.mm_per_px)
        cv2.polylines(layer, list(pixels[group]), False, round(value), thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    image += np.float32(0.24 / 255) * layer * np.clip(inside * 2.2, 0, 1)
