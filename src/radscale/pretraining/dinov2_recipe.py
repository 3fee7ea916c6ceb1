"""Read the recipe files that DINOv2 is trained with (RAD-DINO publishes `ssl_default_config.yaml` and `vitb14_cxr.yaml`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from radscale.errors import InputError

REQUIRED: dict[str, Any] = {
    "dino.loss_weight": 1.0,
    "dino.head_nlayers": 3,
    "ibot.separate_head": False,
    "student.drop_path_uniform": True,
    "student.ffn_layer": "mlp",
    "student.qkv_bias": True,
    "student.proj_bias": True,
    "student.ffn_bias": True,
    "optim.scaling_rule": "sqrt_wrt_1024",
    "optim.adamw_beta1": 0.9,
    "optim.adamw_beta2": 0.999,
}
"""Where this trainer knows only DINOv2's default."""

OF_THE_WEIGHTS = (
    "student.arch",
    "student.patch_size",
    "student.layerscale",
    "student.num_register_tokens",
    "student.interpolate_antialias",
    "student.interpolate_offset",
    "student.pretrained_weights",
    "MODEL.WEIGHTS",
)
"""Given by the weights that are continued."""

IRRELEVANT = (
    # Of the machine and the reference's own files and evaluations.
    "compute_precision",
    "train.dataset_path",
    "train.output_dir",
    "train.saveckp_freq",
    "train.num_workers",
    "train.cache_dataset",
    "student.block_chunks",
    "evaluation",
    "train_dataset_str",
    "val_dataset_str",
    "nb_knn",
    "temperature",
    "gather_on_cpu",
    "batch_size",
    "n_per_class_list",
    "n_tries",
    "finetune_dataset_str",
    "finetune_on_val",
    "metric_type",
    "train_features_device",
    "train_dtype",
    "max_train_iters",
    "defaults",
    "hydra",
    # The separate head of the patches, which `ibot.separate_head: false` leaves unused.
    "ibot.head_n_prototypes",
    "ibot.head_bottleneck_dim",
    "ibot.head_nlayers",
    "ibot.head_hidden_dim",
    # Follows from `base_lr` and the batch.
    "optim.lr",
)

PRECISION = "compute_precision.student.backbone.mixed_precision.param_dtype"


def settings_from_dinov2_yaml(*files: Path, num_gpus: int = 1) -> dict[str, Any]:
    """Settings for `PretrainingConfig` from DINOv2's YAML files; views and blur, which those do not name, stay at our defaults.

    Args:
        files: all keys (`ssl_default_config.yaml`), then those that differ (`vitb14_cxr.yaml`), each laid over the ones before.
        num_gpus: that the recipe is for: it states the batch of one, and its learning rate grows with the root of the whole.

    Returns:
        Keyword arguments, `dinov2` and `budget` as dictionaries. 16-bit floats become bf16; epochs become shares of the run.

    Raises:
        InputError: a file that is not YAML, a key that is missing or not known, or a value that this trainer cannot follow.
    """
    if num_gpus < 1:
        raise InputError(f"num_gpus is {num_gpus}; the recipe's batch is per GPU, give at least 1")
    values: dict[str, tuple[Any, Path]] = {}
    for path in files:
        values |= {key: (value, path) for key, value in _flat(_read(path))}
    default_yaml = files[0]
    recipe = _Recipe(values, default_yaml)
    for key, allowed in REQUIRED.items():
        if key in values and recipe.take(key) != allowed:
            value, path = values[key]
            raise InputError(f"{path.name}: {key} is {value}; this trainer knows only {allowed}; change it or leave it out")

    precision = str(values[PRECISION][0]) if PRECISION in values else "fp16"
    batch_size = recipe.whole("train.batch_size_per_gpu") * num_gpus
    epochs = recipe.number("optim.epochs")
    if epochs <= 0 or batch_size <= 0:
        raise InputError(f"{default_yaml.name}: optim.epochs and train.batch_size_per_gpu must be above 0")
    dinov2 = {
        "global_size_px": recipe.whole("crops.global_crops_size"),
        "local_size_px": recipe.whole("crops.local_crops_size"),
        "num_local_crops": recipe.whole("crops.local_crops_number"),
        "global_scale": recipe.pair("crops.global_crops_scale"),
        "local_scale": recipe.pair("crops.local_crops_scale"),
        "num_prototypes": recipe.whole("dino.head_n_prototypes"),
        "head_hidden": recipe.whole("dino.head_hidden_dim"),
        "head_bottleneck": recipe.whole("dino.head_bottleneck_dim"),
        "koleo_weight": recipe.number("dino.koleo_loss_weight"),
        "ibot_weight": recipe.number("ibot.loss_weight"),
        "mask_probability": recipe.number("ibot.mask_sample_probability"),
        "mask_ratio": recipe.pair("ibot.mask_ratio_min_max"),
        "centering": recipe.choice("train.centering", {"centering": "centering", "sinkhorn_knopp": "sinkhorn"}),
        "drop_path": recipe.number("student.drop_path_rate"),
        "momentum": (recipe.number("teacher.momentum_teacher"), recipe.number("teacher.final_momentum_teacher")),
        "teacher_temperature": (recipe.number("teacher.warmup_teacher_temp"), recipe.number("teacher.teacher_temp")),
        "teacher_warmup_fraction": min(1.0, recipe.number("teacher.warmup_teacher_temp_epochs") / epochs),
        "prototype_freeze_fraction": min(1.0, recipe.number("optim.freeze_last_layer_epochs") / epochs),
        "layer_decay": recipe.number("optim.layerwise_decay"),
        "patch_embed_multiplier": recipe.number("optim.patch_embed_lr_mult"),
    }
    settings = {
        "objective": "dinov2",
        "seed": recipe.whole("train.seed"),
        "batch_size": batch_size,
        "budget": {"unit": "samples_seen", "amount": epochs * recipe.whole("train.OFFICIAL_EPOCH_LENGTH") * batch_size},
        "learning_rate": recipe.number("optim.base_lr") * (batch_size / 1024) ** 0.5,
        "final_learning_rate": recipe.number("optim.min_lr"),
        "warmup_fraction": recipe.number("optim.warmup_epochs") / epochs,
        "weight_decay": recipe.number("optim.weight_decay"),
        "final_weight_decay": recipe.number("optim.weight_decay_end"),
        "clip_norm": recipe.number("optim.clip_grad") or None,
        "precision": "fp32" if precision == "fp32" else "bf16",
        "dinov2": dinov2,
    }
    recipe.refuse_the_rest()
    return settings


class _Recipe:
    """Values by dotted key; remembers which ones were asked for."""

    def __init__(self, values: dict[str, tuple[Any, Path]], default_yaml: Path) -> None:
        self.values, self.default_yaml = values, default_yaml
        self.taken: set[str] = set()

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise InputError(f"{self.default_yaml.name}: {key} is missing; give DINOv2's whole ssl_default_config.yaml first")
        self.taken.add(key)
        return self.values[key][0]

    def number(self, key: str) -> float:
        value = self.take(key)
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)  # also of text: YAML 1.1 takes 1e-3 for a word
        except (TypeError, ValueError):
            raise self._error(key, "a number") from None

    def whole(self, key: str) -> int:
        value = self.number(key)
        if value != int(value):
            raise self._error(key, "a whole number")
        return int(value)

    def pair(self, key: str) -> tuple[float, float]:
        value = self.take(key)
        if not isinstance(value, list) or len(value) != 2 or not all(isinstance(x, int | float) for x in value):
            raise self._error(key, "two numbers")
        return float(value[0]), float(value[1])

    def choice(self, key: str, words: dict[str, str]) -> str:
        value = self.take(key)
        if value not in words:
            raise self._error(key, " or ".join(words))
        return words[value]

    def refuse_the_rest(self) -> None:
        for key, (value, path) in self.values.items():
            known = any(key == name or key.startswith(f"{name}.") for name in (*IRRELEVANT, *OF_THE_WEIGHTS))
            if key not in self.taken and not known:
                raise InputError(f"{path.name}: {key} ({value}) is not known to this trainer; remove it if it does not matter")

    def _error(self, key: str, rule: str) -> InputError:
        value, path = self.values[key]
        return InputError(f"{path.name}: {key} is {value}; it must be {rule}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the recipe's YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(f"{path}: not a YAML file; give the recipe as it was published") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no keys; give the recipe as it was published")
    return content


def _flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
