"""Lines of text planted into X-rays: how many are found, in what time."""

import atexit
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options, Tally
from radscale.benchmarks.planted_text import CONTRASTS, SIZES_PX, PlantedLine, is_hit, plant_lines

IMAGES_PER_ROUND = 10
LINES_PER_IMAGE = 3
PEER_MARGIN_PX = 6
Planted = list[tuple[np.ndarray, list[PlantedLine]]]


def cases(options: Options) -> list[Case]:
    """The images of a dataset, or of the phantom, enlarged to a detector's size, with its range and noise."""
    side, num_images = (600, 2) if options.quick else (2500, IMAGES_PER_ROUND)
    images = _images(options)
    return [
        Case(
            title=f"text in images with a shorter side of {side:,} px, {LINES_PER_IMAGE} lines in each, fonts of 24 to 96 px",
            unit="image",
            workload=lambda number: _plant(images, side, num_images, options.seed, number),
            contestants=[
                Contestant("radscale, one thread", "radscale", _ours, num_images),
                Contestant("rapidocr, detection at half size", "rapidocr-onnxruntime", partial(_rapid, 0.5, False), num_images),
                Contestant("rapidocr, whole, full size", "rapidocr-onnxruntime", partial(_rapid, 1.0, True), num_images),
            ],
            rounds=options.repeat or (1 if options.quick else 10),
            warm_up=False,
            tally=_tally,
            note="one thread each; a line counts as hidden when 80 % of its visible pixels are (docs/burned_in_text.md)",
        )
    ]


def _images(options: Options) -> list[np.ndarray]:
    from radscale.datasets import Dataset

    if options.dataset is not None:
        dataset = Dataset(options.dataset)
        rows = np.random.default_rng(options.seed).permutation(len(dataset))[:200]
        return dataset.read_images(np.sort(rows))
    from radscale.datasets.files import files_below, read_grey_image
    from radscale.phantom import PhantomConfig, generate_archive

    temporary = tempfile.TemporaryDirectory(prefix="radscale-text-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name) / "phantom"
    generate_archive(PhantomConfig(num_patients=4 if options.quick else 20, seed=options.seed), folder)
    return list(islice(_readable(folder / "dicom", files_below, read_grey_image), 40))


def _readable(folder: Path, names: Callable[[Path], list[str]], read: Callable[[Path], Any]) -> Any:
    from radscale.datasets.exclusions import Excluded

    for name in names(folder):
        try:
            yield read(folder / name).pixels
        except Excluded:
            continue


def _plant(images: list[np.ndarray], side: int, num_images: int, seed: int, number: int) -> Planted:
    rng = np.random.default_rng([seed, number])
    planted = []
    for _ in range(num_images):
        image = images[rng.integers(len(images))]
        scale = side / min(image.shape)
        large = cv2.resize(image.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(large * 14 + 250 + rng.normal(0, 8, large.shape), 0, 4095) / 4095 * 255
        planted.append(plant_lines(noisy, rng, num_lines=LINES_PER_IMAGE))
    return planted


def _ours() -> Callable[[Planted], list[np.ndarray]]:
    from radscale.datasets.burned_in_text import find_text

    def find(planted: Planted) -> list[np.ndarray]:
        cv2.setNumThreads(1)
        return [find_text(image) for image, _ in planted]

    return find


def _rapid(scale: float, recognise: bool) -> Callable[[Planted], list[np.ndarray]]:
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def find(planted: Planted) -> list[np.ndarray]:
        cv2.setNumThreads(1)
        found = []
        for image, _ in planted:
            grey = cv2.resize(image.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            lines = engine(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), use_det=True, use_cls=False, use_rec=recognise)[0] or ()
            corners = [np.array(line[0] if recognise else line, float) / scale for line in lines]
            boxes = [(*box.min(0) - PEER_MARGIN_PX, *box.max(0) + PEER_MARGIN_PX) for box in corners]
            found.append(np.array(boxes).reshape(-1, 4))
        return found

    return find


def _tally(planted: Planted, found: list[np.ndarray]) -> Tally:
    """Lines hidden, in all and by size and contrast; pixels in boxes beyond the planted lines."""
    counts = {name: [0, 0] for name in ("lines hidden", *(f"contrast {c}" for c in CONTRASTS), *(f"{s} px" for s in SIZES_PX))}
    area = [0, 0]
    for (image, lines), boxes in zip(planted, found, strict=True):
        covered = np.zeros(image.shape, bool)
        for left, top, right, bottom in np.clip(boxes, 0, None).round().astype(int):
            covered[top:bottom, left:right] = True
        for line in lines:
            hit = is_hit(line, boxes)
            for name in ("lines hidden", f"contrast {line.contrast}", f"{line.size_px} px"):
                counts[name][0] += hit
                counts[name][1] += 1
            (top, left), (bottom, right) = line.visible.min(0), line.visible.max(0)
            pad = line.size_px
            covered[max(0, top - pad) : bottom + pad, max(0, left - pad) : right + pad] = False
        area = [area[0] + int(covered.sum()), area[1] + covered.size]
    return {**{name: (hits, total) for name, (hits, total) in counts.items()}, "area besides": (area[0], area[1])}
