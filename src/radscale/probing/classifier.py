"""The classifier on frozen features (paper, section 5.1), for all seeds and tasks at once.

`AttentionProbe` is the classifier as the paper writes it: projections, attention pooling to one token per task, a linear
classifier per task. `StackedProbe` computes the same numbers for many seeds, much faster. Between the features and the
logits only the softmax is not linear, so with P the projection, q a task's query and w its classifier

    a     = softmax_n(q . P z_n / sqrt(D)) = softmax_n(P'q . z_n / sqrt(D))
    logit = w . sum_n a_n (P z_n)          = sum_n a_n (P'w . z_n)

and the features z meet one matrix with two rows per seed and task, (P'q) and (P'w). The projected map,
4 x width numbers per token and seed, is never formed, and the cost hardly depends on the width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.models.attention_pooling import AttentionPooling
from radscale.models.feature_pyramid import FeaturePyramid, normalise_to_grid
from radscale.training.features import FeatureSource, channel_statistics, in_chunks
from radscale.training.samplers import EqualBatches
from radscale.training.schedules import cosine_schedule
from radscale.training.training_state import TrainingState

INITIAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ProbeShape:
    """Sizes of a probe.

    `in_channels` are those of each feature map, `grid` the side of the common grid in cells, `width` the channels that
    each map is projected to, `kernel_size` that of the projecting convolution.
    """

    in_channels: tuple[int, ...]
    grid: int
    width: int
    num_tasks: int
    kernel_size: int = 1

    @property
    def token_width(self) -> int:
        """D: channels of a token after projection and concatenation."""
        return len(self.in_channels) * self.width

    @property
    def elements_per_image(self) -> int:
        """Numbers of an image's features."""
        return self.grid**2 * sum(self.in_channels)


class AttentionProbe(nn.Module):
    """The classifier of one seed as the paper describes it: feature maps -> (B, T) logits."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: ProbeShape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sum(shape.in_channels)))
        self.register_buffer("deviation", torch.ones(sum(shape.in_channels)))
        self.pyramid = FeaturePyramid(shape.in_channels, shape.width, shape.grid, shape.kernel_size)
        self.pooling = AttentionPooling(shape.num_tasks, shape.token_width)
        self.weight = nn.Parameter(torch.zeros(shape.num_tasks, shape.token_width))
        self.bias = nn.Parameter(torch.zeros(shape.num_tasks))

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Each (B, C_i, h_i, w_i) -> logits (B, T)."""
        normed = normalise_to_grid(feature_maps, self.pyramid.grid)
        standardised = (normed - self.mean[:, None, None]) / self.deviation[:, None, None]
        tokens = self.pyramid.project(standardised).flatten(2).transpose(1, 2)
        return (self.pooling(tokens) * self.weight).sum(-1) + self.bias


class StackedProbe(nn.Module):
    """Probes of several seeds with a leading seed dimension S; nothing is shared between seeds.

    Each seed draws its own weights from its own generator, so a seed is the same whichever others stand beside it.

    Args:
        shape: sizes, equal for all seeds.
        seeds: one probe each.
        prevalence: (T,) share of positives in training, in (0, 1): where the biases start, so that rare tasks do not
            spend their first steps on learning that they are rare. None: 0.5.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: ProbeShape, seeds: Sequence[int], prevalence: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(sum(shape.in_channels)))
        self.register_buffer("deviation", torch.ones(sum(shape.in_channels)))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(rows: int, columns: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.stack([torch.randn(rows, columns, generator=g) * std for g in generators]))

        area = shape.kernel_size**2
        self.projections = nn.ParameterList(
            draw(shape.width, channels * area, (channels * area) ** -0.5) for channels in shape.in_channels
        )
        self.queries = draw(shape.num_tasks, shape.token_width, INITIAL_STD)
        self.weight = draw(shape.num_tasks, shape.token_width, INITIAL_STD)
        start = torch.zeros(shape.num_tasks) if prevalence is None else torch.logit(prevalence.float())
        self.bias = nn.Parameter(start.repeat(len(seeds), 1))

    def standardise_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Centre and scale each channel with (C,) statistics of the training features.

        Functions that the probe can represent stay the same, because projection, softmax and bias absorb both; the
        optimiser gets features that differ between images more than they have in common.
        """
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) features -> logits (S, B, T)."""
        return self.logits(features, self.directions())

    def directions(self) -> Tensor:
        """(2 * S * T, C * kernel area): all that features meet, P'q and P'w of each seed and task."""
        return torch.cat([self._fold(self.queries) / self.shape.token_width**0.5, self._fold(self.weight)])

    def logits(self, features: Tensor, directions: Tensor) -> Tensor:
        """(B, N, C) features and `directions` -> logits (S, B, T)."""
        num_seeds, num_tasks, _ = self.queries.shape
        scores, evidence = self._responses(features, directions).split(num_seeds * num_tasks, dim=-1)
        pooled = (scores.softmax(dim=1) * evidence).sum(dim=1)
        return pooled.view(-1, num_seeds, num_tasks).transpose(0, 1) + self.bias[:, None]

    def layer_terms(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of each layer in attention scores and in evidence, whose sums over L `forward` pools.

        Args:
            features: (B, N, C).

        Returns:
            Two tensors (L, B, N, S * T).
        """
        directions = self.directions()
        sizes = [channels * self.shape.kernel_size**2 for channels in self.shape.in_channels]
        parts = directions.split(sizes, dim=-1)
        terms = []
        for layer, part in enumerate(parts):
            alone = [part if index == layer else torch.zeros_like(other) for index, other in enumerate(parts)]
            terms.append(self._responses(features, torch.cat(alone, dim=-1)))
        scores, evidence = torch.stack(terms).chunk(2, dim=-1)
        return scores, evidence

    def _fold(self, vectors: Tensor) -> Tensor:
        """(S, T, D) vectors of the projected space -> (S * T, C * kernel area), seen from the features."""
        parts = vectors.split(self.shape.width, dim=-1)
        folded = [part @ projection for part, projection in zip(parts, self.projections, strict=True)]
        return torch.cat(folded, dim=-1).flatten(0, 1)

    def _responses(self, features: Tensor, directions: Tensor) -> Tensor:
        """Standardised features times directions (R, C * area): (B, N, R)."""
        if self.shape.kernel_size == 1:
            # Standardising the few directions instead of the many features gives the same products.
            scaled = directions / self.deviation
            return F.linear(features, scaled, -(scaled @ self.mean))
        size, grid = self.shape.kernel_size, self.shape.grid
        standardised = ((features - self.mean) / self.deviation).transpose(1, 2).unflatten(2, (grid, grid))
        kernels = directions.view(-1, sum(self.shape.in_channels), size, size)
        return F.conv2d(standardised, kernels, padding="same").flatten(2).transpose(1, 2)

    def unstack(self, index: int) -> AttentionProbe:
        """The probe of the seed at `index` in the paper's form."""
        probe = AttentionProbe(self.shape)
        size = self.shape.kernel_size
        state = {
            "mean": self.mean,
            "deviation": self.deviation,
            "pooling.queries": self.queries[index],
            "weight": self.weight[index],
            "bias": self.bias[index],
        }
        for number, (projection, channels) in enumerate(zip(self.projections, self.shape.in_channels, strict=True)):
            state[f"pyramid.projections.{number}.weight"] = projection[index].view(-1, channels, size, size)
        probe.load_state_dict({name: tensor.detach().cpu() for name, tensor in state.items()})
        return probe


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over seeds and over known targets; unknown ones (NaN) carry no gradient.

    Args:
        logits: (S, B, T).
        targets: (B, T), 1, 0 or NaN.
    """
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num().expand_as(logits), reduction="none")
    return (losses * known).sum()


def train_probe(
    features: FeatureSource,
    targets: np.ndarray,
    shape: ProbeShape,
    *,
    seeds: Sequence[int],
    epochs: int = 25,
    batch_size: int = 512,
    min_steps: int = 1,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    warmup_fraction: float = 0.05,
    device: torch.device | None = None,
    state: TrainingState | None = None,
    progress: Callable[[int], None] | None = None,
) -> StackedProbe:
    """Train the probes of all seeds in one pass over the features per epoch.

    AdamW on the mean binary cross-entropy over the known targets of a batch; cosine schedule to 0 after a linear
    warm-up. Seeds differ in their initial weights; the order of the batches depends on the epoch only and is shared, so
    that each feature is read once for all seeds. Batches are of equal size up to one image, at most `batch_size`, and small
    enough for `min_steps` steps in all (if there are images enough).

    Args:
        features: source of the training features.
        targets: (n, T) float32; 1, 0 or NaN; row i belongs to position i of `features`. Every task has both classes.
        state: kept while training; one that has steps is gone on from, to the same bits. One that has them all is the trained
            probe, and no feature is read.
        progress: called with the number of images seen, up to epochs * n.
    """
    device = device or torch.device("cpu")
    num_images = len(targets)
    labels = torch.from_numpy(targets.astype(np.float32)).to(device)
    probe = StackedProbe(shape, seeds, labels.nanmean(0).cpu()).to(device)
    done = state.steps if state else 0
    if not done:
        probe.standardise_by(*channel_statistics(features, num_images, shape.elements_per_image))
    decayed = [parameter for name, parameter in probe.named_parameters() if name != "bias"]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": [probe.bias], "weight_decay": 0.0}]
    )
    if state and done:
        state.restore(probe, optimizer)
    batches = EqualBatches(num_images, batch_size=batch_size, num_epochs=epochs, min_steps=min_steps)
    rates = cosine_schedule(learning_rate, 0.0, len(batches), warmup_steps=int(warmup_fraction * len(batches)))
    seen = 0
    for step, (rate, batch) in enumerate(zip(rates, batches, strict=True), start=1):
        seen += len(batch)
        if step <= done:
            continue
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.zero_grad()
        num_known = (~labels[batch].isnan()).sum().clamp(min=1)
        directions = probe.directions()
        met = directions.detach().requires_grad_()  # folding and its gradient are paid once per step, not per chunk
        for chunk in in_chunks(batch, shape.elements_per_image):
            (masked_bce(probe.logits(features.read(chunk), met), labels[chunk]) / num_known).backward()
        directions.backward(met.grad)
        optimizer.step()
        if state and (step == len(batches) or state.is_due()):
            state.save(step, probe, optimizer)
        if progress:
            progress(seen)
    return probe


@torch.inference_mode()
def predict(probe: StackedProbe, features: FeatureSource, positions: np.ndarray) -> np.ndarray:
    """Probabilities (S, len(positions), T) float32 in [0, 1]."""
    parts = [probe(features.read(chunk)).sigmoid().cpu() for chunk in in_chunks(positions, probe.shape.elements_per_image)]
    return torch.cat(parts, dim=1).numpy()
