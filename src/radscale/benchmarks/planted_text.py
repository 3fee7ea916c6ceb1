"""Lines of text planted into images, to measure what a search finds.

The fonts are those of matplotlib, which the detector of the package was not trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES_PX = (24, 32, 40, 48, 64, 96)
"""Of fonts, in an image whose shorter side is 2,500 px."""
CONTRASTS = (12, 20, 32, 64, 128)
"""Grey levels of 255 between a line and the mean of what it is written on."""
REFERENCE_SIDE_PX = 2500
VISIBLE_LEVELS = 8
"""A pixel of a letter that differs less from what it is written on cannot be read."""
HIT_SHARE = 0.8
"""Of a line's visible pixels."""
NAMES = (
    "Smith",
    "JOHNSON",
    "Garcia",
    "NGUYEN",
    "Müller",
    "O'Brien",
    "KOWALSKI",
    "Rossi",
    "Tanaka",
    "Andersson",
    "Fatima",
    "Wei",
)


@dataclass(frozen=True)
class PlantedLine:
    """Where a line stands, and how hard it is to see."""

    size_px: int
    contrast: int
    visible: np.ndarray
    """(n, 2) rows and columns of the pixels of its letters that can be told from what they are written on."""


def plant_lines(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_lines: int = 3,
    sizes_px: Sequence[int] = SIZES_PX,
    contrasts: Sequence[int] = CONTRASTS,
    fonts: Sequence[Path] = (),
) -> tuple[np.ndarray, list[PlantedLine]]:
    """Write lines (names, numbers, dates) anywhere, every second one in a corner or at an edge.

    Args:
        image: (H, W) float, 0 to 255.
        rng: decides everything.
        num_lines: that are tried; one that finds no room is left out.
        sizes_px: see `SIZES_PX`; scaled to the image.
        contrasts: see `CONTRASTS`.
        fonts: files; none: matplotlib's.

    Returns:
        The image with the lines, and the lines.
    """
    image, taken, lines = image.astype(np.float32), np.zeros(image.shape, bool), []
    files = list(fonts) or [
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{name}.ttf"
        for name in ("Sans", "Sans-Bold", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold", "Sans-Oblique")
    ]
    for _ in range(num_lines):
        size, contrast = int(rng.choice(list(sizes_px))), int(rng.choice(list(contrasts)))
        scaled = max(5, round(size * min(image.shape) / REFERENCE_SIDE_PX))
        ink = _ink(_words(rng), files[rng.integers(len(files))], scaled, smooth=rng.random() < 0.5)
        place = _room(ink.shape, taken, rng)
        if place is None:
            continue
        area = image[place]
        level = float(area.mean())
        lighter = level + contrast <= 255 and (level - contrast < 0 or rng.random() < 0.6)
        value = np.clip(level + contrast if lighter else level - contrast, 0, 255)
        visible = np.argwhere((ink > 0.5) & (np.abs(value - area) >= VISIBLE_LEVELS))
        area[:] = area * (1 - ink) + value * ink
        taken[place] = True
        if len(visible):
            lines.append(PlantedLine(size, contrast, visible + np.array([place[0].start, place[1].start])))
    return image, lines


def is_hit(line: PlantedLine, boxes: np.ndarray) -> bool:
    """Whether (n, 4) boxes (left, top, right, bottom) hide a line."""
    rows, columns = line.visible.T[..., None]
    left, top, right, bottom = np.asarray(boxes, float).reshape(-1, 4).T
    hidden = (columns >= np.floor(left)) & (columns < np.ceil(right)) & (rows >= np.floor(top)) & (rows < np.ceil(bottom))
    return float(hidden.any(1).mean()) > HIT_SHARE


def _ink(text: str, font_file: Path, size_px: int, *, smooth: bool) -> np.ndarray:
    """(h, w) from 0 to 1."""
    font = ImageFont.truetype(str(font_file), size_px)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(np.ceil(right - left)), int(np.ceil(bottom - top))))
    pen = ImageDraw.Draw(picture)
    pen.fontmode = "L" if smooth else "1"
    pen.text((-left, -top), text, fill=255, font=font)
    return np.asarray(picture, np.float32) / 255


def _room(shape: tuple[int, int], taken: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice] | None:
    free = [side - length for side, length in zip(taken.shape, shape, strict=True)]
    if min(free) < 16:
        return None
    gap = 2 * shape[0]
    for _ in range(50):
        row, column = (int(rng.choice([8, room - 8]) if rng.random() < 0.5 else rng.integers(0, room)) for room in free)
        if not taken[max(0, row - gap) : row + shape[0] + gap, max(0, column - gap) : column + shape[1] + gap].any():
            return slice(row, row + shape[0]), slice(column, column + shape[1])
    return None


def _words(rng: np.random.Generator) -> str:
    def digits(count: int) -> str:
        return "".join(map(str, rng.integers(0, 10, count)))

    name, other = rng.choice(NAMES, 2)
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(1930, 2024)
    texts = [f"{name}, {other}", f"{name}^{other} {digits(6)}", f"MRN {digits(8)}", f"{day:02}/{month:02}/{year}", digits(7)]
    texts += [
        f"DOB: {day:02}.{month:02}.{year}",
        f"ACC {digits(10)}",
        f"St. {name} Hospital",
        f"{year}-{month:02}-{day:02} 14:07",
    ]
    return str(rng.choice(texts))
