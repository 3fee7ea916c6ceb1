"""Load open weights from their published files, strictly: a name or shape that does not fit is an error that names it."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, make_encoder
from radscale.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from radscale.training.checkpointing import (
    HEAD,
    WEIGHTS,
    load_checkpoint,
    load_head,
    load_published_state,
    read_json,
    read_safetensors,
)

NAMES = ("medimageinsight", "rad-dino", "dinov2")

# The file is safetensors in spite of its suffix, and misspelt by its publisher.
MEDIMAGEINSIGHT_FILE = "medimageinsigt-v1.0.0.pt"
MEDIMAGEINSIGHT_CONFIG: dict[str, Any] = {
    "family": "davit",
    "preprocessing": {"image_size_px": 480, "resize": "squash", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}


def load_encoder(name: str, weights: str | Path | None = None, tokenizer: str | Path | None = None) -> Encoder:
    """An encoder in evaluation mode, ready for `preprocess`, `forward_features`, `encode_image` and `encode_text`.

    Args:
        name: "medimageinsight", "rad-dino" or "dinov2"; or the folder of a radscale checkpoint, without `weights`.
        weights: MedImageInsight: the published file, or a folder that has it. RAD-DINO and DINOv2: a Hugging Face folder.
        tokenizer: folder of the CLIP tokenizer that comes with MedImageInsight. The vocabulary is the standard one, so it is
            needed only to check that this is so.

    Returns:
        For images of side S: `preprocess` (list of (H, W) uint8 arrays -> (B, 3, S, S)), `forward_features` (four maps
        (B, C, h, w)), `encode_image` and `encode_text` ((B, D), L2-normalised).

    Raises:
        InputError: missing files, weights of another model, unknown name.
    """
    if weights is None:
        directory = Path(name)
        if not directory.is_dir():
            raise InputError(f"{name}: neither a checkpoint folder nor, with weights, one of {', '.join(NAMES)}")
        return load_checkpoint(directory)
    path = Path(weights)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give the weights of {name}")
    if name == "medimageinsight":
        encoder = _load_medimageinsight(path)
        if tokenizer is not None:
            _check_tokenizer(Path(tokenizer))
        return encoder
    if name in ("rad-dino", "dinov2"):
        if tokenizer is not None:
            raise InputError(f"tokenizer: {name} reads images only; a tokenizer belongs to medimageinsight")
        return _load_dinov2(path)
    raise InputError(f"unknown encoder '{name}'; allowed: {', '.join(NAMES)}, or a checkpoint folder without weights")


def load_dino_head(directory: str | Path) -> DinoHead | None:
    """The projection head beside an encoder's weights, or None if there is none."""
    path = Path(directory) / HEAD
    return load_head(path) if path.exists() else None


def _load_medimageinsight(path: Path) -> Encoder:
    if path.is_dir():
        found = sorted(path.rglob(MEDIMAGEINSIGHT_FILE)) or sorted(path.rglob("*.safetensors"))
        if not found:
            raise InputError(f"{path}: no {MEDIMAGEINSIGHT_FILE} in it; give the folder of the MedImageInsight model")
        path = found[0]
    with torch.device("meta"):
        encoder = make_encoder(MEDIMAGEINSIGHT_CONFIG)
    published = read_safetensors(path)
    state = {_current_name(name): tensor for name, tensor in published.items()}
    _check_family({**published, **state}, "medimageinsight", path)
    load_published_state(encoder, state, path.name)
    return encoder.eval()


def _current_name(name: str) -> str:
    """Names of older MedImageInsight files, which its own loader accepts too."""
    for old, new in (("visual.", "image_encoder."), ("text.", "lang_encoder.")):
        if name.startswith(old):
            name = new + name.removeprefix(old)
    if name.startswith("image_encoder."):
        name = name.replace(".conv_embeds.", ".convs.").replace(".main_blocks.", ".blocks.")
    return {"vision_projection": "image_projection", "text_projection": "lang_projection"}.get(name, name)


def _load_dinov2(directory: Path) -> Encoder:
    if directory.is_file():
        raise InputError(f"{directory}: give the Hugging Face folder (config.json, model.safetensors), not one file of it")
    config = read_json(directory / "config.json")
    if config.get("model_type") not in ("dinov2", "dinov2_with_registers"):
        raise InputError(f"{directory}: model_type {config.get('model_type')!r} in config.json; a DINOv2 folder says 'dinov2'")
    file = next(
        (directory / name for name in (WEIGHTS, "backbone_compatible.safetensors") if (directory / name).exists()), None
    )
    if file is None:
        raise InputError(f"{directory}: no {WEIGHTS}; give a folder with safetensors weights")
    state = read_safetensors(file)
    _check_family(state, "dinov2", file)
    with torch.device("meta"):
        encoder = make_encoder(
            {
                "family": "vit",
                "architecture": _architecture_from_huggingface(config, directory),
                "preprocessing": _preprocessing_from_huggingface(directory, config),
            }
        )
    load_published_state(encoder, dinov2_names(state), file.name)
    return encoder.eval()


def _architecture_from_huggingface(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    if config.get("use_swiglu_ffn"):
        raise InputError(f"{directory}: SwiGLU feed-forward (ViT-g) is not supported; ViT-S, B and L are")
    try:
        return {
            "image_size_px": int(config["image_size"]),
            "patch_size_px": int(config["patch_size"]),
            "width": int(config["hidden_size"]),
            "depth": int(config["num_hidden_layers"]),
            "num_heads": int(config["num_attention_heads"]),
            "mlp_ratio": float(config.get("mlp_ratio", 4)),
            "num_registers": int(config.get("num_register_tokens", 0)),
            "layerscale_init": float(config.get("layerscale_value", 1.0)),
            "layer_norm_eps": float(config.get("layer_norm_eps", 1e-6)),
            # What transformers computes from such a folder; DINOv2 itself trains with "offset0.1" (1 % apart at 224 px).
            "interpolation": "size_antialias" if config.get("model_type") == "dinov2_with_registers" else "size",
        }
    except KeyError as error:
        raise InputError(f"{directory}/config.json: no key {error}; it is not the configuration of a DINOv2 model") from None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{directory}/config.json: a size is no number ({error}); take the file that came with the weights"
        ) from None


def _preprocessing_from_huggingface(directory: Path, model: dict[str, Any]) -> dict[str, Any]:
    path = directory / "preprocessor_config.json"
    image_size_px = model.get("image_size", 518)
    if not path.exists():
        warnings.warn(f"{directory.name}: no preprocessor_config.json, taking ImageNet statistics", stacklevel=4)
        return {"image_size_px": image_size_px}
    config = read_json(path)
    crop, edge = config.get("crop_size", {}), config.get("size", {})
    try:
        size = int(crop.get("height", image_size_px)) if isinstance(crop, dict) else int(crop)
        shortest = int(edge.get("shortest_edge", size)) if isinstance(edge, dict) else int(edge)
        return {
            "image_size_px": size,
            "resize": "shortest_edge_center_crop",
            "mean": tuple(float(value) for value in config.get("image_mean", IMAGENET_MEAN)),
            "std": tuple(float(value) for value in config.get("image_std", IMAGENET_STD)),
            "crop_fraction": min(1.0, size / shortest),
        }
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: sizes or statistics are no numbers ({error}); take the file that came with the weights"
        ) from None


HUGGINGFACE_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
)
QKV = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")


def dinov2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face tensors to DINOv2's names, joining query, key and value; DINOv2's own names stay."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        name = name.removeprefix("dinov2.").removeprefix("dinov2_with_registers.")
        if match := QKV.match(name):
            block, role, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[role] = tensor
            continue
        for pattern, replacement in HUGGINGFACE_NAMES:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[name] = tensor
    for name, roles in parts.items():
        if len(roles) == 3:  # an incomplete one shows up as missing
            renamed[name] = torch.cat([roles["query"], roles["key"], roles["value"]])
    return renamed


SIGNATURES = {
    "medimageinsight": "image_encoder.convs.0.proj.weight",
    "dinov2": "patch_embed.proj.weight",
    "CLIP (open_clip)": "visual.conv1.weight",
    "CLIP (transformers)": "vision_model.embeddings.patch_embedding.weight",
    "a DINO head": "last_layer.weight_v",
}


def _check_family(state: dict[str, Tensor], expected: str, path: Path) -> None:
    """Say which model a file looks like, before listing hundreds of names that do not fit."""
    names = {*state, *dinov2_names(state)}
    looks_like = [family for family, name in SIGNATURES.items() if name in names]
    if looks_like and expected not in looks_like:
        raise InputError(f"{path.name}: holds weights of {looks_like[0]}, not of {expected}; give the other name or file")


def _check_tokenizer(folder: Path) -> None:
    vocabulary = folder / "vocab.json"
    if not vocabulary.exists():
        raise InputError(f"{folder}: no vocab.json in it; give the folder clip_tokenizer_4.16.2 of MedImageInsight, or none")
    entries = read_json(vocabulary)
    if len(entries) != 49408 or entries.get("<|endoftext|>") != 49407:
        raise InputError(f"{vocabulary}: not CLIP's vocabulary of 49,408 entries; MedImageInsight uses that one")
