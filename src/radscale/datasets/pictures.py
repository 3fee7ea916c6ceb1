"""Images on pages that stand alone."""

import base64

import cv2
import numpy as np


def jpeg_uri(image: np.ndarray, quality: int = 80) -> str:
    """A data URI of an (H, W) or, in OpenCV's order of colours, (H, W, 3) uint8 image."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
