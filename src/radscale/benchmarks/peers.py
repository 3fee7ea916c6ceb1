"""Peers that are awkward to import, and the names that their weights have."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_operators: Any = None

# MedImageInsight's names to timm's (specification of the checkpoint), in this order.
TIMM_NAMES = (
    (r"^convs\.(\d)", r"stages.\1.downsample"),
    (r"^blocks\.(\d)", r"stages.\1.blocks"),
    (r"downsample\.proj", "downsample.conv"),
    (r"^stages\.0\.downsample", "stem"),
    (r"^norms\.", "head.norm."),
    (r"(?:window|channel)_attn\.norm\.", "norm1."),
    (r"(?:window|channel)_attn\.fn\.", "attn."),
    (r"ffn\.norm\.", "norm2."),
    (r"ffn\.fn\.net\.", "mlp."),
    (r"conv1\.fn\.dw", "cpe1.proj"),
    (r"conv2\.fn\.dw", "cpe2.proj"),
)


def import_timm() -> Any:
    """timm, also where torchvision comes without its compiled operators.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    repair_torchvision()
    import timm

    return timm


def repair_torchvision() -> None:
    """Make torchvision importable where its compiled operators do not fit this torch (its wheels are made for GPUs).

    It then fails on the two operators that it registers at import; their schemas alone are enough for timm and transformers,
    which never call them. Does nothing where torchvision works or is not installed.
    """
    global _operators
    import torch

    if _operators is None and find_spec("torchvision") is not None and not _has_operators():
        _operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _has_operators() -> bool:
    """In a process of its own: an import that failed half-way cannot be repeated."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0


def davit_names_of_timm(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """A DaViT's weights under the names of timm's `davit_huge_fl`."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in TIMM_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
