"""The parts that can be measured. A part's file has `cases(options)`, and loads what it measures only when it is run."""

from collections.abc import Callable
from importlib import import_module

from radscale.benchmarks.measure import Options, Result, compare
from radscale.errors import InputError

PARTS = {
    "bootstrap": "average precisions of the paper's bootstrap, against scikit-learn loops",
    "encode": "forward passes of ViT-B/14 and DaViT at full size, against transformers and timm",
    "fit": "one automatic scaling-law fit, against scipy and lmfit",
    "hausdorff": "Hausdorff distance of 518 x 518 masks, against scipy, OpenCV, SimpleITK, scikit-image and MONAI",
    "ingest": "DICOM files to PNG and the tables of 4 million images, against SimpleITK, the decoding floor and one process",
    "loader": "images from shards to tensors, against the decoding floor, torch's DataLoader with PIL and webdataset",
    "pretrain": "training steps of CLIP and DINOv2, against open_clip and lightly-train",
    "probe": "a probe on frozen features: all seeds and tasks against one, extraction against the bare encoder, the cache",
    "resize": "a 2500 x 3000 image to 518 px, against SimpleITK",
    "text": "lines of text planted into X-rays: how many are found, against rapidocr",
    "segment": "metrics of 4,000 segmented images, against SimpleITK, scipy and MONAI",
}


def run_part(part: str, options: Options, progress: Callable[[int, int, str], None] | None = None) -> list[Result]:
    """Measure a part.

    Raises:
        InputError: there is no such part.
    """
    if part not in PARTS:
        raise InputError(f"part '{part}' is not known; choose one of {', '.join(PARTS)}")
    return [compare(case, progress) for case in import_module(f"radscale.benchmarks.{part}").cases(options)]
