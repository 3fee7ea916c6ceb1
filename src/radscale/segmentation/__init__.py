"""Segmentation on frozen encoders: a linear head on four feature maps, metrics per image, overlays (paper, section 5.2).

May import datasets, training, execution, analysis, models, losses, metrics and `radscale.errors`; no other stage.
"""

from radscale.segmentation.application import apply_heads
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.evaluation import SEGMENTATION_SCHEMA, score_image, summarise
from radscale.segmentation.head import HeadShape, StackedHead, train_head
from radscale.segmentation.segment import run_segmentation

__all__ = [
    "SEGMENTATION_SCHEMA",
    "HeadShape",
    "SegmentationConfig",
    "StackedHead",
    "apply_heads",
    "run_segmentation",
    "score_image",
    "summarise",
    "train_head",
]
