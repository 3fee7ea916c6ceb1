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


APEX_Z = 3.0
LUNG_WIDTH, LUNG_DEPTH = 0.93, 0.86
"""Of the thorax: what the chest wall leaves to the lungs."""


def thorax_section(patient: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half width, half depth and middle (y) of the room of the lungs at heights z: an ellipse that narrows towards the apex."""
    widest = APEX_Z + 0.66 * patient.lung_height
    rise = np.clip((widest - z) / (widest - APEX_Z), 0, 1)
    width = patient.thorax_width * LUNG_WIDTH * np.sqrt(1 - rise**2.3)
    depth = patient.thorax_depth * LUNG_DEPTH * np.sqrt(1 - rise**2.6)
    return width, depth, 4 + 16 * rise  # the breast bone leans back, so the apex lies behind


def largest_air_path(canvas: Canvas, patient: Patient) -> float:
    """Millimetres of lung along the longest ray: one lung from the front, both from the side."""
    frontal = 2 * patient.thorax_depth * LUNG_DEPTH
    return frontal if canvas.view == FRONTAL else 2 * (patient.thorax_width * LUNG_WIDTH - 14)


def lung_path(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    """(S, S) share of the largest path through air in one lung (side -1: the patient's right), 0 below the diaphragm."""
    p = chest.patient
    width, depth, middle = thorax_section(p, canvas.rows_mm()[:, None])
    u = canvas.columns_mm()[None, :]
    room = np.maximum(width if canvas.view == FRONTAL else depth, 1e-3)
    chord = np.sqrt(np.maximum(1 - np.square((u if canvas.view == FRONTAL else u - middle) / room), 0))
    if canvas.view == FRONTAL:
        # Each lung has a rounded top of its own, beside the vessels of the neck.
        top = APEX_Z + 42 * (np.minimum(side * u - p.thorax_width * 0.43, 0) / (p.thorax_width * 0.33)) ** 2
        path = depth * chord / (p.thorax_depth * LUNG_DEPTH) * np.clip((side * u - 7) / 12, 0, 1)
        path = path * np.sqrt(np.clip((canvas.rows_mm()[:, None] - top) / 24, 0, 1))
    else:
        path = np.maximum(width * chord - 14, 0) / (p.thorax_width * LUNG_WIDTH - 14)
    return np.asarray(path * above_diaphragm(chest, canvas, side), dtype=np.float32)


def above_diaphragm(chest: Chest, canvas: Canvas, side: int) -> np.ndarray:
    """(S, S) 1 in the thorax, 0 in the abdomen, soft where rays graze the dome."""
    p = chest.patient
    top = p.dome_right + chest.dome_right if side < 0 else p.dome_left + chest.dome_left
    u = canvas.columns_mm()[None, :]
    if canvas.view == FRONTAL:
        offset, reach = u - side * p.thorax_width * 0.40, p.thorax_width * 0.52
        fall = np.where(side * offset > 0, np.float32(46), np.float32(24))
    else:  # the dome falls to the back; in front it meets the breast bone high up
        offset, reach = u + 20, p.thorax_depth * 0.95
        fall = np.where(offset > 0, np.float32(54), np.float32(16))
    dome = top + fall * chest.dome_flat * (np.abs(offset) / reach) ** 2.2
    return np.asarray(np.clip((dome - canvas.rows_mm()[:, None]) / 6, 0, 1))


def rib_curve(patient: Patient, side: int, rib: int, spine_shift: float = 0.0) -> np.ndarray:
    """(60, 3) points of a rib, from the spine around the side to the front."""
    angle = np.linspace(0.02, 0.86, 60) * np.pi
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
    air = np.float32(-AIR_IN_LUNG * chest.lucency * largest_air_path(canvas, p)) * inside
    image -= air
    _mediastinum(chest, canvas, image, air)
    _bones(chest, canvas, image)
    _vessels(chest, canvas, image, inside)
    rng = np.random.default_rng([p.texture_seed, canvas.horizontal])
    # Features in mm: the same lung at any number of pixels.
    grain = 0.6 * blob_noise(rng, canvas.size_px, 6.5 / canvas.mm_per_px) + 0.4 * blob_noise(
        rng, canvas.size_px, 3.2 / canvas.mm_per_px
    )
    image += 0.045 * grain * np.sqrt(inside) + 0.03 * blob_noise(rng, canvas.size_px, 60 / canvas.mm_per_px)
    return image


def _soft_tissue(chest: Chest, canvas: Canvas) -> np.ndarray:
    p = chest.patient
    image = canvas.empty()
    wall = 24 * p.habitus
    w, d = p.thorax_width + wall, p.thorax_depth + wall * 0.9
    trunk = [
        Ellipsoid((0, 0, 190), (w, d, 430), TISSUE),
        Ellipsoid((0, 0, 380), (w * 1.05, d * 1.05, 210), TISSUE * 0.35),
    ]
    if canvas.view == FRONTAL:  # in a lateral view the arms are raised
        for side in (-1, 1):
            trunk.append(Ellipsoid((side * (w + 2), 20, 20), (86, 54, 170), TISSUE * 0.45, tilt=side * 0.12))
            trunk.append(Ellipsoid((side * (w + 52), 10, 170), (44, 44, 250), TISSUE * 0.75, tilt=-side * 0.05))
    for solid in trunk:
        solid.add_to(image, canvas)
    image *= _below_shoulders(p, canvas)
    neck = Ellipsoid((0, 24, -85), (44 + 8 * p.habitus, 50, 112), TISSUE * 0.62)
    neck.add_to(image, canvas)
    if p.sex == "F":
        for side in (-1, 1):
            size = 42 + 18 * p.habitus
            centre = (side * w * 0.50, -d * 0.70, 168 + 14 * p.habitus)
            share = 0.30 if canvas.view == FRONTAL else 0.13  # from the side, both lie in one ray
            Ellipsoid(centre, (size, 40 * p.habitus, size * 0.85), TISSUE * share).add_to(image, canvas)
    gas = np.random.default_rng([p.texture_seed, 5])
    stomach = Ellipsoid((58, -5, p.dome_left + chest.dome_left + 24), (25, 24, 11), AIR_IN_LUNG * 0.8, tilt=0.2)
    stomach.add_to(image, canvas)
    for _ in range(int(gas.integers(0, 6))):  # bowel
        place = (float(gas.uniform(-95, 95)), float(gas.uniform(-40, 10)), p.dome_left + float(gas.uniform(42, 95)))
        size = float(gas.uniform(6, 15))
        bowel = Ellipsoid(place, (size * 1.6, size, size * 0.8), AIR_IN_LUNG * 0.6, tilt=float(gas.normal(0, 0.6)))
        bowel.add_to(image, canvas)
    # Skin, fat and muscle fade into each other: no organ edge in them is sharp.
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 4 / canvas.mm_per_px))


def _below_shoulders(patient: Patient, canvas: Canvas) -> np.ndarray:
    """(S, S) 0 in the air beside the neck, 1 in the body: shoulders slope down from the neck."""
    u = canvas.columns_mm()[None, :]
    if canvas.view == FRONTAL:
        line = -78 + 62 * np.clip((np.abs(u) - 40) / 120, 0, 1.3) ** 1.25
    else:
        line = -62 - 22 * np.clip(u / 60, -1, 1)
    return np.asarray(np.clip((canvas.rows_mm()[:, None] - line) / 9, 0, 1), dtype=np.float32)


def _mediastinum(chest: Chest, canvas: Canvas, image: np.ndarray, air: np.ndarray) -> None:
    """Heart and vessels show where they push air aside; amid other tissue they have no edge."""
    p = chest.patient
    size = p.heart_scale * chest.heart
    base = p.dome_left + chest.dome_left * 0.5
    # The long axis runs from the right and above to the apex, which points to the left and down.
    ventricles = (67 * size, 46 * size, 42 * size)
    solids = [
        Ellipsoid((24 * size, -22, base - 27 * size - 8), ventricles, TISSUE * 0.60, tilt=p.heart_tilt),
        Ellipsoid((-14 * size, -14, base - 44), (30 * size, 36, 46 * size), TISSUE * 0.42),
        Ellipsoid((12 * size, 4, base - 68 * size), (29 * size, 30, 50 * size), TISSUE * 0.42, tilt=-0.35),
        # great vessels, aortic knob, trunk of the pulmonary artery
        Ellipsoid((2, 4, 62), (33, 36, 100), TISSUE * 0.75),
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
    # The heart beats and vessels taper: their edges are softer than those of bone. Some lung lies before and behind them.
    solid_tissue = cv2.GaussianBlur(solid_tissue, (0, 0), 1.6 / canvas.mm_per_px)
    limit = (0.90 if canvas.view == FRONTAL else 0.75) * air
    image += limit * (1 - np.exp(-2.0 * solid_tissue / np.maximum(limit, 1e-3)))
    aorta = np.array([[24, 20, 70], [25, 48, 110], [18, 58, 170], [8, 60, 260]], float)
    image += 0.07 * draw_curve(canvas, smooth_curve(aorta), 24)
    for points, width in airways(p):
        airway = cv2.GaussianBlur(draw_curve(canvas, points, width), (0, 0), 1.5 / canvas.mm_per_px)
        image -= 0.36 * airway * (width / 17) ** 1.5


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
    spine = canvas.empty()
    share = 0.24 if canvas.view == FRONTAL else 0.40
    for index in range(17):
        z = -60 + index * 23.0
        x = float(spine_x(chest, np.array(z)))
        Ellipsoid((x, 58, z), (18, 19, 12), BONE * share * p.bone).add_to(spine, canvas)
        Ellipsoid((x, 84, z + 6), (3.5, 12, 7), BONE * 0.45 * p.bone).add_to(spine, canvas)
        Ellipsoid((x, 76, z), (27, 7, 4.5), BONE * 0.30 * p.bone).add_to(spine, canvas)
        for plate in (-9.5, 9.5):  # end plates are the dense part of a vertebra
            ends = np.array([[x - 15, 58, z + plate], [x + 15, 58, z + plate]])
            if canvas.view != FRONTAL:
                ends = np.array([[x, 42, z + plate], [x, 74, z + plate]])
            spine += 0.05 * p.bone * draw_curve(canvas, ends, 2.0)
    image += cv2.GaussianBlur(spine, (0, 0), 1.2 / canvas.mm_per_px)
    _ribs(chest, canvas, image)
    for side in (-1, 1) if canvas.view == FRONTAL else ():
        w = p.thorax_width
        clavicle = smooth_curve(
            np.array(
                [[side * 15, -62, 36], [side * 40, -62, 29], [side * 75, -50, 12], [side * 110, -26, 2], [side * 146, 5, -6]]
            )
        )
        shaft = 0.20 * draw_curve(canvas, clavicle, 10.5) - 0.08 * draw_curve(canvas, clavicle, 5.5)
        shaft += 0.06 * draw_curve(canvas, clavicle[:9], 14)
        humerus = np.array([[side * (w + 36), 15, 24], [side * (w + 46), 15, 90], [side * (w + 52), 15, 330]])
        shaft += 0.16 * draw_curve(canvas, humerus, 24) - 0.09 * draw_curve(canvas, humerus, 13)
        border = np.array([[side * w * 1.12, 70, 12], [side * w * 0.97, 70, 84], [side * w * 0.82, 70, 142]])
        shaft += 0.07 * draw_curve(canvas, smooth_curve(border), 4)
        image += p.bone * cv2.GaussianBlur(shaft, (0, 0), 0.8 / canvas.mm_per_px)
        blade = Ellipsoid((side * w * 0.99, 70, 82), (21, 5, 64), BONE * 0.5 * p.bone, tilt=-side * 0.25)
        blade.add_to(image, canvas)
        Ellipsoid((side * (w + 34), 15, 16), (23, 23, 25), BONE * 0.30 * p.bone).add_to(image, canvas)
    depth = p.thorax_depth
    sternum = smooth_curve(np.array([[0, -depth * 0.95, 20], [0, -depth * 1.08, 95], [0, -depth * 1.1, 165]], float))
    image += 0.07 * p.bone * draw_curve(canvas, sternum, 30 if canvas.view == FRONTAL else 9)


def _ribs(chest: Chest, canvas: Canvas, image: np.ndarray) -> None:
    """Ribs are tubes: a dense rim and a lighter core. Their backs lie close to the detector; the fronts are cartilage."""
    p = chest.patient
    breaks = {(side, rib): place for side, rib, place in chest.rib_breaks}
    # (from, to, value) along the rib: bright at the back, fading towards the cartilage in front.
    parts = [(0, 34, 0.24), (32, 44, 0.17), (43, 51, 0.12), (50, 56, 0.07)]
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
                        draw_on(rims, canvas, piece, 10.0)
                        draw_on(cores, canvas, piece, 6.0)
        layer = rims.astype(np.float32) - 0.5 * cores
        image += np.float32(p.bone * density / 255) * cv2.GaussianBlur(layer, (0, 0), 0.9 / canvas.mm_per_px)


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
    image += np.float32(0.30 / 255) * layer * np.clip(inside * 2.2, 0, 1)
