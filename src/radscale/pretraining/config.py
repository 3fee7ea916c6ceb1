"""Settings of a pretraining run, every default with its origin."""

from dataclasses import dataclass, field
from typing import Any, Literal

from radscale.errors import InputError
from radscale.pretraining.compute_budget import ComputeBudget


def check_rules(settings: object, rules: dict[str, tuple[bool, str]], prefix: str = "") -> None:
    """Refuse the first setting whose rule does not hold.

    Args:
        settings: has the attributes that `rules` names.
        rules: name -> whether it holds, and in words.
        prefix: of the names, where the settings are part of others.
    """
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(f"{prefix}{name} is {getattr(settings, name)}; it must be {rule}")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What a report becomes before it is tokenized."""

    sections: tuple[str, ...] = ("impression", "findings")
    """In this order; the head of a long text is kept, so what matters comes first."""
    view_prefix: bool = True
    """All texts begin with the view position (paper, section 5), in MedImageInsight's style: "x-ray chest anteroposterior"."""
    identical_texts_are_positives: bool = False
    """Off in MedImageInsight's trainer: equal reports of two images are then negatives of each other."""


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """A fresh text tower for an encoder that came without one."""

    width: int = 64
    depth: int = 2
    num_heads: int = 4
    context_length: int = 77
    embedding_dim: int = 64
    learning_rate_multiplier: float = 10.0
    """Of the tower, the projections and the temperature, all new, over the pretrained image encoder: at one rate for both,
    the new parts' first gradients destroy what the encoder knows before the parts have learned anything."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Of CLIP and UniCL: no flip, because texts say left and right."""

    recipe: Literal["light", "medimageinsight"] = "light"
    """After the crop: brightness and contrast, or TrivialAugmentWide and random erasing as MedImageInsight is trained
    (rotations to 135 degrees, inverted and posterised greys; the paper does not say whether its runs had them)."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Share of the image's area (MedImageInsight: .8 to 1)."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    brightness: float = 0.2
    """Of the light recipe."""
    contrast: float = 0.2
    """Of the light recipe."""
    erasing_probability: float = 0.25
    """Of the other recipe (MedImageInsight: .25)."""

    def __post_init__(self) -> None:
        rules = {
            "recipe": (self.recipe in ("light", "medimageinsight"), "light or medimageinsight"),
            "erasing_probability": (0 <= self.erasing_probability <= 1, "from 0 to 1"),
        }
        check_rules(self, rules, "augmentation.")


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptions:
    """Of CLIP and UniCL beside texts, tower and augmentation."""

    micro_batch_size: int | None = None
    """Rows of a device that are encoded at once; the loss is still that of the whole batch (GradCache, as in MedImageInsight's
    trainer): less memory for a third more compute. None encodes all at once."""
    frozen_patterns: tuple[str, ...] = ()
    """Regular expressions of parameters that stay as they are; each must match some. The paper states none. The official
    fine-tuning recipe of MedImageInsight freezes `^lang_encoder.positional_embedding`, `^lang_encoder.token_embedding` and
    `^lang_encoder.resblocks.[0-2]\\.` (88.5M parameters)."""

    def __post_init__(self) -> None:
        least = self.micro_batch_size is None or self.micro_batch_size > 0
        check_rules(self, {"micro_batch_size": (least, "above 0, or none")}, "contrastive.")


@dataclass(frozen=True, kw_only=True)
class Dinov2Options:
    """Of self-distillation. Defaults are DINOv2's short recipe at ViT-S/B sizes unless another origin is given."""

    global_size_px: int = 224
    local_size_px: int = 98
    num_local_crops: int = 8
    global_scale: tuple[float, float] = (0.5, 1.0)
    """RAD-DINO: larger crops than DINOv2's .32 to 1."""
    local_scale: tuple[float, float] = (0.2, 0.5)
    """RAD-DINO."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    blur_probability: tuple[float, float, float] = (0.5, 0.1, 0.5)
    """Effective probabilities of first global, second global and local crops (RAD-DINO: less blur)."""
    num_prototypes: int = 65536
    head_hidden: int = 2048
    head_bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """From, to; linear over the first `teacher_warmup_fraction`."""
    teacher_warmup_fraction: float = 0.5
    momentum: tuple[float, float] = (0.992, 1.0)
    centering: Literal["centering", "sinkhorn"] = "centering"
    koleo_weight: float = 0.1
    ibot_weight: float = 1.0
    mask_probability: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    layer_decay: float = 0.9
    patch_embed_multiplier: float = 0.2
    drop_path: float = 0.0
    head_warmup_fraction: float = 0.0
    """Share of the steps in which only the head learns, for weights that come without theirs. The backbone's rate then rises
    linearly over as many steps as `warmup_fraction` says."""
    prototype_freeze_fraction: float = 0.01
    """Share of the steps in which the prototypes (last layer) of a random head stay (DINOv2: the first of 100 epochs). A head
    that comes with the weights learns from the start."""
    prototype_chunk_tokens: int = 2048
    """Masked patches whose prototype logits are held at a time on one device. A batch with no more is computed at once; a
    larger one computes its logits twice (1 % of a ViT-B's step), and takes some 20 bytes x this number x `num_prototypes` of
    memory (2.7 GB), whatever its size, instead of that for all its masked patches (21 GB at 40 images of 518 px)."""

    def __post_init__(self) -> None:
        def rising(values: tuple[float, ...], low: float, high: float) -> bool:
            return len(values) == 2 and low <= values[0] <= values[1] <= high

        fractions = ("flip", "jitter", "mask")
        rules = {
            "global_size_px": (self.global_size_px > 0, "above 0"),
            "local_size_px": (self.local_size_px > 0, "above 0"),
            "num_local_crops": (self.num_local_crops >= 0, "0 or more"),
            "global_scale": (rising(self.global_scale, 0, 1) and self.global_scale[0] > 0, "two rising shares in (0, 1]"),
            "local_scale": (rising(self.local_scale, 0, 1) and self.local_scale[0] > 0, "two rising shares in (0, 1]"),
            "mask_ratio": (rising(self.mask_ratio, 0, 1), "two rising shares in [0, 1]"),
            "momentum": (rising(self.momentum, 0, 1), "two rising numbers in [0, 1]"),
            "prototype_chunk_tokens": (self.prototype_chunk_tokens > 0, "above 0"),
            "student_temperature": (self.student_temperature > 0, "above 0"),
            "teacher_temperature": (min(self.teacher_temperature) > 0, "above 0"),
            "centering": (self.centering in ("centering", "sinkhorn"), "centering or sinkhorn"),
            "drop_path": (0 <= self.drop_path < 1, "from 0 to below 1"),
            "layer_decay": (0 < self.layer_decay <= 1, "above 0, at most 1"),
            "blur_probability": (
                len(self.blur_probability) == 3 and all(0 <= p <= 1 for p in self.blur_probability),
                "three probabilities: first global, second global, local crops",
            ),
            **{f"{name}_probability": (0 <= getattr(self, f"{name}_probability") <= 1, "from 0 to 1") for name in fractions},
            **{
                f"{name}_fraction": (0 <= getattr(self, f"{name}_fraction") <= 1, "from 0 to 1")
                for name in ("teacher_warmup", "head_warmup", "prototype_freeze")
            },
        }
        check_rules(self, rules, "dinov2.")


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Of the loop around the steps. What is learned does not depend on them, so that a run may be resumed with others;
    `compile` alone changes last bits."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; the first and the last step always have one."""
    save_every_seconds: float = 60.0
    """Between training states: what a killed run has to do again. Raise it where weights are large and the disk is slow."""
    keep_states: int = 1
    """Newest training states kept. One is enough to resume; more of them cost as much disk each."""
    tensorboard: bool = False
    """Beside metrics.jsonl; needs the extra `tensorboard`."""
    compile: bool = False
    """`torch.compile` of the encoders' blocks: minutes at the start, faster steps on a GPU. Rarely pays on a CPU."""
    activation_checkpointing: bool = False
    """A third more compute for much less memory; the gradients are the same."""
    num_workers: int | None = None
    """Threads that read and decode images, for each device; None shares the cores of the machine among its devices. More than
    that pay on a slow network disk."""
    read_ahead_gb: float = 0.5
    """Decoded images that may wait for their step, for each device."""

    def __post_init__(self) -> None:
        rules = {
            "log_every": (self.log_every >= 1, "at least 1"),
            "save_every_seconds": (self.save_every_seconds > 0, "above 0"),
            "keep_states": (self.keep_states >= 1, "at least 1"),
            "num_workers": (self.num_workers is None or self.num_workers >= 1, "at least 1, or none"),
            "read_ahead_gb": (self.read_ahead_gb >= 0, "0 or more"),
        }
        check_rules(self, rules, "loop.")


@dataclass(frozen=True, kw_only=True)
class KnnOptions:
    """Of the nearest-neighbour vote on held-out images while training runs (`radscale.pretraining.knn`): of the teacher's CLS
    tokens in DINOv2, of the averaged encoder's image embeddings in CLIP and UniCL, in both cases of what is exported."""

    every_steps: int = 0
    """0 never votes. The vote costs one forward pass of `num_images` images, and is not part of the budget."""
    num_images: int = 1000
    """Votes and judged images together."""
    tasks: tuple[str, ...] = ()
    """Of the label table; none takes all that have `min_positives`."""
    min_positives: int = 10
    """And negatives, among the voting and among the judged images."""
    k: int = 20
    """DINO's evaluation reports 10 to 200 and recommends 20."""
    temperature: float = 0.07
    """DINO's evaluation."""

    def __post_init__(self) -> None:
        rules = {
            "every_steps": (self.every_steps >= 0, "0 or more"),
            "num_images": (self.num_images >= 2, "at least 2"),
            "min_positives": (self.min_positives >= 1, "at least 1"),
            "k": (self.k >= 1, "at least 1"),
            "temperature": (self.temperature > 0, "above 0"),
        }
        check_rules(self, rules, "knn.")


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """One run: objective, data, budget, optimisation."""

    objective: Literal["clip", "unicl", "dinov2"]
    budget: ComputeBudget
    subset_size: int | None = None
    """Images of the nested subset; None takes all training images."""
    replicate: int = 0
    seed: int = 0
    architecture: dict[str, Any] | None = None
    """`config_dict()` of an encoder to train from scratch; None continues given weights."""
    batch_size: int = 1280
    """Images per step over all devices (paper: 32 x 40)."""
    image_size_px: int | None = None
    """Of CLIP and UniCL; None takes the encoder's."""
    learning_rate: float = 1e-5
    """MedImageInsight's configuration at batch 1024; RAD-DINO: 1e-3 * sqrt(batch / 1024)."""
    final_learning_rate: float = 1e-9
    weight_decay: float = 0.2
    final_weight_decay: float | None = None
    """None keeps it constant; DINOv2 raises it from .04 to .4."""
    warmup_fraction: float = 0.05
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999
    """CLIP and UniCL export the moving average of their weights, as MedImageInsight does."""
    precision: Literal["fp32", "bf16"] = "fp32"
    label_tasks: dict[str, str] | Literal["all"] = field(default_factory=dict)
    """UniCL: tasks whose positives form an image's label text, with the words used for them; "all": every task of the label
    table, in the words of its key (`bacterial_pneumonia`: bacterial pneumonia)."""
    text: TextOptions = TextOptions()
    text_tower: TextTower = TextTower()
    augmentation: Augmentation = Augmentation()
    contrastive: ContrastiveOptions = ContrastiveOptions()
    dinov2: Dinov2Options = Dinov2Options()
    knn: KnnOptions = KnnOptions()
    loop: LoopOptions = LoopOptions()
    max_memory_gb: float = 4.0
    """Decoded images are kept in memory up to this much, and decoded again and again beyond it."""

    def __post_init__(self) -> None:
        rules = {
            "objective": (self.objective in ("clip", "unicl", "dinov2"), "clip, unicl or dinov2"),
            "precision": (self.precision in ("fp32", "bf16"), "fp32 or bf16"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "replicate": (self.replicate >= 0, "0 or more"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "clip_norm": (self.clip_norm is None or self.clip_norm > 0, "above 0, or none"),
            "image_size_px": (self.image_size_px is None or self.image_size_px > 0, "above 0"),
            "warmup_fraction": (0 <= self.warmup_fraction < 1, "from 0 to below 1"),
            "ema_decay": (0 <= self.ema_decay < 1, "from 0 to below 1"),
            "subset_size": (self.subset_size is None or self.subset_size > 0, "above 0"),
        }
        check_rules(self, rules)
        if self.objective == "unicl" and not self.label_tasks:
            raise InputError(
                "objective unicl needs label_tasks: the tasks whose labels become texts, e.g. {ETT: Endotracheal Tube}, or all"
            )


# Whole recipes by name; an experiment's own settings come on top.
PRESETS: dict[str, dict[str, Any]] = {
    # What the paper does not state is that of MedImageInsight's 2024.09.27/config.yaml ("config"), whose batch of 1024 is near.
    "medimageinsight": {
        "batch_size": 1280,  # paper: 32 GPUs x 40
        "learning_rate": 1e-5,  # config; its fine-tuning example has 5e-6
        "final_learning_rate": 1e-9,  # config, half a cosine
        "weight_decay": 0.2,  # config, constant; not of norms, biases, depth-wise kernels, embeddings and the logit scale
        "clip_norm": 1.0,  # config
        "ema_decay": 0.999,  # config; the average is what is exported
        "precision": "bf16",  # config: half precision with scaled gradients, which bfloat16 does not need
        "image_size_px": 518,  # paper, Table 1: its token counts are those of 518 px; config has 480
        "text": {
            "sections": ["impression", "findings"],  # ours: not stated; a long text keeps its head
            "view_prefix": True,  # paper, section 5
            "identical_texts_are_positives": False,  # its trainer
        },
        "augmentation": {"crop_scale": [0.8, 1.0], "crop_ratio": [0.75, 4 / 3]},  # config
        "contrastive": {"frozen_patterns": []},  # ours: not stated
    },
    # Continues RAD-DINO. Origins: [paper], [card] of the weights, [D2] DINOv2's short configuration, to which the card's sizes
    # point, [second] a public script that says it follows RAD-DINO's unpublished recipe, [own] our choice. Who has RAD-DINO's
    # `vitb14_cxr.yaml` and `ssl_default_config.yaml` gives them to `radscale pretrain --recipe` instead.
    "rad-dino": {
        "batch_size": 1280,  # [paper] 32 x 40
        "learning_rate": 1.12e-3,  # [second] 1e-3 x sqrt(1280 / 1024)
        "final_learning_rate": 1e-6,  # [D2]
        "warmup_fraction": 0.05,  # [second]
        "weight_decay": 0.04,  # [D2], [second]
        "final_weight_decay": 0.4,  # [D2], [second]
        "clip_norm": 3.0,  # [D2], [second], of backbone and head each
        "precision": "bf16",  # [own]; [card] has fp16, which needs a loss scaler
        "dinov2": {
            "global_size_px": 518,  # [card]
            "local_size_px": 196,  # [own] not published; a multiple of the patch size in DINOv2's proportion
            "num_local_crops": 8,  # [D2]
            "global_scale": (0.5, 1.0),  # [second]; [paper] "larger crop sizes"
            "local_scale": (0.2, 0.5),  # [second]
            "crop_ratio": (0.75, 4 / 3),  # [D2]
            "flip_probability": 0.5,  # [D2], [second]
            "jitter_probability": 0.8,  # [D2], [second]; saturation, hue and grey conversion change nothing in a grey image
            "brightness": 0.4,  # [D2], [second]
            "contrast": 0.4,  # [D2], [second]
            "blur_probability": (0.5, 0.1, 0.5),  # [second], as it states them; DINOv2's own class would invert them
            "num_prototypes": 65536,  # [card]
            "head_hidden": 2048,  # [card]
            "head_bottleneck": 256,  # [card]
            "student_temperature": 0.1,  # [D2]
            "teacher_temperature": (0.04, 0.07),  # [D2], [second]
            "teacher_warmup_fraction": 0.5,  # [second]; [D2] has 30 of 100 epochs
            "momentum": (0.992, 1.0),  # [D2], [second]
            "centering": "centering",  # [D2]; not published
            "koleo_weight": 0.1,  # [D2], [second]
            "ibot_weight": 1.0,  # [D2]
            "mask_probability": 0.5,  # [D2]
            "mask_ratio": (0.1, 0.5),  # [D2]
            "layer_decay": 0.9,  # [D2], [second]
            "patch_embed_multiplier": 0.2,  # [D2], [second]
            "drop_path": 0.3,  # [D2]; not published
            "head_warmup_fraction": 0.0,  # [own] the head comes with the weights
            "prototype_freeze_fraction": 0.01,  # [D2]; of no effect on a head that comes with the weights
        },
    },
}
