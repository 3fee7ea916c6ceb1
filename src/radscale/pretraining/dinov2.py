"""DINOv2: a student learns what its slowly moving teacher says of other views and of hidden patches (Oquab et al., 2024)."""

import copy
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.losses import (
    Projection,
    chunked_ibot_loss,
    dino_loss,
    koleo_loss,
    sinkhorn_offsets,
    teacher_targets,
    update_center,
)
from radscale.models import DinoHead, Encoder, ViTConfig, ViTEncoder
from radscale.models.stochastic_depth import BatchPart
from radscale.pretraining import dinov2_health as health
from radscale.pretraining.augmentations import apply_crops, block_masks, plan_crops
from radscale.pretraining.config import Dinov2Options, PretrainingConfig
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.knn import KnnMonitor
from radscale.training import ONE_RANK, Ranks, ShuffledEpochs, cosine_schedule, linear_warmup_then_constant

IMAGE_STREAM, GLOBAL_DEPTH_STREAM, LOCAL_DEPTH_STREAM = 0, 1, 2
MEASURED_PATCHES = 64
"""Patches whose teacher entropy is measured: the first masked ones of a step."""


def check_crop_sizes(options: Dinov2Options, encoder: ViTEncoder) -> None:
    """Raises InputError for crops that are not whole patches."""
    patch = encoder.backbone.config.patch_size_px
    for name in ("global_size_px", "local_size_px"):
        if getattr(options, name) % patch:
            raise InputError(
                f"dinov2.{name} is {getattr(options, name)}; it must be a multiple of the encoder's patch size {patch}"
            )


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of a step's global views."""

    cls_targets: Tensor
    """(2b, K) probabilities."""
    patches: Projection
    """Of the masked patches; their targets are computed where they are needed, a chunk at a time."""
    patch_offsets: Tensor
    """(1, K), see `radscale.losses.teacher_targets`."""
    temperature: float


class Dinov2Objective:
    """See `radscale.training.trainer.Objective`. Crops are ordered view by view: all first crops, then all second ones.

    B = images of a step over all ranks, b = those of this rank, L = local crops, K = prototypes, M = the rank's masked patches.

    Across ranks: crops, masks and stochastic depth are drawn for all B images and cut to the rank's, centre and Sinkhorn see
    all ranks, and the loss is the mean over the rank's own rows. As in DINOv2, KoLeo's neighbours are those on the rank: this
    alone differs from one rank with the whole batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: DinoHead | None,
        images: SubsetImages,
        config: PretrainingConfig,
        total_steps: int,
        *,
        from_scratch: bool,
        ranks: Ranks = ONE_RANK,
        knn: KnnMonitor | None = None,
    ) -> None:
        options = config.dinov2
        if not isinstance(encoder, ViTEncoder):
            raise InputError(f"objective dinov2 trains a ViT; these weights are of family '{encoder.family}'")
        if len(images) < config.batch_size:
            raise InputError(
                f"objective dinov2: {len(images)} images are fewer than batch_size {config.batch_size}; "
                "take a smaller batch or a larger subset"
            )
        if config.batch_size % ranks.world_size:
            raise InputError(
                f"batch_size {config.batch_size} over {ranks.world_size} ranks: each takes as many images; choose a multiple"
            )
        check_crop_sizes(options, encoder)
        self_made_head = head is None
        if head is None:
            if not from_scratch and options.head_warmup_fraction == 0:
                raise InputError(
                    "the weights come without their DINO head, and a random head destroys a trained backbone; "
                    "set dinov2.head_warmup_fraction (e.g. 0.3) to train the head first with the backbone frozen"
                )
            head = DinoHead(encoder.embedding_dim, options.num_prototypes, options.head_hidden, options.head_bottleneck)
            head.reset_parameters(torch.Generator().manual_seed(config.seed))
        self.config, self.options, self.images, self.ranks = config, options, images, ranks
        self.knn = knn
        # A tenth of the run, or the head's own warm-up, before a new head is judged by its entropy.
        self.settled_after = round(max(0.1, options.head_warmup_fraction) * total_steps) if self_made_head else 0
        self.steps_done = 0
        self.encoder = encoder.train()
        self.encoder.backbone.config = replace_drop_path(encoder, options.drop_path)
        self.head = head.train()
        self.teacher = copy.deepcopy(encoder.backbone).eval().requires_grad_(False)
        self.teacher_head = copy.deepcopy(head).eval().requires_grad_(False)
        self.sampler = ShuffledEpochs(len(images), config.batch_size, config.seed)
        images.follow(self.images_of_step, 0, 0)
        num_prototypes = head.sizes["num_prototypes"]
        self.center, self.patch_center = torch.zeros(1, num_prototypes), torch.zeros(1, num_prototypes)
        self.prototype_use = health.PrototypeUse(num_prototypes)
        self.momentum = cosine_schedule(*options.momentum, total_steps)
        warmup = round(total_steps * options.teacher_warmup_fraction)
        self.temperature = linear_warmup_then_constant(*options.teacher_temperature, total_steps, warmup)
        self.side = options.global_size_px // encoder.backbone.config.patch_size_px
        self.device = torch.device("cpu")

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.encoder.backbone, "head": self.head}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """DINOv2's rules: layer-wise decay, a slower patch embedding, no weight decay of norms, biases and LayerScale."""
        groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
        depth = self.encoder.backbone.config.depth
        for name, parameter in self.encoder.backbone.named_parameters():
            multiplier = layer_multiplier(name, depth, self.options.layer_decay)
            if name.startswith("patch_embed."):
                multiplier *= self.options.patch_embed_multiplier
            groups.setdefault(("backbone", multiplier, decays(name)), []).append(parameter)
        for name, parameter in self.head.named_parameters():
            groups.setdefault(("head", 1.0, decays(name)), []).append(parameter)
        return [{"params": params, "lr_multiplier": m, "decays": d} for (_, m, d), params in groups.items()]

    def to(self, device: torch.device) -> None:
        self.device = device
        for module in (self.encoder, self.head, self.teacher, self.teacher_head):
            module.to(device)
        self.center, self.patch_center = self.center.to(device), self.patch_center.to(device)
        self.prototype_use.last_used = self.prototype_use.last_used.to(device)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        views, local, masks = self._crops(step)
        hidden = masks.flatten().nonzero().squeeze(1).to(self.device)
        lesson = self._teach(views, hidden, step)

        forward = self.encoder.backbone.forward_tokens
        student = forward(views, masks.to(self.device), self._depth(GLOBAL_DEPTH_STREAM, step, 2))
        depth = self._depth(LOCAL_DEPTH_STREAM, step, self.options.num_local_crops)
        small = forward(local, None, depth)["cls"] if len(local) else student["cls"][:0]
        hidden_patches = student["patches"].flatten(0, 1)[hidden]
        rows = self.head.bottleneck(torch.cat([student["cls"], small, hidden_patches]))
        prototypes = self.head.last_layer.prototypes()
        cls_rows, patch_rows = rows.split([len(views) + len(small), len(hidden)])
        cls_logits = Projection(cls_rows, prototypes).logits(self.options.student_temperature)
        large_logits, small_logits = cls_logits.split([len(views), len(small)])

        ibot = chunked_ibot_loss(
            Projection(patch_rows, prototypes),
            lesson.patches,
            lesson.patch_offsets,
            lesson.temperature,
            mask_weights(masks).to(self.device),
            len(masks),
            self.options.student_temperature,
            chunk_tokens=self.options.prototype_chunk_tokens,
        )
        total, parts = distillation_loss(student["cls"], large_logits, small_logits, lesson.cls_targets, ibot, self.options)
        return total, {**parts, **self._measure(student["cls"].detach(), lesson, step)}

    def _measure(self, student_cls: Tensor, lesson: Lesson, step: int) -> dict[str, Tensor]:
        """Signs of health, of this rank's rows except for the use of prototypes; see `dinov2_health`."""
        first = lesson.patches.chunks(MEASURED_PATCHES)[0]
        patch_targets = teacher_targets(first.logits(lesson.temperature), lesson.patch_offsets, temperature=1.0)
        choices = self.ranks.gather(lesson.cls_targets.argmax(dim=-1))
        return {
            "teacher_entropy": health.entropy(lesson.cls_targets),
            "patch_teacher_entropy": health.entropy(patch_targets),
            "prototype_use": self.prototype_use.update(choices, step),
            "teacher_turnover": torch.tensor(1 - float(np.prod(self.momentum[:step]))),
            **health.spread(student_cls.chunk(2)[0]),
        }

    def alarms(self, measurements: dict[str, float]) -> list[str]:
        """Signs that the run fails, each with what to try."""
        return health.alarms(measurements, self.center.shape[1], head_is_new=self.steps_done < self.settled_after)

    def evaluate(self, step: int) -> dict[str, float]:
        """Before the first step what a random head would give and how far the teacher will move; each `knn.every_steps` steps
        the k-NN AUPRC of the teacher's CLS tokens at the size of the global crops.

        Args:
            step: number of steps done.
        """
        found: dict[str, float] = {}
        if step == 0:
            found = health.expected_at_random(self.options, self.center.shape[1])
            found["planned_teacher_turnover"] = 1 - float(np.prod(self.momentum))
        if self.knn is not None and step % self.config.knn.every_steps == 0:
            preprocessing = replace(self.encoder.preprocessing, image_size_px=self.options.global_size_px)
            found |= self.knn.evaluate(lambda images: self.teacher.forward_tokens(preprocessing(images, self.device))["cls"])
        return found

    def images_of_step(self, step: int) -> np.ndarray:
        """(b,) positions of this rank's images in the subset."""
        return self.ranks.share(self.sampler.batch(step))

    def _generator(self, *stream: int) -> torch.Generator:
        """Randomness of a step comes from seed and step only, so that a resumed run draws the same."""
        seed = np.random.SeedSequence([self.config.seed, *stream]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    def _own_places(self, num_views: int) -> Tensor:
        """Places of this rank's images among those of so many views of all B images, view by view."""
        mine = torch.tensor(self.ranks.share(range(self.config.batch_size)))
        return (torch.arange(num_views)[:, None] * self.config.batch_size + mine).flatten()

    def _depth(self, stream: int, step: int, num_views: int) -> BatchPart:
        return BatchPart.of(self._generator(stream, step), self._own_places(num_views), num_views * self.config.batch_size)

    def _crops(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's global views (2b, 3, G, G), local ones (L * b, 3, l, l), and masks (2b, N) of the former, on the CPU.

        All is drawn for the whole batch and cut, so that a number of ranks sees together what one rank would see.
        """
        options = self.options
        generator = self._generator(IMAGE_STREAM, step)
        rows = self.sampler.batch(step)
        heights, widths = self.images.sizes(rows)
        canvas, _, _ = self.images.batch_of(step, self.device)

        def view(scale: tuple[float, float], size_px: int, blur: float, repeats: int = 1) -> Tensor:
            plan = plan_crops(
                heights.repeat(repeats),
                widths.repeat(repeats),
                generator,
                scale=scale,
                ratio=options.crop_ratio,
                flip_probability=options.flip_probability,
                blur_probability=blur,
                jitter_probability=options.jitter_probability,
                brightness=options.brightness,
                contrast=options.contrast,
            )
            grey = apply_crops(canvas.repeat(repeats, 1, 1), plan.rows(self._own_places(repeats)), size_px)
            return self.encoder.preprocessing.normalise(grey)

        blur = options.blur_probability
        first = view(options.global_scale, options.global_size_px, blur[0])
        second = view(options.global_scale, options.global_size_px, blur[1])
        local = view(options.local_scale, options.local_size_px, blur[2], options.num_local_crops)
        masks = block_masks(2 * len(rows), self.side, generator, probability=options.mask_probability, ratio=options.mask_ratio)
        return torch.cat([first, second]), local, masks[self._own_places(2)]

    @torch.no_grad()
    def _teach(self, views: Tensor, hidden: Tensor, step: int) -> Lesson:
        """What the teacher says of the views and their M hidden patches; moves the centres."""
        temperature = float(self.temperature[step])
        tokens = self.teacher.forward_tokens(views)
        prototypes = self.teacher_head.last_layer.prototypes()
        cls = Projection(self.teacher_head.bottleneck(tokens["cls"]), prototypes)
        patches = Projection(self.teacher_head.bottleneck(tokens["patches"].flatten(0, 1)[hidden]), prototypes)
        if self.options.centering == "sinkhorn":
            cls_offsets, patch_offsets = self._sinkhorn(cls, temperature), self._sinkhorn(patches, temperature)
        else:
            cls_offsets, patch_offsets = -self.center / temperature, -self.patch_center / temperature
            self.center = update_center(self.center, mean_logits(cls), gather=self.ranks.gather)
            self.patch_center = update_center(self.patch_center, mean_logits(patches), gather=self.ranks.gather)
        cls_targets = teacher_targets(cls.logits(temperature), cls_offsets, temperature=1.0)
        return Lesson(cls_targets, patches, patch_offsets, temperature)

    def _sinkhorn(self, rows: Projection, temperature: float) -> Tensor:
        chunks = rows.chunks(self.options.prototype_chunk_tokens)
        kept = [chunks[0].logits(temperature)] if len(chunks) == 1 else None  # logits of a single chunk are not computed twice
        return sinkhorn_offsets(lambda: kept or (part.logits(temperature) for part in chunks), 1.0, gather=self.ranks.gather)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        momentum = float(self.momentum[step])
        for slow, fast in ((self.teacher, self.encoder.backbone), (self.teacher_head, self.head)):
            torch._foreach_lerp_(list(slow.parameters()), [p.detach() for p in fast.parameters()], 1 - momentum)
        self.steps_done = step + 1

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "teacher": self.teacher.state_dict(),
            "teacher_head": self.teacher_head.state_dict(),
            "center": self.center,
            "patch_center": self.patch_center,
            "prototypes_last_used": self.prototype_use.last_used,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.teacher.load_state_dict(state["teacher"])
        self.teacher_head.load_state_dict(state["teacher_head"])
        self.center, self.patch_center = state["center"].to(self.device), state["patch_center"].to(self.device)
        self.prototype_use.last_used = state["prototypes_last_used"].to(self.device)

    def export(self) -> tuple[Encoder, DinoHead]:
        """The teacher, which is what is used after training (paper, section 3.2), with its head."""
        encoder = copy.deepcopy(self.encoder)
        encoder.backbone.load_state_dict(self.teacher.state_dict())
        return encoder.cpu().eval(), copy.deepcopy(self.teacher_head).cpu()


def distillation_loss(
    student_cls: Tensor,
    global_logits: Tensor,
    local_logits: Tensor,
    cls_targets: Tensor,
    ibot: Tensor,
    options: Dinov2Options,
) -> tuple[Tensor, dict[str, Tensor]]:
    """DINOv2's sum of losses and its weighted parts, for b images with two global and L local views, ordered view by view.

    Args:
        student_cls: (2b, D), of the global views, before the head.
        global_logits: (2b, K), the student's, over its temperature.
        local_logits: (L * b, K), likewise.
        cls_targets: (2b, K), the teacher's probabilities of the global views.
        ibot: loss of the masked patches, not yet weighted.
        options: number of local crops and weights.
    """
    num_local = options.num_local_crops
    # Pairs of different views only: a global view against the other one, each local view against both.
    num_pairs = 2 + 2 * num_local
    first_targets, second_targets = cls_targets.chunk(2)
    swapped = torch.cat([second_targets, first_targets])
    dino_global = 2 * dino_loss(global_logits, swapped, student_temperature=1.0) / num_pairs
    dino_local = torch.zeros_like(dino_global)
    if num_local:
        # The cross-entropy is linear in the targets: both views of an image at once.
        by_crop = local_logits.unflatten(0, (num_local, -1))
        dino_local = num_local * dino_loss(by_crop, first_targets + second_targets, student_temperature=1.0) / num_pairs
    patches = options.ibot_weight * ibot
    first, second = student_cls.chunk(2)  # never across views: the two views of an image should be alike
    koleo = options.koleo_weight * (koleo_loss(first) + koleo_loss(second))
    parts = {"dino_global": dino_global, "dino_local": dino_local, "ibot": patches, "koleo": koleo}
    return dino_global + dino_local + patches + koleo, {name: value.detach() for name, value in parts.items()}


def mask_weights(masks: Tensor) -> Tensor:
    """(M,) for masks (n, N) with M true: one over the number of masked patches in the patch's crop."""
    return (1 / masks.sum(dim=1).clamp(min=1))[:, None].expand_as(masks)[masks]


def mean_logits(rows: Projection) -> Tensor:
    """(1, K) float32, or (0, K) without rows. Logits are linear in the features: those of the mean feature are their mean."""
    features = rows.features[:0].float() if len(rows.features) == 0 else rows.features.float().mean(dim=0, keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        return Projection(features, rows.prototypes.float()).logits()


def replace_drop_path(encoder: ViTEncoder, rate: float) -> ViTConfig:
    """Set the stochastic depth of training in every block; returns the configuration that says so."""
    for block in encoder.backbone.blocks:
        block.drop_path = rate  # type: ignore[assignment]
    return replace(encoder.backbone.config, drop_path=rate)


def layer_multiplier(name: str, depth: int, decay: float) -> float:
    """Learning-rate factor: decay^(depth + 1) for the embeddings, rising to decay^1 for the last block, 1 for the norm."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if match:
        return decay ** (depth - int(match.group(1)))
    return 1.0 if name.startswith("norm.") else decay ** (depth + 1)


def decays(name: str) -> bool:
    """DINOv2 exempts biases, norms and LayerScale from weight decay, but not tokens, positions and `weight_g`."""
    return not (name.endswith(".bias") or "norm" in name or "gamma" in name)
