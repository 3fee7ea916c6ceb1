"""TrivialAugment (Müller and Hutter, 2021; wide space) and random erasing (Zhong et al., 2020) of whole grey batches.

As MedImageInsight is trained: one of 14 operations for each image, at one of 31 strengths. Magnitudes and rounding are those of
torchvision's `TrivialAugmentWide` on 8-bit tensors; of a grey image its `Color` changes nothing.

B = images, S = side in pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
NUM_STRENGTHS = 31
LARGEST = {"shear_x": 0.99, "shear_y": 0.99, "translate_x": 32.0, "translate_y": 32.0, "rotate": 135.0, "solarize": 255.0}
"""Magnitude at full strength: slopes, pixels, degrees, grey levels below white; .99 for all others."""
ERASED_GREY = 0.449
"""Mean of ImageNet's channel means: the published trainer erases to 0 after normalisation, which is each channel's own mean."""


@dataclass(frozen=True)
class TrivialPlan:
    """What is done to each image of a batch; all fields (B,)."""

    operation: Tensor
    """Index into `OPERATIONS`."""
    strength: Tensor
    """From 0 to 30."""
    sign: Tensor
    """1 or -1, of magnitudes that have one."""
    erased_top: Tensor
    erased_left: Tensor
    erased_height: Tensor
    """In pixels; 0 where nothing is erased."""
    erased_width: Tensor

    def rows(self, index: Tensor) -> "TrivialPlan":
        """The plan of some of the images."""
        return TrivialPlan(**{name: values[index] for name, values in vars(self).items()})


def plan_trivial_augment(
    count: int,
    size_px: int,
    generator: torch.Generator,
    *,
    erasing_probability: float,
    erased_area: tuple[float, float] = (0.02, 0.33),
    erased_ratio: tuple[float, float] = (0.3, 3.3),
) -> TrivialPlan:
    """Draw operations, strengths and rectangles.

    Args:
        count: B.
        size_px: S.
        generator: all randomness comes from it.
        erasing_probability: of a rectangle.
        erased_area: share of the image's area.
        erased_ratio: height by width of the rectangle.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    # Ten draws of a rectangle, the first that fits counts.
    area = uniform(*erased_area, 10, count) * size_px**2
    aspect = torch.exp(uniform(*torch.tensor(erased_ratio).log().tolist(), 10, count))
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (heights < size_px) & (widths < size_px)
    first, columns = fits.float().argmax(dim=0), torch.arange(count)
    erases = (torch.rand(count, generator=generator) < erasing_probability) & fits.any(dim=0)
    height, width = (torch.where(erases, sides[first, columns], 0.0) for sides in (heights, widths))
    return TrivialPlan(
        operation=torch.randint(len(OPERATIONS), (count,), generator=generator),
        strength=torch.randint(NUM_STRENGTHS, (count,), generator=generator),
        sign=1.0 - 2.0 * torch.randint(2, (count,), generator=generator),
        erased_top=(torch.rand(count, generator=generator) * (size_px - height + 1)).floor(),
        erased_left=(torch.rand(count, generator=generator) * (size_px - width + 1)).floor(),
        erased_height=height,
        erased_width=width,
    )


def apply_trivial_augment(images: Tensor, plan: TrivialPlan) -> Tensor:
    """Do to each image what its plan says; rounds to 8 bit. In float32 also under autocast.

    Args:
        images: (B, 1, S, S) in [0, 1].
        plan: one entry per image.

    Returns:
        (B, 1, S, S) in [0, 1].
    """
    grey = (images[:, 0] * 255).round()
    result = grey.clone()
    for number, name in enumerate(OPERATIONS):
        chosen = (plan.operation == number).nonzero().squeeze(1)
        if len(chosen):
            share = plan.strength[chosen] / (NUM_STRENGTHS - 1)
            magnitude = (share * LARGEST.get(name, 0.99) * (1.0 if name == "solarize" else plan.sign[chosen])).to(grey.device)
            chosen = chosen.to(grey.device)
            with torch.autocast(grey.device.type, enabled=False):
                result[chosen] = _apply(name, grey[chosen], magnitude[:, None, None], share.to(grey.device)[:, None, None])
    return torch.where(_erased(plan, images.shape[-1], images.device), ERASED_GREY, result / 255)[:, None]


def _apply(name: str, grey: Tensor, magnitude: Tensor, share: Tensor) -> Tensor:
    """One operation; grey (n, S, S) in whole levels from 0 to 255, magnitude and share of the full strength (n, 1, 1)."""
    if name in ("identity", "color"):
        return grey
    if name == "brightness":
        return _blend(grey, torch.zeros_like(grey), magnitude)
    if name == "contrast":
        return _blend(grey, grey.mean(dim=(1, 2), keepdim=True), magnitude)
    if name == "sharpness":
        return _blend(grey, _smooth(grey), magnitude)
    if name == "posterize":
        step = 2.0 ** (share * 6).round()
        return (grey / step).floor() * step
    if name == "solarize":
        return torch.where(grey >= 255 - magnitude, 255 - grey, grey)
    if name == "autocontrast":
        low, high = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
        return torch.where(high > low, ((grey - low) * (255 / (high - low).clamp(min=1))).floor().clamp(0, 255), grey)
    if name == "equalize":
        return _equalize(grey)
    return _move(name, grey, magnitude)


def _blend(grey: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """From the other image (-1) over the image itself (0) to its exaggeration (1), in whole levels."""
    return ((1 + magnitude) * grey - magnitude * other).clamp(0, 255).floor()


def _smooth(grey: Tensor) -> Tensor:
    """The 3 x 3 smoothing of PIL; borders stay."""
    kernel = torch.ones(1, 1, 3, 3, device=grey.device)
    kernel[..., 1, 1] = 5.0
    result = grey.clone()
    result[:, 1:-1, 1:-1] = F.conv2d(grey[:, None], kernel / 13)[:, 0].round()
    return result


def _equalize(grey: Tensor) -> Tensor:
    """Histogram equalisation in whole levels; images of one level stay."""
    levels = grey.long().flatten(1)
    histogram = torch.zeros(len(grey), 256, dtype=torch.long, device=grey.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
    brightest = histogram.gather(1, levels.amax(dim=1, keepdim=True))
    step = (levels.shape[1] - brightest) // 255
    before = histogram.cumsum(dim=1) - histogram
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=grey.device))
    return table.gather(1, levels).view_as(grey).to(grey.dtype)


def _move(name: str, grey: Tensor, magnitude: Tensor) -> Tensor:
    """Shear about the top left corner, shift by whole pixels, or rotate about the centre; nearest pixel, black outside."""
    side = grey.shape[-1]
    centred = torch.arange(side, device=grey.device) - (side - 1) / 2
    y, x = centred[:, None].expand(len(grey), side, side), centred[None, :].expand(len(grey), side, side)
    if name == "shear_x":
        x = x + magnitude * (y + side / 2)
    elif name == "shear_y":
        y = y + magnitude * (x + side / 2)
    elif name == "translate_x":
        x = x - magnitude.trunc()
    elif name == "translate_y":
        y = y - magnitude.trunc()
    else:
        cosine, sine = magnitude.deg2rad().cos(), magnitude.deg2rad().sin()
        x, y = cosine * x - sine * y, sine * x + cosine * y
    grid = torch.stack([x, y], dim=-1) / (side / 2)
    return F.grid_sample(grey[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]


def _erased(plan: TrivialPlan, side: int, device: torch.device) -> Tensor:
    """(B, S, S) bool: inside the erased rectangle."""
    position = torch.arange(side, device=device)[None]

    def inside(start: Tensor, length: Tensor) -> Tensor:
        start, length = start.to(device)[:, None], length.to(device)[:, None]
        return (position >= start) & (position < start + length)

    rows, columns = inside(plan.erased_top, plan.erased_height), inside(plan.erased_left, plan.erased_width)
    return rows[:, :, None] & columns[:, None, :]
