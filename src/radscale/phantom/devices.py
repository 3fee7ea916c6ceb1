"""Ten lines and tubes as curves in space, in place or misplaced, with the position of their tips.

Codes, tips and what counts as misplaced follow common radiology practice, as do the extraction's tip maps.
"""

from dataclasses import dataclass

import numpy as np

from radscale.phantom.anatomy import Chest, carina
from radscale.phantom.geometry import Canvas, draw_curve, smooth_curve

DEVICES = ("ETT", "TT", "NGT", "SGC", "CT", "MD", "IABP", "IJ", "PICC", "SC")
DENSITY = {
    "ETT": 0.30,
    "TT": 0.45,
    "NGT": 0.32,
    "SGC": 0.30,
    "CT": 0.36,
    "MD": 0.36,
    "IABP": 0.36,
    "IJ": 0.30,
    "PICC": 0.27,
    "SC": 0.30,
}
WIDTH_MM = {"ETT": 3.0, "TT": 5.0, "NGT": 3.2, "SGC": 2.4, "CT": 5.0, "MD": 5.5, "IABP": 2.6, "IJ": 2.6, "PICC": 1.9, "SC": 2.6}
MIDLINE = ("ETT", "TT", "NGT", "MD", "IABP")


@dataclass(frozen=True)
class Device:
    """One device of one study."""

    code: str
    side: int
    """-1 the patient's right, 1 left, 0 midline."""
    tip: str
    """Where its tip is, in words of the report."""
    placement: str
    """`correct` or `incorrect`."""
    seed: int


# Tips by device: (words, placement). The first of each kind is the usual one.
TIPS: dict[str, tuple[tuple[str, str], ...]] = {
    "ETT": (
        ("4 cm above the carina", "correct"),
        ("right main bronchus", "incorrect"),
        ("above the thoracic inlet", "incorrect"),
    ),
    "TT": (("mid trachea", "correct"),),
    "NGT": (("stomach", "correct"), ("distal esophagus", "incorrect"), ("coiled in the esophagus", "incorrect")),
    "SGC": (("right pulmonary artery", "correct"), ("right ventricle", "incorrect")),
    "CT": (("upper hemithorax", "correct"), ("lower hemithorax", "correct"), ("side port outside the rib cage", "incorrect")),
    "MD": (("mediastinum", "correct"),),
    "IABP": (("2 cm below the aortic arch", "correct"), ("aortic arch", "incorrect")),
    "IJ": (
        ("superior vena cava", "correct"),
        ("cavoatrial junction", "correct"),
        ("contralateral brachiocephalic vein", "incorrect"),
    ),
    "PICC": (("superior vena cava", "correct"), ("cavoatrial junction", "correct"), ("axillary vein", "incorrect")),
    "SC": (("superior vena cava", "correct"), ("ipsilateral internal jugular vein", "incorrect")),
}


def draw_devices(
    rng: np.random.Generator, rates: dict[str, float], inpatient: bool, incorrect_rate: float, before: list[Device]
) -> list[Device]:
    """Devices of a study: those of intensive care come together, and often stay from the study before."""
    found: list[Device] = []
    old = {device.code: device for device in before}
    intensive = rng.random() < (0.42 if inpatient else 0.03)
    for code in DEVICES:
        draws = rng.random(), rng.random(), rng.random(), int(rng.integers(2**31)), int(rng.choice([-1, 1]))
        rate = rates[code] * (3.0 if intensive else 0.55)
        if code == "TT" and any(device.code == "ETT" for device in found):
            rate = 0.0
        if code in old:
            rate = 0.6
        if draws[0] >= min(rate, 0.9):
            continue
        if code in old and draws[1] < 0.8:
            found.append(old[code])
            continue
        kinds = [tip for tip in TIPS[code] if (tip[1] == "incorrect") == (draws[1] < incorrect_rate)] or list(TIPS[code])
        tip, placement = kinds[int(draws[2] * len(kinds))]
        side = 0 if code in MIDLINE else draws[4]
        if code in ("IJ", "SGC") and draws[2] < 0.75:
            side = -1  # the right jugular vein is the usual way
        found.append(Device(code, side, tip, placement, draws[3]))
    return found


def add_devices(
    chest: Chest, canvas: Canvas, image: np.ndarray, devices: list[Device]
) -> tuple[np.ndarray, dict[int, tuple[float, float]]]:
    """Draw devices onto the projected image, in place.

    Returns:
        (S, S) uint8 label map (0 none, 1 to 10 in the order of `DEVICES`, thin ones on top), and the tip's pixel
        (column, row) of each device by its index.
    """
    mask = np.zeros(image.shape, np.uint8)
    tips = {}
    for index, device in sorted(enumerate(devices), key=lambda item: -WIDTH_MM[item[1].code]):
        points = course(chest, device)
        width = WIDTH_MM[device.code]
        layer = draw_curve(canvas, points, max(width, canvas.mm_per_px))
        density = DENSITY[device.code] * min(1.0, 0.6 + 0.4 * width / canvas.mm_per_px)
        if device.code in ("ETT", "TT", "CT"):  # hollow, with a radiopaque stripe
            layer = np.maximum(0.55 * layer, draw_curve(canvas, points, canvas.mm_per_px))
        image += density * layer
        if device.code == "SC" and device.placement == "correct" and device.seed % 2:
            port = points[0] + np.array([0, 0, 10])
            ring = port + 8 * np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 24)), 0 * t, np.sin(t)], axis=1)
            reservoir = draw_curve(canvas, ring, 4)
            image += 0.25 * reservoir
            layer = np.maximum(layer, reservoir)
        mask[layer > 0.3] = DEVICES.index(device.code) + 1
        column, row = canvas.project(points[-1:])[0]
        tips[index] = (float(column), float(row))
    return mask, tips


def course(chest: Chest, device: Device) -> np.ndarray:
    """(60, 3) points from where the device enters to its tip."""
    rng = np.random.default_rng(device.seed)
    points = np.array(_COURSES[device.code](chest, device, rng), dtype=np.float64)
    points[1:-1] += rng.normal(0, 1.8, points[1:-1].shape)
    return smooth_curve(points)


Points = list[tuple[float, float, float]]


def _ett(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    c = carina(chest.patient)
    top = (float(rng.normal(2, 3)), -25.0, -75.0)
    if device.tip == "right main bronchus":
        return [
            top,
            (0, -4, -20),
            (float(c[0]), float(c[1]), float(c[2]) - 6),
            (float(c[0]) - 20, float(c[1]) + 5, float(c[2]) + 19),
        ]
    height = -38.0 if "carina" in device.tip else -float(c[2]) - 22
    return [top, (1, -10, -55), (-1, -3, float(c[2]) + height - 12), (-2, 2, float(c[2]) + height)]


def _tt(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    return [(8, -62, -38), (3, -40, -42), (0, -12, -30), (-1, -4, -2), (-2, 0, 22)]


def _ngt(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    dome = chest.patient.dome_left
    path: Points = [(3, -5, -75), (2, 28, 20), (4, 32, 90), (8, 30, 160)]
    if device.tip == "distal esophagus":
        return [*path, (12, 25, dome - 20)]
    if device.tip.startswith("coiled"):
        return [*path[:3], (10, 30, 150), (0, 26, 160), (-2, 28, 120), (8, 30, 80)]
    return [*path, (14, 20, dome), (40, 5, dome + 24), (62, -8, dome + 34)]


def _superior_vena_cava(chest: Chest, tip: str) -> tuple[float, float, float]:
    z = float(carina(chest.patient)[2]) + (48 if tip == "cavoatrial junction" else 24)
    return (-24.0, -2.0, z)


def _sgc(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    z = float(carina(chest.patient)[2])
    ventricle: Points = [(-24, -2, z + 30), (-30, -15, z + 85), (0, -45, z + 112), (26, -45, z + 95)]
    path: Points = [(device.side * 42.0, -15, -60), (device.side * 26.0, -12, 0), *ventricle]
    if device.tip == "right ventricle":
        return path[:-1]
    return [*path, (20, -20, z + 40), (0, 0, z + 30), (-34, 8, z + 40)]


def _chest_tube(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    p, s = chest.patient, device.side
    wall = p.thorax_width + 20 * p.habitus
    entry = p.lung_height * float(rng.uniform(0.62, 0.8))
    if "outside" in device.tip:
        return [(s * (wall + 26), -10, entry + 30), (s * wall, -5, entry + 10), (s * (wall - 24), 5, entry - 14)]
    end = (
        (s * p.thorax_width * 0.42, 20.0, 34.0)
        if device.tip.startswith("upper")
        else (s * p.thorax_width * 0.35, 45.0, p.lung_height * 0.88)
    )
    return [
        (s * (wall + 24), -10, entry + 26),
        (s * (p.thorax_width * 0.86), 10, entry),
        (s * p.thorax_width * 0.66, 20, (entry + end[2]) / 2),
        end,
    ]


def _mediastinal_drain(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    p = chest.patient
    x = float(rng.normal(6, 9))
    return [
        (x + 14, -p.thorax_depth, p.dome_left + 60),
        (x + 10, -70, p.dome_left + 10),
        (x + 2, -55, p.lung_height * 0.6),
        (x, -48, p.lung_height * 0.38),
    ]


def _iabp(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    p = chest.patient
    top = 62 + p.lung_height * 0.07 + (24 if "below" in device.tip else 0)
    return [(10, 62, 330), (10, 60, p.dome_left + 20), (18, 56, 160), (25, 40, top)]


def _ij(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    s = device.side
    path: Points = [(s * 44.0, -20, -62), (s * 33.0, -14, -20), (s * 26.0, -10, 14)]
    if device.tip.startswith("contralateral"):
        return [*path, (s * 4.0, -14, 30), (-s * 26.0, -16, 18)]
    if s > 0:
        path.append((4, -12, 34))
    return [*path, _superior_vena_cava(chest, device.tip)]


def _picc(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    s, w = device.side, chest.patient.thorax_width
    path: Points = [(s * (w + 40), 10, 150), (s * (w + 26), 5, 80), (s * (w + 4), -5, 38)]
    if device.tip == "axillary vein":
        return [*path, (s * (w - 22), -10, 26)]
    path += [(s * 72.0, -20, 18), (s * 32.0, -14, 18)]
    if s > 0:
        path.append((2, -12, 34))
    return [*path, _superior_vena_cava(chest, device.tip)]


def _subclavian(chest: Chest, device: Device, rng: np.random.Generator) -> Points:
    s = device.side
    path: Points = [(s * 88.0, -62, 58), (s * 74.0, -52, 24), (s * 46.0, -24, 14)]
    if "jugular" in device.tip:
        return [*path, (s * 30.0, -14, 2), (s * 36.0, -16, -44)]
    path.append((s * 22.0, -12, 18))
    return [*path, _superior_vena_cava(chest, device.tip)]


_COURSES = {
    "ETT": _ett,
    "TT": _tt,
    "NGT": _ngt,
    "SGC": _sgc,
    "CT": _chest_tube,
    "MD": _mediastinal_drain,
    "IABP": _iabp,
    "IJ": _ij,
    "PICC": _picc,
    "SC": _subclavian,
}
