"""Training steps of CLIP and DINOv2, the peers with networks of the same sizes, and the same texts or crops."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.benchmarks.peers import repair_torchvision
from radscale.benchmarks.pretrain_dinov2 import dinov2_cases
from radscale.models import ClipTokenizer, Preprocessing, ViTConfig, build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig
from radscale.pretraining.config import ContrastiveOptions, TextTower
from radscale.pretraining.contrastive import ContrastiveObjective
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.texts import TokenTable, TrainingRows, view_prefix

Step = Callable[[int], float]
LEARNING_RATE, WEIGHT_DECAY = 1e-5, 0.2
SENTENCES = (
    "The heart size is within normal limits.",
    "No focal consolidation, pleural effusion or pneumothorax.",
    "Endotracheal tube tip projects 4 cm above the carina.",
    "Enteric tube courses below the diaphragm, its tip is not seen.",
    "Small bilateral pleural effusions with adjacent atelectasis, unchanged.",
    "Right internal jugular catheter ends in the lower superior vena cava.",
    "Mild pulmonary edema has improved since the prior examination.",
    "Degenerative changes of the thoracic spine.",
)


def cases(options: Options) -> list[Case]:
    """ViT-S/16 with a text tower of its width on a processor, ViT-B/16 on a GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width, depth, batch, size_px = (768, 12, 256, 224) if device.type == "cuda" else (384, 12, 8, 224)
    if options.quick:
        width, depth, batch, size_px = 64, 4, 8, 64
    tower = TextTower(width=width, depth=depth, num_heads=width // 64, embedding_dim=width)
    image = ViTConfig(image_size_px=size_px, patch_size_px=16, width=width, depth=depth, num_heads=width // 64)
    texts = _texts(4 * batch, options.seed)
    rounds = options.repeat or (2 if options.quick else 5)
    precision = "bfloat16" if device.type == "cuda" else f"float32, {torch.get_num_threads()} threads"

    def ours(micro_batch_size: int | None) -> Callable[[], Step]:
        return lambda: _ours(image, tower, texts, batch, device, options.seed, micro_batch_size)

    return [
        Case(
            title=f"CLIP step, ViT of width {width} and text tower alike, {batch} x {size_px} px, {device.type}, {precision}",
            unit="image",
            workload=lambda number: number,
            contestants=[
                Contestant("radscale", "radscale", ours(None), units=batch),
                Contestant("radscale, in 4 micro-batches", "radscale", ours(batch // 4), units=batch),
                Contestant("open_clip", "open_clip_torch", lambda: _open_clip(image, tower, texts, batch, device), units=batch),
            ],
            rounds=rounds,
            note="Forward, loss, backward, AdamW. Ours crops and changes the images' brightness in the step, averages the "
            "weights and measures accuracies; the peer gets ready pixels. Ours pads texts to the longest of the batch, keeps "
            "only the tokens that occur, and updates with the fused AdamW",
        ),
        *dinov2_cases(options),
    ]


def _texts(count: int, seed: int) -> list[str]:
    """Reports of 1 to 8 sentences: about as long as findings sections are (median of 50 tokens)."""
    rng = np.random.default_rng(seed)
    prefix = view_prefix("AP", "frontal")
    return [" ".join([prefix, *rng.permutation(SENTENCES)[: rng.integers(1, 9)]]) for _ in range(count)]


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class _Images:
    """Grey images in memory, of the sizes that a step crops from."""

    def __init__(self, count: int, size_px: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.canvas = torch.rand(count, size_px, size_px, generator=generator)

    def sizes(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        side = torch.full((len(indices),), self.canvas.shape[-1])
        return side, side

    def follow(self, rows_of_step: Callable[[int], np.ndarray], first_step: int, last_step: int) -> None:
        self.rows_of_step = rows_of_step

    def batch_of(self, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.rows_of_step(step)
        return (self.canvas[rows].to(device), *self.sizes(rows))


def _ours(
    image: ViTConfig,
    tower: TextTower,
    texts: list[str],
    batch: int,
    device: torch.device,
    seed: int,
    micro_batch_size: int | None,
) -> Step:
    """What `training.train` does in a step, without its log and its checks."""
    config = PretrainingConfig(
        objective="clip",
        budget=ComputeBudget.samples_seen(batch),
        batch_size=batch,
        text_tower=tower,
        contrastive=ContrastiveOptions(micro_batch_size=micro_batch_size),
    )
    rows = TrainingRows(
        image=np.arange(len(texts)),
        prefix=np.zeros(len(texts), dtype=np.int64),
        text=1 + np.arange(len(texts)),
        is_label=np.zeros(len(texts), dtype=bool),
        table=TokenTable.of(["", *texts], tower.context_length - 2),
        context_length=tower.context_length,
        identical_texts_are_positives=False,
        num_images=len(texts),
    )
    described = {
        "family": "vit",
        "architecture": vars(image),
        "preprocessing": vars(Preprocessing(image_size_px=image.image_size_px)),
    }
    images = cast(SubsetImages, _Images(len(texts), round(1.2 * image.image_size_px), seed))
    objective = ContrastiveObjective(build_encoder(described, seed), images, rows, config, from_scratch=True)
    objective.to(device)
    optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def step(number: int) -> float:
        with _autocast(device):
            loss, _ = objective.loss(number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(number)
        return float(loss.detach())

    return step


def _open_clip(image: ViTConfig, tower: TextTower, texts: list[str], batch: int, device: torch.device) -> Step:
    """The step of its training script, with networks of the same sizes.

    Raises:
        ImportError: it is not installed.
    """
    repair_torchvision()
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    vision = {"image_size": image.image_size_px, "patch_size": image.patch_size_px, "head_width": 64, "no_ln_pre": True}
    text = {"context_length": tower.context_length, "heads": tower.num_heads, "no_causal_mask": True}
    sizes: dict[str, Any] = {"width": tower.width, "layers": tower.depth}
    model = CLIP(tower.embedding_dim, {**vision, **sizes, "ls_init_value": 1e-5}, {**text, **sizes}).to(device).train()
    loss_of = ClipLoss()
    named = list(model.named_parameters())
    # Its rule: no decay of vectors, norms, biases and the logit scale.
    plain = [p for name, p in named if p.ndim < 2 or "ln" in name or "bias" in name or "logit_scale" in name]
    decayed = [p for _, p in named if not any(p is other for other in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": WEIGHT_DECAY}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    tokens = torch.zeros(len(texts), tower.context_length, dtype=torch.int64)
    for row, text_of_row in zip(tokens, texts, strict=True):
        ids = ClipTokenizer(tower.context_length)([text_of_row])[0][0]
        row[: len(ids)] = ids
    pixels = torch.randn(len(texts), 3, image.image_size_px, image.image_size_px)

    def step(number: int) -> float:
        rows = torch.arange(number * batch, (number + 1) * batch) % len(texts)
        with _autocast(device):
            image_features, text_features, scale = model(pixels[rows].to(device), tokens[rows].to(device))
            loss = loss_of(image_features, text_features, scale)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
        return float(loss.detach())

    return step
