"""Peers that are awkward to import."""

from typing import Any

_operators: Any = None


def import_timm() -> Any:
    """timm, also where torchvision comes without its compiled operators (its wheels are made for GPUs).

    torchvision then fails on the two operators that it registers at import; their schemas alone are enough for timm, which
    never calls them.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    global _operators
    import torch

    if _operators is None and not _has_operators():
        _operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm


def _has_operators() -> bool:
    """In a process of its own: an import that failed half-way cannot be repeated."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0
