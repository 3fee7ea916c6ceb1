"""DINOv2: a student learns what its slowly moving teacher says of other views and of hidden patches (Oquab et al., 2024)."""

import copy
import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.losses import dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp, softmax_center, update_center
from radscale.models import DinoHead, Encoder, ViTConfig, ViTEncoder
from radscale.pretraining.augmentations import apply_crops, block_masks, plan_crops
from radscale.pretraining.config import Dinov2Options, PretrainingConfig
from radscale.pretraining.images import SubsetImages
from radscale.training import Ranks, ShuffledEpochs, cosine_schedule, linear_warmup_then_constant


class Dinov2Objective:
    """See `radscale.training.trainer.Objective`. Crops are ordered view by view: all first crops, then all second ones."""

    def __init__(
        self,
        encoder: Encoder,
        head: DinoHead | None,
        images: SubsetImages,
        config: PretrainingConfig,
        total_steps: int,
        *,
        from_scratch: bool,
        ranks: Ranks = Ranks(),
    ) -> None:
        options = config.dinov2
        if not isinstance(encoder, ViTEncoder):
            raise InputError(f"objective dinov2 trains a ViT; these weights are of family '{encoder.family}'")
        if len(images) < config.batch_size:
            raise InputError(
                f"objective dinov2: {len(images)} images are fewer than batch_size {config.batch_size}; "
                "take a smaller batch or a larger subset"
            )
        if head is None:
            if not from_scratch and options.head_warmup_fraction == 0:
                raise InputError(
                    "the weights come without their DINO head, and a random head destroys a trained backbone; "
                    "set dinov2.head_warmup_fraction (e.g. 0.3) to train the head first with the backbone frozen"
                )
            head = DinoHead(encoder.embedding_dim, options.num_prototypes, options.head_hidden, options.head_bottleneck)
            head.reset_parameters(torch.Generator().manual_seed(config.seed))
        self.config, self.options, self.images = config, options, images
        self.encoder = encoder.train()
        self.encoder.backbone.config = replace_drop_path(encoder, options.drop_path)
        self.head = head.train()
        self.teacher = copy.deepcopy(encoder.backbone).eval().requires_grad_(False)
        self.teacher_head = copy.deepcopy(head).eval().requires_grad_(False)
        self.sampler = ShuffledEpochs(len(images), config.batch_size, config.seed)
        self.center = torch.zeros(1, head.sizes["num_prototypes"])
        self.patch_center = torch.zeros(1, head.sizes["num_prototypes"])
        self.momentum = cosine_schedule(*options.momentum, total_steps)
        warmup = round(total_steps * options.teacher_warmup_fraction)
        self.temperature = linear_warmup_then_constant(*options.teacher_temperature, total_steps, warmup)
        self.side = options.global_size_px // encoder.backbone.config.patch_size_px
        self.device = torch.device("cpu")

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.encoder.backbone, "head": self.head}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """DINOv2's rules: layer-wise decay, a slower patch embedding, no weight decay of norms, biases and LayerScale."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        depth = self.encoder.backbone.config.depth
        for name, parameter in self.encoder.backbone.named_parameters():
            multiplier = layer_multiplier(name, depth, self.options.layer_decay)
            if name.startswith("patch_embed."):
                multiplier *= self.options.patch_embed_multiplier
            groups.setdefault((multiplier, decays(name)), []).append(parameter)
        for name, parameter in self.head.named_parameters():
            groups.setdefault((1.0, decays(name)), []).append(parameter)
        return [{"params": params, "lr_multiplier": m, "decays": d} for (m, d), params in groups.items()]

    def to(self, device: torch.device) -> None:
        self.device = device
        for module in (self.encoder, self.head, self.teacher, self.teacher_head):
            module.to(device)
        self.center, self.patch_center = self.center.to(device), self.patch_center.to(device)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        first, second, local = self._views(step, generator)
        views = torch.cat([first, second])
        masks = block_masks(
            len(views), self.side, generator, probability=self.options.mask_probability, ratio=self.options.mask_ratio
        ).to(self.device)
        hidden = masks.flatten().nonzero().squeeze(1)
        cls_targets, patch_targets, entropy = self._teach(views, hidden, step)

        student = self.encoder.backbone.forward_tokens(views, masks, generator)
        small = self.encoder.backbone.forward_tokens(local, None, generator)["cls"] if len(local) else student["cls"][:0]
        hidden_patches = student["patches"].flatten(0, 1)[hidden]
        logits = self.head(torch.cat([student["cls"], small, hidden_patches]))
        global_logits, local_logits, patch_logits = logits.split([len(views), len(small), len(hidden)])

        total, measurements = distillation_loss(
            student["cls"], global_logits, local_logits, patch_logits, cls_targets, patch_targets, masks, self.options
        )
        features = nn.functional.normalize(student["cls"].detach().float(), dim=-1)
        return total, {**measurements, "teacher_entropy": entropy, "feature_std": features.std(dim=0).mean()}

    def _views(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Two global views (B, 3, G, G) and the local ones (L * B, 3, l, l)."""
        options = self.options
        canvas, heights, widths = self.images.batch(self.sampler.batch(step))
        canvas = canvas.to(self.device)

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
            grey = apply_crops(canvas.repeat(repeats, 1, 1), plan, size_px)
            return self.encoder.preprocessing.normalise(grey)

        blur = options.blur_probability
        first = view(options.global_scale, options.global_size_px, blur[0])
        second = view(options.global_scale, options.global_size_px, blur[1])
        local = view(options.local_scale, options.local_size_px, blur[2], options.num_local_crops)
        return first, second, local

    @torch.no_grad()
    def _teach(self, views: Tensor, hidden: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of the CLS tokens (2B, K), of the hidden patches (M, K), and the mean entropy of the former."""
        temperature = float(self.temperature[step])
        tokens = self.teacher.forward_tokens(views)
        cls_logits = self.teacher_head(tokens["cls"]).float()
        patch_logits = self.teacher_head(tokens["patches"].flatten(0, 1)[hidden]).float()
        if self.options.centering == "sinkhorn":
            cls_targets = sinkhorn_knopp(cls_logits, temperature)
            patch_targets = sinkhorn_knopp(patch_logits, temperature)
        else:
            cls_targets = softmax_center(cls_logits, self.center, temperature)
            patch_targets = softmax_center(patch_logits, self.patch_center, temperature)
            self.center = update_center(self.center, cls_logits)
            self.patch_center = update_center(self.patch_center, patch_logits)
        entropy = -(cls_targets * cls_targets.clamp(min=1e-12).log()).sum(dim=-1).mean()
        return cls_targets, patch_targets, entropy

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        momentum = float(self.momentum[step])
        for slow, fast in ((self.teacher, self.encoder.backbone), (self.teacher_head, self.head)):
            torch._foreach_lerp_(list(slow.parameters()), [p.detach() for p in fast.parameters()], 1 - momentum)

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "teacher": self.teacher.state_dict(),
            "teacher_head": self.teacher_head.state_dict(),
            "center": self.center,
            "patch_center": self.patch_center,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.teacher.load_state_dict(state["teacher"])
        self.teacher_head.load_state_dict(state["teacher_head"])
        self.center, self.patch_center = state["center"].to(self.device), state["patch_center"].to(self.device)

    def export(self) -> tuple[Encoder, DinoHead]:
        """The teacher, which is what is used after training (paper, section 3.2), with its head."""
        encoder = copy.deepcopy(self.encoder)
        encoder.backbone.load_state_dict(self.teacher.state_dict())
        return encoder.cpu().eval(), copy.deepcopy(self.teacher_head).cpu()


def distillation_loss(
    student_cls: Tensor,
    global_logits: Tensor,
    local_logits: Tensor,
    patch_logits: Tensor,
    cls_targets: Tensor,
    patch_targets: Tensor,
    masks: Tensor,
    options: Dinov2Options,
) -> tuple[Tensor, dict[str, Tensor]]:
    """DINOv2's sum of losses and its weighted parts, for B images with two global and L local views, ordered view by view.

    Args:
        student_cls: (2B, D), of the global views, before the head.
        global_logits: (2B, K), the student's.
        local_logits: (L * B, K), the student's.
        patch_logits: (M, K), the student's at the M masked patches, crop by crop.
        cls_targets: (2B, K), the teacher's probabilities of the global views.
        patch_targets: (M, K), the teacher's at the masked patches.
        masks: (2B, N) bool, M of them true.
        options: number of local crops, weights and temperature.
    """
    temperature, num_local = options.student_temperature, options.num_local_crops
    # Pairs of different views only: a global view against the other one, each local view against both.
    num_pairs = 2 + 2 * num_local
    swapped = torch.cat(cls_targets.chunk(2)[::-1])
    dino_global = 2 * dino_loss(global_logits, swapped, temperature) / num_pairs
    dino_local = torch.zeros_like(dino_global)
    for crop in local_logits.chunk(num_local) if num_local else ():
        for view in cls_targets.chunk(2):
            dino_local = dino_local + dino_loss(crop, view, temperature) / num_pairs
    mask_weights = (1 / masks.sum(dim=1).clamp(min=1))[:, None].expand_as(masks)[masks]
    ibot = options.ibot_weight * ibot_loss(patch_logits, patch_targets, mask_weights, len(masks), temperature)
    first, second = student_cls.chunk(2)  # never across views: the two views of an image should be alike
    koleo = options.koleo_weight * (koleo_loss(first) + koleo_loss(second))
    parts = {"dino_global": dino_global, "dino_local": dino_local, "ibot": ibot, "koleo": koleo}
    return dino_global + dino_local + ibot + koleo, {name: value.detach() for name, value in parts.items()}


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
