"""The linear head on frozen features (paper, section 5.2), for all seeds and tasks at once.

The paper projects each map, concatenates, and applies a linear head. Nothing between them is nonlinear, so that projection and
head are one matrix from the channels of all maps to the logits, with the same functions within its reach; so is a transposed
convolution of equal kernel and stride between the two, which gives several logits per cell. The projected map, 3,072 to 4,096
numbers per cell and seed, is never formed.

B = images, N = cells of the grid, C = channels of all maps, S = seeds, K = tasks, u = logits of a cell a side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.losses import dice_loss
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.frames import interpolation_matrix, upsample
from radscale.training.features import FeatureSource, channel_statistics
from radscale.training.samplers import EqualBatches
from radscale.training.schedules import cosine_schedule
from radscale.training.training_state import TrainingState

INITIAL_STD = 0.1
"""Of a logit before training, when features are standardised."""
PREVALENCE_IMAGES = 256
"""Training images from which the share of positive pixels is taken."""
"""At most so much of a training is lost to a kill; else its state is saved after each epoch."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Sizes of a head: channels of all maps, side of the grid in cells, tasks, kernel of the convolution, logits of a cell a
    side."""

    in_channels: int
    grid: int
    num_tasks: int
    kernel_size: int = 1
    upsampling: int = 1


class StackedHead(nn.Module):
    """Heads of several seeds with a leading seed dimension; nothing is shared between seeds.

    Each seed draws its own weights from its own generator, so a seed is the same whichever others stand beside it.

    Args:
        shape: sizes, equal for all seeds.
        seeds: one head each.
        prevalence: (K,) share of positive pixels: where the biases start, so that thin structures do not spend the first steps
            on learning that they are thin. None: 0.5.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: HeadShape, seeds: Sequence[int], prevalence: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.in_channels))
        self.register_buffer("deviation", torch.ones(shape.in_channels))
        fan_in = shape.in_channels * shape.kernel_size**2
        size = (shape.num_tasks * shape.upsampling**2, shape.in_channels, shape.kernel_size, shape.kernel_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws = [torch.randn(size, generator=g) * INITIAL_STD * fan_in**-0.5 for g in generators]
        self.weight = nn.Parameter(torch.stack(draws))
        start = torch.zeros(shape.num_tasks) if prevalence is None else torch.logit(prevalence.float())
        self.bias = nn.Parameter(start.repeat(len(seeds), 1))

    def standardise_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Centre and scale each channel with (C,) statistics of the training features; the optimiser then meets features that
        differ between cells more than they have in common."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) features -> logits (S, B, K, grid * u, grid * u)."""
        num_seeds, num_images, grid = len(self.weight), len(features), self.shape.grid
        kernels = self.weight.flatten(0, 1)
        if self.shape.kernel_size == 1:
            # Standardising the few kernels instead of the many features gives the same products.
            scaled = kernels[:, :, 0, 0] / self.deviation
            logits = F.linear(features, scaled, -(scaled @ self.mean)).transpose(1, 2).unflatten(2, (grid, grid))
        else:
            standardised = ((features - self.mean) / self.deviation).transpose(1, 2).unflatten(2, (grid, grid))
            logits = F.conv2d(standardised, kernels, padding="same")
        shuffled = F.pixel_shuffle(logits.reshape(num_images * num_seeds, -1, grid, grid), self.shape.upsampling)
        by_seed = shuffled.unflatten(0, (num_images, num_seeds)).transpose(0, 1)
        return by_seed + self.bias[:, None, :, None, None]


def train_head(
    features: FeatureSource,
    read_masks: Callable[[np.ndarray], Tensor],
    known: np.ndarray,
    shape: HeadShape,
    config: SegmentationConfig,
    *,
    device: torch.device | None = None,
    state: TrainingState | None = None,
    progress: Callable[[int], None] | None = None,
) -> StackedHead:
    """Train the heads of all seeds in one pass over the features per epoch.

    AdamW on the Dice loss of the upsampled logits; cosine schedule to 0 after a linear warm-up. Seeds differ in their initial
    weights; the order of the batches depends on the epoch only and is shared, so that each feature and mask is read once for
    all seeds.

    Args:
        features: of the training images.
        read_masks: positions (b,) -> (b, K, S, S) float32 in [0, 1], in the square that the encoder sees.
        known: (n, K) bool; masks that are not known cost nothing.
        state: kept while training; one that has steps is gone on from, to the same bits. One that has them all is the trained
            head, and neither features nor masks are read.
        progress: called with the number of images seen, up to epochs * n.
    """
    device = device or torch.device("cpu")
    num_images = len(known)
    done = state.steps if state else 0
    prevalence = None if done else _prevalence(read_masks, known)
    head = StackedHead(shape, config.seeds, prevalence).to(device)
    if not done:
        head.standardise_by(*channel_statistics(features, num_images, shape.grid**2 * shape.in_channels))
    optimizer = torch.optim.AdamW(
        [{"params": [head.weight], "weight_decay": config.weight_decay}, {"params": [head.bias], "weight_decay": 0.0}]
    )
    if state and done:
        state.restore(head, optimizer)
    batches = training_batches(config, num_images)
    warmup_steps = int(config.warmup_fraction * len(batches))
    rates = cosine_schedule(config.learning_rate, 0.0, len(batches), warmup_steps=warmup_steps)
    known_masks, seen = torch.from_numpy(known), 0
    for step, (rate, positions) in enumerate(zip(rates, batches, strict=True), start=1):
        seen += len(positions)
        if step <= done:
            continue
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        masks = read_masks(positions).to(device)
        matrix = interpolation_matrix(masks.shape[-1], shape.grid * shape.upsampling).to(device)
        logits = upsample(head(features.read(positions)), matrix, matrix)
        optimizer.zero_grad()
        segmentation_loss(logits, masks, known_masks[positions].to(device), config).backward()
        optimizer.step()
        if state and (step % batches.batches_per_epoch == 0 or state.is_due()):
            state.save(step, head, optimizer)
        if progress:
            progress(seen)
    return head


def training_batches(config: SegmentationConfig, num_images: int) -> EqualBatches:
    """Positions of the images of each step."""
    return EqualBatches(num_images, batch_size=config.batch_size, num_epochs=config.epochs, min_steps=config.min_steps)


def segmentation_loss(logits: Tensor, masks: Tensor, known: Tensor, config: SegmentationConfig) -> Tensor:
    """Dice loss, with cross-entropy if configured, summed over seeds.

    Args:
        logits: (S, B, K, H, W).
        masks: (B, K, H, W) in [0, 1].
        known: (B, K) bool.
    """
    loss = torch.zeros((), device=logits.device)
    for of_seed in logits:
        loss = loss + dice_loss(
            of_seed, masks, config.dice_smooth, over=config.dice_over, squared=config.dice_squared, known=known
        )
        if config.cross_entropy:
            per_mask = F.binary_cross_entropy_with_logits(of_seed, masks, reduction="none").mean((-2, -1))
            loss = loss + config.cross_entropy * (per_mask * known).sum() / known.sum().clamp(min=1)
    return loss


def _prevalence(read_masks: Callable[[np.ndarray], Tensor], known: np.ndarray) -> Tensor:
    """(K,) share of positive pixels in the known masks, away from 0 and 1 so that its logit is finite."""
    positions = np.unique(np.linspace(0, len(known) - 1, min(len(known), PREVALENCE_IMAGES)).round().astype(np.int64))
    shares = torch.stack([read_masks(positions[i : i + 1])[0].mean((1, 2)) for i in range(len(positions))])
    weights = torch.from_numpy(known[positions]).float()
    return ((shares * weights).sum(0) / weights.sum(0).clamp(min=1)).clamp(1e-4, 1 - 1e-4)
