"""Random crops, flips, blur and brightness of whole batches on the device, on one grey channel.

A crop, its resize, a flip and a blur are linear and separable, so each image's are two small matrices: out = R image C^T. That
is an exact antialiased bicubic resize for every image of a batch at once, and it takes images of different sizes.

B = crops, H, W = canvas in pixels, S = size of a crop in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CropPlan:
    """What is done to each crop of a batch; all fields (B,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    blur_sigma: Tensor
    """In pixels of the crop; 0 for none."""
    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor

    def rows(self, index: Tensor) -> "CropPlan":
        """The plan of some of the crops."""
        return CropPlan(**{name: values[index] for name, values in vars(self).items()})


def plan_crops(
    heights: Tensor,
    widths: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (0.75, 4 / 3),
    flip_probability: float = 0.0,
    blur_probability: float = 0.0,
    jitter_probability: float = 1.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> CropPlan:
    """Draw crops as torchvision's RandomResizedCrop does, with flips, blurs (sigma .1 to 2) and jitter.

    Args:
        heights: (B,) image heights in pixels.
        widths: (B,) image widths in pixels.
        generator: all randomness comes from it.
        scale: share of the area.
        ratio: width by height of the crop.
        flip_probability: of a horizontal flip.
        blur_probability: effective probability of a blur.
        jitter_probability: of brightness and contrast changes.
        brightness: factors are drawn from 1 - b to 1 + b.
        contrast: likewise.
    """
    count = len(heights)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    heights, widths = heights.float(), widths.float()
    # Ten draws a crop, the first that fits counts; if none does, the largest centred crop of an allowed ratio.
    area = uniform(*scale, 10, count) * heights * widths
    aspect = torch.exp(uniform(*torch.tensor(ratio).log().tolist(), 10, count))
    crop_w, crop_h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (crop_w <= widths) & (crop_h <= heights) & (crop_w > 0) & (crop_h > 0)
    first = fits.float().argmax(dim=0)
    any_fits = fits.any(dim=0)
    columns = torch.arange(count)
    side = torch.minimum(heights, widths)
    width = torch.where(any_fits, crop_w[first, columns], side)
    height = torch.where(any_fits, crop_h[first, columns], side)
    top = (torch.rand(count, generator=generator) * (heights - height + 1)).floor()
    left = (torch.rand(count, generator=generator) * (widths - width + 1)).floor()
    top = torch.where(any_fits, top, ((heights - height) / 2).floor())
    left = torch.where(any_fits, left, ((widths - width) / 2).floor())
    jitters = torch.rand(count, generator=generator) < jitter_probability
    one = torch.ones(count)
    blurs = torch.rand(count, generator=generator) < blur_probability
    return CropPlan(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=torch.rand(count, generator=generator) < flip_probability,
        blur_sigma=torch.where(blurs, uniform(0.1, 2.0, count), 0 * one),
        brightness=torch.where(jitters, uniform(1 - brightness, 1 + brightness, count), one),
        contrast=torch.where(jitters, uniform(1 - contrast, 1 + contrast, count), one),
        contrast_first=torch.rand(count, generator=generator) < 0.5,
    )


def apply_crops(images: Tensor, plan: CropPlan, size_px: int) -> Tensor:
    """Crop, resize (bicubic, antialiased, as PIL), flip, blur and change brightness; in float32 also under autocast, whose
    bfloat16 has too few digits for places of pixels and for 256 levels of grey.

    Args:
        images: (B, H, W) in [0, 1]; smaller images stand at the top left of the canvas.
        plan: one entry per image.
        size_px: S.

    Returns:
        (B, 1, S, S) in [0, 1].
    """
    device = images.device
    with torch.autocast(device.type, enabled=False):
        rows = resize_matrix(plan.top.to(device), plan.height.to(device), images.shape[-2], size_px)
        columns = resize_matrix(plan.left.to(device), plan.width.to(device), images.shape[-1], size_px)
        columns = torch.where(plan.flip.to(device)[:, None, None], columns.flip(1), columns)
        blurred = (plan.blur_sigma > 0).nonzero().squeeze(1)
        if len(blurred):
            blur = blur_matrix(plan.blur_sigma[blurred].to(device), size_px)
            chosen = blurred.to(device)
            rows[chosen], columns[chosen] = blur @ rows[chosen], blur @ columns[chosen]
        crops = (rows @ images @ columns.transpose(1, 2)).clamp(0, 1)
    return jitter(crops, plan)[:, None]


def jitter(crops: Tensor, plan: CropPlan) -> Tensor:
    """Brightness and contrast, in either order, as torchvision's ColorJitter on grey images; crops (B, S, S), changed in place.

    Its saturation, hue and conversion to grey leave a grey image as it is. What a plan leaves as it is costs nothing here.
    """
    changes = (plan.brightness != 1) | (plan.contrast != 1)
    for contrast_first in (True, False):
        index = (changes & (plan.contrast_first == contrast_first)).nonzero().squeeze(1)
        if not len(index):
            continue
        chosen = index.to(crops.device)
        brightness, contrast = (factor[index].to(crops)[:, None, None] for factor in (plan.brightness, plan.contrast))
        x = crops[chosen]
        x = _change_contrast(x, contrast) if contrast_first else x.mul_(brightness).clamp_(0, 1)
        x = x.mul_(brightness).clamp_(0, 1) if contrast_first else _change_contrast(x, contrast)
        crops[chosen] = x
    return crops


def _change_contrast(x: Tensor, contrast: Tensor) -> Tensor:
    mean = x.mean(dim=(1, 2), keepdim=True)
    return ((x - mean) * contrast + mean).clamp_(0, 1)


def resize_matrix(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """(B, out_size, in_size) weights of PIL's antialiased bicubic resize of [start, start + length) along one axis."""
    scale = (length / out_size)[:, None, None]
    support = scale.clamp(min=1)
    start, end = start[:, None, None], (start + length)[:, None, None]
    centers = start + (torch.arange(out_size, device=start.device, dtype=torch.float32)[None, :, None] + 0.5) * scale
    # A pixel of the crop depends on few pixels of the image; only their weights are computed, and placed among zeros.
    num_taps = int(4 * max(1.0, in_size / out_size)) + 2
    inputs = (centers - 2 * support).floor() + torch.arange(num_taps, device=start.device)
    weights = _cubic((inputs + 0.5 - centers) / support)
    # PIL crops before it resizes: pixels outside the crop do not count.
    weights = weights * ((inputs >= start) & (inputs < end))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    matrix = torch.zeros(len(length), out_size, in_size, device=start.device)
    return matrix.scatter_add_(2, inputs.clamp(0, in_size - 1).long(), weights)


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """Keys' cubic kernel with PIL's parameter."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def blur_matrix(sigma: Tensor, size: int, radius: int = 4) -> Tensor:
    """(B, size, size) Gaussian blur along one axis (kernel of 9, edge repeated); the identity where sigma is 0."""
    offsets = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    positions = torch.arange(size, device=sigma.device)[:, None] + offsets.long()[None, :]
    index = positions.clamp(0, size - 1).expand(len(sigma), -1, -1)
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, index, kernel[:, None, :].expand(-1, size, -1).contiguous())


def block_masks(
    num_crops: int, side: int, generator: torch.Generator, *, probability: float, ratio: tuple[float, float]
) -> Tensor:
    """(num_crops, side * side) bool: block-wise masks of a share of the crops (Zhou et al., 2022; DINOv2's generator).

    Of `probability` of the crops a share is hidden that rises evenly over `ratio` from crop to crop; rectangles of log-uniform
    aspect (.3 to 1 / .3) are added until it is reached. The crops are then shuffled.
    """
    num_masked = int(num_crops * probability)
    num_patches = side * side
    masks = torch.zeros(num_crops, side, side, dtype=torch.bool)
    bounds = torch.linspace(*ratio, num_masked + 1)
    for index in range(num_masked):
        share = bounds[index] + torch.rand((), generator=generator) * (bounds[index + 1] - bounds[index])
        _add_blocks(masks[index], int(num_patches * share), generator)
    order = torch.randperm(num_crops, generator=generator)
    return masks[order].flatten(1)


def _add_blocks(mask: Tensor, target: int, generator: torch.Generator) -> None:
    side = mask.shape[0]
    max_area = side // 2 * side
    # All the randomness of a mask at once: one draw per attempt would cost more than the rest of it.
    draws = torch.rand(256, 4, generator=generator).tolist()
    count = 0
    for u_area, u_aspect, u_top, u_left in draws:
        remaining = target - count
        if remaining < 1:
            return
        area = 4 + u_area * (min(remaining, max_area) - 4)
        aspect = 0.3 ** (1 - 2 * u_aspect)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if not (0 < height < side and 0 < width < side):
            continue
        top, left = int(u_top * (side - height + 1)), int(u_left * (side - width + 1))
        block = mask[top : top + height, left : left + width]
        added = height * width - int(block.sum())
        if 0 < added <= remaining:
            block.fill_(True)
            count += added
