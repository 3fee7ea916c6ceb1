"""Encoders from one published layout to another, bit for bit: ours, Hugging Face's, DINOv2's, MedImageInsight's."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, ImageTextEncoder, VisionTransformer, ViTConfig, ViTEncoder, make_encoder
from radscale.training.checkpointing import HEAD, WEIGHTS, published_state, save_checkpoint
from radscale.training.open_weights import (
    BACKBONE,
    MEDIMAGEINSIGHT_CONFIG,
    MEDIMAGEINSIGHT_FILE,
    PROCESSOR,
    load_dino_head,
    load_encoder,
)
from radscale.training.weight_files import write_json, write_safetensors
from radscale.training.weight_names import to_huggingface


@dataclass(frozen=True)
class Conversion:
    """What was written, and what a reader of the result must know."""

    origin: str
    files: list[str]
    notes: list[str]


def convert(encoder: Encoder, head: DinoHead | None, to: str, out: Path) -> Conversion:
    """Write an encoder in another layout.

    Args:
        encoder: from `load_encoder`.
        head: DINO head that belongs to it, or None.
        to: one of FORMATS.
        out: folder that does not exist yet, or is empty.

    Raises:
        InputError: a format that cannot hold this encoder, or `out` has files already.
    """
    if to not in FORMATS:
        raise InputError(f"format '{to}' is not known; choose one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; give a new folder")
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        notes = FORMATS[to](encoder, head, temporary)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    if out.exists():
        out.rmdir()
    temporary.rename(out)
    return Conversion(encoder.origin, sorted(path.name for path in out.iterdir()), notes)


def _write_ours(encoder: Encoder, head: DinoHead | None, out: Path) -> list[str]:
    save_checkpoint(out, encoder, head=head, info={"objective": "open_weights", "origin": encoder.origin})
    return []


def _write_huggingface(encoder: Encoder, head: DinoHead | None, out: Path) -> list[str]:
    vit, state, notes = _vit_of(encoder, "huggingface")
    config = vit.config
    if config.interpolation != _interpolation_of_transformers(config):
        notes.append(
            f"positions: this encoder resizes its table by the rule '{config.interpolation}', transformers by "
            f"'{_interpolation_of_transformers(config)}'; they agree at {config.image_size_px} px only"
        )
    write_safetensors(out / WEIGHTS, to_huggingface(state), {"format": "pt"})
    write_json(out / "config.json", huggingface_config(config))
    write_json(out / PROCESSOR, huggingface_preprocessing(encoder))
    _write_head(head, out)
    return notes


def _write_dinov2(encoder: Encoder, head: DinoHead | None, out: Path) -> list[str]:
    """As RAD-DINO publishes them beside its Hugging Face files; config.json keeps what tensors do not show."""
    vit, state, notes = _vit_of(encoder, "dinov2")
    write_safetensors(out / BACKBONE, state)
    write_json(out / "config.json", huggingface_config(vit.config))
    write_json(out / PROCESSOR, huggingface_preprocessing(encoder))
    _write_head(head, out)
    return notes


def _write_head(head: DinoHead | None, out: Path) -> None:
    if head is not None:
        write_safetensors(out / HEAD, head.state_dict())


def _write_medimageinsight(encoder: Encoder, head: DinoHead | None, out: Path) -> list[str]:
    with torch.device("meta"):
        published = make_encoder(MEDIMAGEINSIGHT_CONFIG)
    if encoder.config_dict().get("architecture") != published.config_dict()["architecture"]:
        raise InputError(
            f"{encoder.origin}: not MedImageInsight's architecture (family '{encoder.family}'); its layout holds no other. "
            "Convert to huggingface, dinov2 or radscale instead"
        )
    write_safetensors(out / MEDIMAGEINSIGHT_FILE, published_state(encoder))
    if encoder.preprocessing == published.preprocessing:
        return []
    ours, theirs = encoder.preprocessing, published.preprocessing
    return [
        f"preprocessing: this encoder reads {ours.image_size_px} px ({ours.resize}), which the layout does not hold; its "
        f"readers take {theirs.image_size_px} px ({theirs.resize})"
    ]


FORMATS: dict[str, Callable[[Encoder, DinoHead | None, Path], list[str]]] = {
    "radscale": _write_ours,
    "huggingface": _write_huggingface,
    "dinov2": _write_dinov2,
    "medimageinsight": _write_medimageinsight,
}
READ_AS = {"radscale": "checkpoint", "huggingface": "dinov2", "dinov2": "dinov2", "medimageinsight": "medimageinsight"}


def _vit_of(encoder: Encoder, to: str) -> tuple[VisionTransformer, dict[str, Tensor], list[str]]:
    """The ViT of an encoder with its weights under DINOv2's names, and what is left behind."""
    if isinstance(encoder, ViTEncoder):
        return encoder.backbone, published_state(encoder), []
    if isinstance(encoder, ImageTextEncoder) and isinstance(encoder.image_encoder, VisionTransformer):
        left = "the text tower and the projections to the common space are left out: the layout holds an image encoder only"
        return encoder.image_encoder, dict(encoder.image_encoder.state_dict()), [left]
    raise InputError(f"{encoder.origin}: family '{encoder.family}' is no ViT; the layout '{to}' holds ViTs only")


def _interpolation_of_transformers(config: ViTConfig) -> str:
    return "size_antialias" if config.num_registers else "size"


def huggingface_config(config: ViTConfig) -> dict[str, Any]:
    """config.json as transformers writes it for a Dinov2Model, with registers for a Dinov2WithRegistersModel."""
    registers = {"num_register_tokens": config.num_registers} if config.num_registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if config.num_registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if config.num_registers else "dinov2",
        "image_size": config.image_size_px,
        "patch_size": config.patch_size_px,
        "num_channels": 3,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": int(config.mlp_ratio) if config.mlp_ratio == int(config.mlp_ratio) else config.mlp_ratio,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layerscale_value": config.layerscale_init,
        "layer_norm_eps": config.layer_norm_eps,
        "drop_path_rate": config.drop_path,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "use_swiglu_ffn": False,
        "use_mask_token": True,
        "torch_dtype": "float32",
        **registers,
    }


def huggingface_preprocessing(encoder: Encoder) -> dict[str, Any]:
    """preprocessor_config.json of the image processor that does the same."""
    settings = encoder.preprocessing
    size = settings.image_size_px
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
        "resample": 3,
    }
    if settings.resize == "squash":
        return {**common, "image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    return {
        **common,
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": round(size / settings.crop_fraction)},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
    }


@dataclass(frozen=True)
class Verification:
    """How the converted encoder, read back from its files, differs from the one it was made of."""

    num_tensors: int
    num_different: int
    """Tensors that are not equal bit for bit."""
    image_difference: float
    """Largest difference of the four maps and the embedding, relative to the largest value of each."""
    text_difference: float | None
    """The same of text embeddings; None where one of the two reads no text."""

    @property
    def ok(self) -> bool:
        return self.num_different == 0 and max(self.image_difference, self.text_difference or 0.0) <= 1e-6


def verify(encoder: Encoder, head: DinoHead | None, to: str, out: Path) -> Verification:
    """Read a conversion back and compare tensors bit for bit, and outputs for noise of the encoder's own size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = load_encoder(READ_AS[to], out)
        other_head = load_dino_head(out)
    image_only = encoder.has_text and not other.has_text
    before = _vit_of(encoder, to)[1] if image_only else published_state(encoder)
    after = published_state(other)
    if head is not None and other_head is not None:
        before |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        after |= {f"head.{name}": tensor for name, tensor in other_head.state_dict().items()}
    different = sum(name not in after or not torch.equal(tensor, after[name]) for name, tensor in before.items())
    different += len(set(after) - set(before))
    size = encoder.preprocessing.image_size_px
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = encoder.forward_features(pixels), other.forward_features(pixels)
        if not image_only:
            ours, theirs = [*ours, encoder.encode_image(pixels)], [*theirs, other.encode_image(pixels)]
        text = None
        if encoder.has_text and other.has_text:
            texts = ["x-ray chest anteroposterior Pneumonia", "no acute cardiopulmonary process"]
            text = _relative(encoder.encode_text(texts), other.encode_text(texts))
    image = max(_relative(a, b) for a, b in zip(ours, theirs, strict=True))
    return Verification(len(before), different, image, text)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
