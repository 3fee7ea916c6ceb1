"""Load open weights from their published files, strictly: a name or shape that does not fit is an error that names it.

Architecture and preprocessing come from the files beside the weights where there are any (Hugging Face folders), from the
publisher's configuration (MedImageInsight), or from the shapes of the tensors (a DINOv2 file alone).
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.models import ClipTokenizer, DinoHead, Encoder, make_encoder
from radscale.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from radscale.training.checkpointing import CONFIG, HEAD, WEIGHTS, build_head, load_checkpoint, load_published_state
from radscale.training.encoder_registry import build_registered, registered_names
from radscale.training.weight_files import read_json, read_safetensors, read_state
from radscale.training.weight_names import from_dinov2_training, from_huggingface, from_older_medimageinsight

NAMES = ("medimageinsight", "rad-dino", "dinov2")

# The file is safetensors in spite of its suffix, and misspelt by its publisher.
MEDIMAGEINSIGHT_FILE = "medimageinsigt-v1.0.0.pt"
MEDIMAGEINSIGHT_CONFIG: dict[str, Any] = {
    "family": "davit",
    "preprocessing": {"image_size_px": 480, "resize": "squash", "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}
BACKBONE = "backbone_compatible.safetensors"
"""RAD-DINO's weights under DINOv2's own names."""
PROCESSOR = "preprocessor_config.json"
RAD_DINO_STATISTICS = {"mean": (0.5307,) * 3, "std": (0.2583,) * 3}
HEAD_DIMENSION = 64
"""Of every published DINOv2: width / heads. Tensors do not show the number of heads."""


def load_encoder(name: str, weights: str | Path | None = None, tokenizer: str | Path | None = None) -> Encoder:
    """An encoder in evaluation mode, ready for `preprocess`, `forward_features`, `encode_image` and `encode_text`.

    Args:
        name: "medimageinsight", "rad-dino" or "dinov2"; an encoder of your own (see `encoder_registry`); or, without
            `weights`, a path: a radscale checkpoint, or published weights whose kind is told from the files.
        weights: MedImageInsight: the published file, or a folder that has it (its MLflow model). RAD-DINO and DINOv2: a
            Hugging Face folder, one file of it, or a teacher dump of DINOv2's training.
        tokenizer: folder of the CLIP tokenizer that comes with MedImageInsight; a folder of it inside `weights` is found.
            Its vocabulary must be CLIP's, the one that radscale carries.

    Returns:
        For images of side S: `preprocess` (list of (H, W) uint8 arrays -> (B, 3, S, S)), `forward_features` (four maps
        (B, C, h, w)), `encode_image` and `encode_text` ((B, D), L2-normalised).

    Raises:
        InputError: missing files, weights of another model, unknown name.
    """
    if weights is None:
        if not Path(name).exists():
            raise InputError(
                f"{name}: neither a checkpoint nor a file of weights, nor, with weights, one of {', '.join(known_names())}"
            )
        name, weights = detect_family(Path(name)), name
    path = Path(weights)
    if name in NAMES or name == "checkpoint":
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give the weights of {name}")
        if tokenizer is not None and name != "medimageinsight":
            raise InputError(f"tokenizer: {name} reads images only; a tokenizer belongs to medimageinsight")
    if name == "checkpoint":
        return load_checkpoint(path)
    if name == "medimageinsight":
        return _load_medimageinsight(path, None if tokenizer is None else Path(tokenizer))
    if name in ("rad-dino", "dinov2"):
        return _load_dinov2(path, name)
    return build_registered(name, path)


def known_names() -> list[str]:
    """What `load_encoder` takes as a name, installed encoders of other packages included."""
    return [*NAMES, *registered_names(), "FILE.py:FUNCTION"]


def detect_family(path: Path) -> str:
    """Which name `load_encoder` needs for published weights or a checkpoint, from what is in the files.

    Raises:
        InputError: nothing there that radscale reads.
    """
    if path.is_dir():
        if (path / CONFIG).exists():
            return "dinov2" if "model_type" in read_json(path / CONFIG) else "checkpoint"
        if _find_medimageinsight(path) is not None:
            return "medimageinsight"
        if (path / BACKBONE).exists():
            return "dinov2"
        raise InputError(
            f"{path}: no {CONFIG} or {MEDIMAGEINSIGHT_FILE} in it; give a checkpoint of radscale or a folder of open weights"
        )
    found = _looks_like(read_state(path))
    if found is None or found not in NAMES:
        raise InputError(f"{path.name}: {'tensors of an unknown model' if found is None else found}; {_ADVICE}")
    return found


_ADVICE = "radscale reads MedImageInsight, RAD-DINO, DINOv2 and encoders of your own"


def load_dino_head(path: str | Path) -> DinoHead | None:
    """The projection head in a folder of weights, or inside a teacher dump; None if there is none."""
    path = Path(path)
    if path.is_dir():
        file = path / HEAD
        return build_head(read_safetensors(file), file.name) if file.exists() else None
    if not path.exists():
        return None
    _, head = from_dinov2_training(read_state(path))
    if not head:
        beside = path.parent / HEAD
        return (
            build_head(read_safetensors(beside), beside.name) if path.name in (WEIGHTS, BACKBONE) and beside.exists() else None
        )
    return build_head(head, path.name)


def _find_medimageinsight(folder: Path) -> Path | None:
    return next(iter(sorted(folder.rglob(MEDIMAGEINSIGHT_FILE))), None)


def _load_medimageinsight(path: Path, tokenizer: Path | None) -> Encoder:
    if path.is_dir():
        file = _find_medimageinsight(path) or next(iter(sorted(path.rglob("*.safetensors"))), None)
        if file is None:
            raise InputError(f"{path}: no {MEDIMAGEINSIGHT_FILE} in it; give the folder of the MedImageInsight model")
        tokenizer = tokenizer or next((found.parent for found in sorted(path.rglob("merges.txt"))), None)
        path = file
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    state = from_older_medimageinsight(read_state(path))
    _check_family(state, "medimageinsight", path)
    with torch.device("meta"):
        encoder = make_encoder(MEDIMAGEINSIGHT_CONFIG)
    load_published_state(encoder, state, path.name)
    return encoder.eval()


def _load_dinov2(path: Path, name: str) -> Encoder:
    if path.is_dir():
        file = next((path / each for each in (WEIGHTS, BACKBONE) if (path / each).exists()), None)
        if file is None:
            raise InputError(f"{path}: no {WEIGHTS} or {BACKBONE}; give a folder with safetensors weights")
        folder = path
        read_json(folder / CONFIG)
    else:
        file, folder = path, path.parent
    state, _ = from_dinov2_training(from_huggingface(read_state(file)))
    _check_family(state, "dinov2", file)
    with_config = (folder / CONFIG).exists() and (path.is_dir() or file.name in (WEIGHTS, BACKBONE))
    if with_config:
        published = read_json(folder / CONFIG)
        if published.get("model_type") not in ("dinov2", "dinov2_with_registers"):
            raise InputError(
                f"{folder}: model_type {published.get('model_type')!r} in config.json; a DINOv2 folder says 'dinov2'"
            )
        architecture = _architecture_from_huggingface(published, folder)
        if not published.get("use_mask_token", True):
            state.setdefault("mask_token", torch.zeros(1, architecture["width"]))
    else:
        architecture = architecture_from_tensors(state, file.name)
    if with_config and (folder / PROCESSOR).exists():
        preprocessing = preprocessing_from_huggingface(folder / PROCESSOR, architecture["image_size_px"])
    else:
        statistics: dict[str, Any] = RAD_DINO_STATISTICS if name == "rad-dino" else {}
        whose = "RAD-DINO's" if name == "rad-dino" else "ImageNet"
        warnings.warn(f"{file.name}: no {PROCESSOR} beside it, taking {whose} statistics", stacklevel=3)
        preprocessing = {"image_size_px": architecture["image_size_px"], **statistics}
    with torch.device("meta"):
        encoder = make_encoder({"family": "vit", "architecture": architecture, "preprocessing": preprocessing})
    load_published_state(encoder, state, file.name)
    return encoder.eval()


def architecture_from_tensors(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Sizes of a DINOv2 ViT that show in its tensors; positions are resized as DINOv2's own code does it.

    Raises:
        InputError: tensors without which the sizes are unknown, or a feed-forward that is not supported.
    """
    if any(".mlp.w12." in name for name in state):
        raise InputError(f"{source}: SwiGLU feed-forward (ViT-g) is not supported; ViT-S, B and L are")
    try:
        width, _, patch_size_px, _ = state["patch_embed.proj.weight"].shape
        num_positions = state["pos_embed"].shape[1]
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError):
        raise InputError(
            f"{source}: a DINOv2 ViT has patch_embed.proj.weight, pos_embed and blocks.0.mlp.fc1.weight, which are missing or "
            "of another rank; give the file that belongs to it"
        ) from None
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    if width % HEAD_DIMENSION:
        raise InputError(
            f"{source}: width {width} is not a multiple of {HEAD_DIMENSION}, so the number of heads is unknown; "
            f"give a folder with {CONFIG}"
        )
    return {
        "image_size_px": round((num_positions - 1) ** 0.5) * patch_size_px,
        "patch_size_px": patch_size_px,
        "width": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "num_heads": width // HEAD_DIMENSION,
        "mlp_ratio": hidden / width,
        "num_registers": registers,
        "interpolation": "size_antialias" if registers else "offset0.1",
    }


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


def preprocessing_from_huggingface(path: Path, image_size_px: int) -> dict[str, Any]:
    """Settings of `Preprocessing` from a preprocessor_config.json.

    Raises:
        InputError: numbers that are none, or a step that `Preprocessing` does not have.
    """
    config = read_json(path)
    crop, edge = config.get("crop_size", {}), config.get("size", {})
    if not config.get("do_resize", True) or not config.get("do_normalize", True) or config.get("resample", 3) != 3:
        raise InputError(f"{path}: only bicubic resizing (resample 3) with normalisation is supported; change the file")
    try:
        statistics = {
            "mean": tuple(float(value) for value in config.get("image_mean", IMAGENET_MEAN)),
            "std": tuple(float(value) for value in config.get("image_std", IMAGENET_STD)),
        }
        if isinstance(edge, dict) and "height" in edge and not config.get("do_center_crop", False):
            if edge["height"] != edge.get("width"):
                raise InputError(f"{path}: size {edge} is not square; radscale's encoders read square images")
            return {"image_size_px": int(edge["height"]), "resize": "squash", **statistics}
        size = int(crop.get("height", image_size_px)) if isinstance(crop, dict) else int(crop)
        shortest = int(edge.get("shortest_edge", size)) if isinstance(edge, dict) else int(edge)
        crop_fraction = min(1.0, size / shortest)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: sizes or statistics are no numbers ({error}); take the file that came with the weights"
        ) from None
    return {"image_size_px": size, "resize": "shortest_edge_center_crop", "crop_fraction": crop_fraction, **statistics}


SIGNATURES = {
    "medimageinsight": "image_encoder.convs.0.proj.weight",
    "dinov2": "patch_embed.proj.weight",
    "CLIP (open_clip)": "visual.conv1.weight",
    "CLIP (transformers)": "vision_model.embeddings.patch_embedding.weight",
    "a DINO head": "last_layer.weight_v",
}


def _looks_like(state: Mapping[str, Tensor]) -> str | None:
    backbone, _ = from_dinov2_training(from_huggingface(state))
    names = {*state, *backbone, *from_older_medimageinsight(state)}
    return next((family for family, name in SIGNATURES.items() if name in names), None)


def _check_family(state: Mapping[str, Tensor], expected: str, path: Path) -> None:
    """Say which model a file looks like, before listing hundreds of names that do not fit."""
    found = _looks_like(state)
    if found is not None and found != expected:
        raise InputError(f"{path.name}: holds weights of {found}, not of {expected}; give the other name or file")


def check_tokenizer(folder: Path) -> None:
    """A tokenizer folder must hold CLIP's vocabulary and merges, which every text tower here was trained with.

    Raises:
        InputError: files are missing, or ids or merges are others.
    """
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for file in (vocabulary, merges):
        if not file.exists():
            raise InputError(
                f"{folder}: no {file.name} in it; give the folder clip_tokenizer_4.16.2 of MedImageInsight, or none"
            )
    difference = ClipTokenizer().difference_from(read_json(vocabulary), merges.read_text(encoding="utf-8").splitlines())
    if difference is not None:
        raise InputError(f"{folder}: not CLIP's vocabulary of 49,408 entries ({difference}); MedImageInsight uses that one")
