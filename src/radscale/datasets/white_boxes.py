"""White boxes over what may show who a patient is: text, places of a device, faces (paper, section 4; PS3.15, options Clean
Pixel Data 113101 and Clean Recognizable Visual Features 113102).

Text is looked for in the pixels as they come, and painted over in the image of the dataset: what is stored never held it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from radscale.datasets.burned_in_text import find_text
from radscale.datasets.exclusions import Excluded
from radscale.errors import InputError

Treatment = Literal["mask", "keep"]
BODY_PARTS_WITH_FACE = frozenset({"BRAIN", "CSKULL", "EAR", "EYE", "FACE", "HEAD", "HEADNECK", "JAW", "MANDIBLE", "MAXILLA"})
BODY_PARTS_WITH_FACE |= frozenset({"NOSE", "ORBIT", "SINUS", "SKULL", "TEETH", "TMJ", "ZYGOMA", "FACIALBONES", "NASALBONES"})
"""Body Part Examined (0018,0015), PS3.16 Annex L, without spaces."""
WHITE = 255
TEXT_MARGIN_PX = 2
"""Of the dataset's pixels: the resize spreads a letter by so much."""
HEAD_SEARCH_SHARE = 0.4
"""Share of a lateral view's height, from above, in which its neck is looked for."""
HEAD_WIDENING = 1.2
"""A head is that many times as wide as the neck below it."""
LEAST_HEAD_SHARE = 0.04
"""Of the height: less than this shows no face."""


class WhiteBox(NamedTuple):
    """In pixels of the dataset's image."""

    kind: str
    """text, place or face"""
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class DevicePlaces:
    """Where devices of a kind write, whatever is found there."""

    manufacturer: str = ""
    """Part of Manufacturer (0008,0070), in any case; empty: all."""
    model: str = ""
    """Part of Manufacturer's Model Name (0008,1090), in any case; empty: all."""
    boxes: tuple[tuple[float, ...], ...] = ()
    """left, top, right, bottom as shares of the width and height."""

    def __post_init__(self) -> None:
        for box in self.boxes:
            if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise InputError(f"boxes: {list(box)} is not left, top, right, bottom from 0 to 1; correct it")

    def fit(self, manufacturer: str | None, model: str | None) -> bool:
        return self.manufacturer.lower() in (manufacturer or "").lower() and self.model.lower() in (model or "").lower()


def face_is_the_subject(body_part: str) -> bool:
    """By Body Part Examined (0018,0015): an image of a skull or a face, all of which would have to be painted over."""
    return "".join(body_part.upper().split()) in BODY_PARTS_WITH_FACE


def boxes_to_paint(
    pixels: np.ndarray,
    *,
    text: bool,
    places: Sequence[DevicePlaces] = (),
    manufacturer: str | None = None,
    model: str | None = None,
    face: bool = False,
) -> list[tuple[str, np.ndarray]]:
    """What to paint over in an image.

    Args:
        pixels: (H, W) as decoded, larger is brighter, padding filled.
        text: look for text.
        places: of the devices that are known.
        manufacturer: of the image.
        model: of its device.
        face: look for a head; of lateral views.

    Returns:
        (kind, (left, top, right, bottom) as shares of the width and height) of each box.

    Raises:
        Excluded: the search needs more memory than there is.
    """
    height, width = pixels.shape
    try:
        found = [("text", box / ([width, height] * 2)) for box in find_text(pixels)] if text else []
        found += [("place", np.array(box)) for place in places if place.fit(manufacturer, model) for box in place.boxes]
        share = head_share(pixels) if face else 0.0
    except (cv2.error, MemoryError):
        raise Excluded("too_large", "the search for text in its pixels needs more memory than a worker may take") from None
    return found + ([("face", np.array([0.0, 0.0, 1.0, share]))] if share else [])


def paint(image: np.ndarray, boxes: Sequence[tuple[str, np.ndarray]]) -> list[WhiteBox]:
    """Paint boxes of `boxes_to_paint` into the (H, W) uint8 image of the dataset, and say where they are."""
    height, width = image.shape
    painted = []
    for kind, shares in boxes:
        margin = TEXT_MARGIN_PX if kind == "text" else 0
        left, top = (
            int(max(0, np.floor(share * side) - margin)) for share, side in zip(shares[:2], (width, height), strict=True)
        )
        right, bottom = (
            int(min(side, np.ceil(share * side) + margin)) for share, side in zip(shares[2:], (width, height), strict=True)
        )
        image[top:bottom, left:right] = WHITE
        painted.append(WhiteBox(kind, left, top, right - left, bottom - top))
    return painted


def head_share(pixels: np.ndarray) -> float:
    """How much of a lateral view's height, from above, shows a head: down to the neck, where the body is narrowest.

    Args:
        pixels: (H, W), the body brighter than the air around it.

    Returns:
        0 where the body does not widen again above its narrowest row, as in most chest X-rays.
    """
    small = cv2.resize(np.asarray(pixels, np.float32), (128, 160), interpolation=cv2.INTER_AREA)
    scaled = cv2.normalize(small, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    _, body = cv2.threshold(cv2.GaussianBlur(scaled, (0, 0), 2), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_TRIANGLE)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(body)
    if count < 2:
        return 0.0
    widths = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).sum(1).astype(float)
    rows = len(widths)
    searched = np.arange(max(1, round(LEAST_HEAD_SHARE * rows)), round(HEAD_SEARCH_SHARE * rows))
    neck = int(searched[np.argmin(widths[searched])])
    widest = float(widths[:neck].max())
    if widths[neck] > 0 and widest >= HEAD_WIDENING * widths[neck] and widths[neck:].max() >= HEAD_WIDENING * widths[neck]:
        return neck / rows
    return 0.0
