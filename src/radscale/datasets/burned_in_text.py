"""Lines of text in the pixels of an X-ray, found by a small network of our own (docs/burned_in_text.md).

It runs on the image at a shorter side of some 1,024 px, on which text that can still be read at 518 px is at least 8 px high.
OpenCV evaluates it, so that a worker loads no deep-learning library.
"""

import os
import threading
from importlib.resources import files

import cv2
import numpy as np

WEIGHTS = "text_detector.onnx"
SHORTER_SIDE_PX = 1024
MAX_ENLARGEMENT = 2.0
"""Small images are enlarged for the search, since letters of 6 px can be read."""
CELL_PX = 4
"""The network answers for squares of this side."""
MULTIPLE_PX = 32
SURROUNDINGS_PX = 31
MAX_LOCAL = 4.0
SURE, POSSIBLE = 0.3, 0.1
"""Text is where a square is sure, with all possible squares that touch it."""
MARGIN_PX = 4
"""Of the search's pixels, around what was found."""

_state = threading.local()


def find_text(image: np.ndarray) -> np.ndarray:
    """Boxes around the lines of text of an image.

    Args:
        image: (H, W) of any number type; the search does not depend on its scale.

    Returns:
        (n, 4) float: left, top, right, bottom in pixels of the image; empty if there is no text.
    """
    height, width = image.shape
    scale = min(MAX_ENLARGEMENT, SHORTER_SIDE_PX / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.asarray(image, np.float32), size, interpolation=how)
    low, high = float(small.min()), float(small.max())
    if high <= low:
        return np.empty((0, 4))
    small = (small - low) / (high - low)
    boxes = boxes_of_scores(text_scores(small))
    boxes = boxes * CELL_PX + np.array([-MARGIN_PX, -MARGIN_PX, MARGIN_PX, MARGIN_PX])
    return np.clip(boxes / np.array([size[0] / width, size[1] / height] * 2), 0, [width, height] * 2)


def network_input(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 from 0 to 1 to (2, H, W): the grey value, and how far it is from its surroundings in their spread.

    The second shows faint text as well as bright, and text in an image whose range one bright mark takes up.
    """
    window = (SURROUNDINGS_PX, SURROUNDINGS_PX)
    mean = cv2.boxFilter(image, cv2.CV_32F, window)
    spread = np.sqrt(np.maximum(cv2.sqrBoxFilter(image, cv2.CV_32F, window) - mean * mean, 0))
    local = np.clip((image - mean) / (spread + np.float32(0.02)), -MAX_LOCAL, MAX_LOCAL) / np.float32(MAX_LOCAL)
    return np.stack([image, local])


def text_scores(image: np.ndarray) -> np.ndarray:
    """Probability of text for each square of 4 x 4 px.

    Args:
        image: (H, W) float32 from 0 to 1.

    Returns:
        (ceil(H / 4), ceil(W / 4)) float32.
    """
    height, width = image.shape
    padding = ((0, 0), (0, -height % MULTIPLE_PX), (0, -width % MULTIPLE_PX))
    planes = np.pad(network_input(image), padding, mode="edge")
    network = _network()
    network.setInput(planes[None])
    logits = network.forward()[0, 0, : -(-height // CELL_PX), : -(-width // CELL_PX)]
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def boxes_of_scores(scores: np.ndarray) -> np.ndarray:
    """(n, 4) left, top, right, bottom in squares, of what is sure with what is possible around it."""
    possible = (scores >= POSSIBLE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(possible, connectivity=8)
    sure = np.zeros(count, bool)
    sure[np.unique(labels[scores >= SURE])] = True
    sure[0] = False  # the background
    left, top, width, height = stats[sure, :4].T.astype(float) if sure.any() else np.empty((4, 0))
    return np.stack([left, top, left + width, top + height], axis=1)


def _network() -> "cv2.dnn.Net":
    """One per thread and process: OpenCV's is not to be shared."""
    if getattr(_state, "pid", None) != os.getpid():
        data = files("radscale.datasets").joinpath(WEIGHTS).read_bytes()
        _state.network, _state.pid = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8)), os.getpid()
    network: cv2.dnn.Net = _state.network
    return network
