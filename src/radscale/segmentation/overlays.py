"""Sheets of the best, the median and the worst cases of a task, for the eye."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

TILE_PX = 300
GAP_PX = 6
CAPTION_PX = 22
# Blue, green, red of OpenCV. Green and magenta stay apart for eyes that cannot tell green from red.
TARGET, PREDICTION, BOTH = (80, 220, 60), (230, 60, 230), (255, 255, 255)
LEGEND = "green: reader only   magenta: predicted only   white: both"


@dataclass(frozen=True)
class Case:
    """One image with both masks, (H, W) each, and a line for below it."""

    image: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    caption: str


def choose_cases(distances: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """Positions of the `number` best, most median and worst values of (n,) distances, each in rising order of the distance.

    NaN is never chosen. With few values the three overlap.
    """
    order = np.argsort(distances, kind="stable")[: np.count_nonzero(~np.isnan(distances))]
    start = max(0, (len(order) - number) // 2)
    return {"best": order[:number], "median": order[start : start + number], "worst": order[-number:]}


def draw_overlay(image: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(H, W) uint8 image with both masks half transparent on it: (H, W, 3) uint8 in OpenCV's order of colours."""
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).astype(np.float32)
    for mask, colour in ((target & ~prediction, TARGET), (prediction & ~target, PREDICTION), (target & prediction, BOTH)):
        picture[mask] = 0.45 * picture[mask] + 0.55 * np.array(colour, np.float32)
    return np.rint(picture).astype(np.uint8)


def write_sheet(path: Path, title: str, rows: dict[str, list[Case]]) -> None:
    """A PNG with one row of cases for each name."""
    width = max(len(cases) for cases in rows.values())
    step = (TILE_PX + CAPTION_PX + GAP_PX, TILE_PX + GAP_PX)
    top = 2 * CAPTION_PX + GAP_PX
    sheet = np.full((top + len(rows) * (step[0] + CAPTION_PX), max(width * step[1] + GAP_PX, 620), 3), 24, np.uint8)
    _write(sheet, title, (GAP_PX, CAPTION_PX - 6))
    _write(sheet, LEGEND, (GAP_PX, 2 * CAPTION_PX - 6))
    for number, (name, cases) in enumerate(rows.items()):
        y = top + number * (step[0] + CAPTION_PX)
        _write(sheet, name, (GAP_PX, y + CAPTION_PX - 6))
        for column, case in enumerate(cases):
            tile = draw_overlay(case.image, case.target, case.prediction)
            scale = TILE_PX / max(tile.shape[:2])
            size = (round(tile.shape[1] * scale), round(tile.shape[0] * scale))
            tile = cv2.resize(tile, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            x = GAP_PX + column * step[1]
            sheet[y + CAPTION_PX : y + CAPTION_PX + size[1], x : x + size[0]] = tile
            _write(sheet, case.caption, (x, y + CAPTION_PX + TILE_PX + CAPTION_PX - 6))
    cv2.imwrite(str(path), sheet)


def _write(sheet: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
