"""Encoders as their users see them: images in, four feature maps and one embedding out, whatever the architecture.

S = side of the square input in pixels, B = images, D = embedding dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.models.davit import DaViT, DaViTConfig
from radscale.models.text_encoder import TextEncoder, TextEncoderConfig
from radscale.models.tokenizer import ClipTokenizer
from radscale.models.vit import VisionTransformer, ViTConfig

EXTERNAL_FAMILY = "external"
"""Of encoders whose code is the user's own (`radscale.training.encoder_registry`)."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From 8-bit grey images to the pixels that the weights expect."""

    image_size_px: int = 518
    resize: Literal["squash", "shortest_edge_center_crop"] = "shortest_edge_center_crop"
    """`squash` ignores the aspect ratio (MedImageInsight); the other keeps it and crops the centre (RAD-DINO)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_fraction: float = 1.0
    """Part of the resized shorter side that the centre crop keeps (Hugging Face's DINOv2: 224 of 256 px; RAD-DINO: all)."""

    def __post_init__(self) -> None:
        if self.resize not in ("squash", "shortest_edge_center_crop"):
            raise InputError(f"preprocessing resize {self.resize!r}; allowed: squash, shortest_edge_center_crop")
        if self.image_size_px < 1 or not 0 < self.crop_fraction <= 1:
            raise InputError(
                f"preprocessing image_size_px {self.image_size_px}, crop_fraction {self.crop_fraction}: "
                "the size must be positive and the fraction in (0, 1]"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"preprocessing mean {self.mean}, std {self.std}: give 3 numbers each, std above 0")

    def __call__(self, images: Sequence[np.ndarray], device: torch.device | str | None = None) -> Tensor:
        """(B, 3, S, S) float32 from (H, W) images of any size.

        8-bit images are taken as they are. 16-bit ones have no known unit: their minimum becomes 0 and their maximum 255,
        rounded to whole values; a constant one becomes 0.

        Args:
            images: of 8 or 16 bit, each of its own size.
            device: where to resize and normalise, images of one size together; the processor if None. Another device may
                round a pixel to the neighbouring grey level.

        Raises:
            InputError: for an image that is not (H, W) of 8 or 16 bit, or has a side under 8 px.
        """
        if not images:
            raise InputError("no images to preprocess; give at least one (H, W) array")
        grey = [_to_8bit(image, index) for index, image in enumerate(images)]
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(grey):
            by_size.setdefault(image.shape, []).append(index)
        resized = torch.empty(len(grey), 1, self.image_size_px, self.image_size_px, dtype=torch.uint8, device=device)
        for indices in by_size.values():
            resized[indices] = self._resize(torch.cat([grey[index] for index in indices]).to(device))
        return self.normalise(resized.float() / 255)

    def normalise(self, grey: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> (B, 3, S, S) normalised."""
        mean = torch.tensor(self.mean, device=grey.device, dtype=grey.dtype).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=grey.device, dtype=grey.dtype).view(1, 3, 1, 1)
        return (grey - mean) / std

    def _resize(self, image: Tensor) -> Tensor:
        size = self.image_size_px
        height, width = image.shape[-2:]
        if self.resize == "squash":
            return _resize_8bit(image, (size, size))
        short = round(size / self.crop_fraction)
        # As Hugging Face's processor: the longer side is truncated to whole pixels.
        target = (short, short * width // height) if height <= width else (short * height // width, short)
        image = _resize_8bit(image, target)
        top, left = (target[0] - size) // 2, (target[1] - size) // 2
        return image[..., top : top + size, left : left + size]


def _to_8bit(image: np.ndarray, index: int) -> Tensor:
    """(1, 1, H, W) uint8."""
    array = np.asarray(image)
    if array.ndim != 2:
        raise InputError(f"image {index}: shape {array.shape}; give grey images of shape (H, W)")
    if min(array.shape) < 8:
        raise InputError(f"image {index}: {array.shape[0]} x {array.shape[1]} px is too small; the least is 8 px a side")
    if array.dtype not in (np.uint8, np.uint16, np.int16):
        raise InputError(f"image {index}: type {array.dtype}; give 8- or 16-bit integers (uint8, uint16, int16)")
    if array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        array = np.rint((array.astype(np.float32) - low) * (255 / max(high - low, 1))).astype(np.uint8)
    return torch.from_numpy(np.array(array))[None, None]


def _resize_8bit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize, along rows and then along columns, each rounded to 8 bit as PIL does.

    The published pipelines resize with PIL. Against PIL's own two passes in this order, over 360 images of 150 to 1500 px, at
    most 0.5 % of the pixels of an image differ, by one grey level (4 in a million by two, when enlarging). Pillow 13 takes some
    tall images columns first: up to 12 % of a smooth image's pixels then differ by one or two levels, noise by up to 19.
    """
    for target in ((image.shape[-2], size[1]), size):
        if tuple(image.shape[-2:]) != target:
            resized = F.interpolate(image.float(), size=target, mode="bicubic", antialias=True, align_corners=False)
            image = resized.round().clamp(0, 255).to(torch.uint8)
    return image


class Encoder(nn.Module, ABC):
    """What every later stage uses. Weights are those of `state_dict()`; architecture travels in `config_dict()`.

    An encoder of your own derives from this class: it sets `preprocessing`, `feature_channels` and `embedding_dim`, and gives
    `forward_features` and `encode_image`.
    """

    family: str = EXTERNAL_FAMILY
    preprocessing: Preprocessing
    feature_channels: list[int]
    embedding_dim: int
    has_text = False
    origin: str = "random initialisation"
    """Where the weights come from, for people; loading sets it."""
    builder: Mapping[str, str] | None = None
    """Of an external encoder: name and fingerprint of the code that builds it; the registry sets it."""

    def preprocess(self, images: Sequence[np.ndarray], device: torch.device | str | None = None) -> Tensor:
        """See `Preprocessing.__call__`."""
        return self.preprocessing(images, device)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """In training, keep only what enters a stage (DaViT) or block (ViT, text) and compute the rest again in the backward
        pass: less memory for a third more compute, the same gradients.

        Raises:
            InputError: for an encoder that cannot.
        """
        raise InputError(f"a '{self.family}' encoder has no activation checkpointing")

    @abstractmethod
    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        """Four maps (B, C_i, h_i, w_i), shallow to deep."""

    @abstractmethod
    def encode_image(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, D), L2-normalised. `generator` draws the stochastic depth of training (the global one if None)."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(B, D), L2-normalised.

        Raises:
            InputError: for an encoder without a text tower.
        """
        raise InputError(f"a '{self.family}' encoder reads images only; texts need an encoder trained with CLIP or UniCL")

    def config_dict(self) -> dict[str, Any]:
        """Family, architecture and preprocessing: enough for `build_encoder` or, of an external encoder, for the registry."""
        return {"family": self.family, "builder": dict(self.builder or {}), "preprocessing": asdict(self.preprocessing)}


class ViTEncoder(Encoder):
    """A DINOv2-family encoder. The embedding is the CLS token after the final norm."""

    family = "vit"

    def __init__(self, config: ViTConfig, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = VisionTransformer(config)
        self.preprocessing = preprocessing
        self.feature_blocks = four_blocks(config.depth)
        self.feature_channels = [config.width] * 4
        self.embedding_dim = config.width

    def set_activation_checkpointing(self, enabled: bool) -> None:
        self.backbone.activation_checkpointing = enabled

    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        return self.backbone.forward_features(pixels, self.feature_blocks)

    def encode_image(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return F.normalize(self.backbone.forward_tokens(pixels, None, generator)["cls"], dim=-1)

    def config_dict(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "architecture": asdict(self.backbone.config),
            "preprocessing": asdict(self.preprocessing),
        }


def four_blocks(depth: int) -> list[int]:
    """Zero-based blocks whose outputs are probed: the ends of four equal parts (2, 5, 8, 11 of 12; paper, section 5.1)."""
    if depth < 4:
        raise InputError(f"a ViT of depth {depth} has no four layers to probe; the least depth is 4")
    return [round((quarter + 1) * depth / 4) - 1 for quarter in range(4)]


class ImageTextEncoder(Encoder):
    """An image tower and a text tower with one embedding space; at full size exactly MedImageInsight's 601 tensors."""

    has_text = True

    def __init__(
        self,
        family: str,
        image_config: DaViTConfig | ViTConfig,
        text_config: TextEncoderConfig,
        embedding_dim: int,
        preprocessing: Preprocessing,
    ) -> None:
        super().__init__()
        self.family = family
        self.preprocessing = preprocessing
        self.embedding_dim = embedding_dim
        self.image_encoder: DaViT | VisionTransformer
        if isinstance(image_config, DaViTConfig):
            self.image_encoder = DaViT(image_config)
            self.feature_channels = list(image_config.widths)
        else:
            self.image_encoder = VisionTransformer(image_config)
            self.feature_channels = [image_config.width] * 4
        self.lang_encoder = TextEncoder(text_config)
        self.image_projection = nn.Parameter(torch.zeros(self.feature_channels[-1], embedding_dim))
        self.lang_projection = nn.Parameter(torch.zeros(text_config.width, embedding_dim))
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.tokenizer = ClipTokenizer(text_config.context_length)

    def reset_text(self, generator: torch.Generator) -> None:
        """Random start of everything but the image tower."""
        self.lang_encoder.reset_parameters(generator)
        nn.init.trunc_normal_(self.image_projection, std=0.02, generator=generator)
        nn.init.trunc_normal_(self.lang_projection, std=0.02, generator=generator)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        self.image_encoder.activation_checkpointing = enabled
        self.lang_encoder.activation_checkpointing = enabled

    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        if isinstance(self.image_encoder, DaViT):
            return self.image_encoder.forward_features(pixels)
        return self.image_encoder.forward_features(pixels, four_blocks(self.image_encoder.config.depth))

    def encode_image(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if isinstance(self.image_encoder, DaViT):
            pooled = self.image_encoder.forward_pooled(pixels, generator)
        else:
            pooled = self.image_encoder.forward_tokens(pixels, None, generator)["cls"]
        return F.normalize(pooled @ self.image_projection.to(pooled.dtype), dim=-1)

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask -> (B, D), L2-normalised."""
        pooled = self.lang_encoder(input_ids, attention_mask)
        return F.normalize(pooled @ self.lang_projection.to(pooled.dtype), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        input_ids, attention_mask = self.tokenizer(texts)
        device = self.image_projection.device
        return self.encode_tokens(input_ids.to(device), attention_mask.to(device))

    def config_dict(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "architecture": {
                "image": asdict(self.image_encoder.config),
                "text": asdict(self.lang_encoder.config),
                "embedding_dim": self.embedding_dim,
            },
            "preprocessing": asdict(self.preprocessing),
        }


def make_encoder(config: Mapping[str, Any]) -> Encoder:
    """The modules that a `config_dict()` describes, with uninitialised weights (to be loaded, or see `build_encoder`).

    Raises:
        InputError: for an unknown family or a key that an architecture does not have.
    """
    family = config.get("family")
    architecture = dict(config.get("architecture", {}))
    preprocessing = preprocessing_from_dict(config.get("preprocessing", {}))
    if family == "vit":
        return ViTEncoder(_from_dict(ViTConfig, architecture), preprocessing)
    if family in ("davit", "vit_text"):
        image_class = DaViTConfig if family == "davit" else ViTConfig
        return ImageTextEncoder(
            family,
            _from_dict(image_class, architecture.get("image", {})),
            _from_dict(TextEncoderConfig, architecture.get("text", {})),
            int(architecture.get("embedding_dim", 1024)),
            preprocessing,
        )
    raise InputError(f"encoder family {family!r} is not known; allowed: vit, davit, vit_text")


def preprocessing_from_dict(values: Mapping[str, Any]) -> Preprocessing:
    """The inverse of `asdict`; raises InputError for a key that there is not."""
    result: Preprocessing = _from_dict(Preprocessing, values)
    return result


def _from_dict(cls: Any, values: Mapping[str, Any]) -> Any:
    unknown = set(values) - set(cls.__dataclass_fields__)
    if unknown:
        raise InputError(f"{cls.__name__} has no '{sorted(unknown)[0]}'; allowed: {', '.join(cls.__dataclass_fields__)}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def build_encoder(config: Mapping[str, Any], seed: int) -> Encoder:
    """A randomly initialised encoder; the same seed gives the same weights, and no global random state is touched."""
    # Constructors of torch draw from the global generator before ours overwrites what they drew.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = make_encoder(config)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(encoder, ViTEncoder):
        encoder.backbone.reset_parameters(generator)
    elif isinstance(encoder, ImageTextEncoder):
        encoder.image_encoder.reset_parameters(generator)
        encoder.reset_text(generator)
    return encoder


def add_text_tower(vit: ViTEncoder, text_config: TextEncoderConfig, embedding_dim: int, seed: int) -> ImageTextEncoder:
    """A ViT encoder with a fresh text tower, so that CLIP or UniCL can continue weights that came without one."""
    config = vit.config_dict()
    architecture = {"image": config["architecture"], "text": asdict(text_config), "embedding_dim": embedding_dim}
    encoder = build_encoder({**config, "family": "vit_text", "architecture": architecture}, seed)
    assert isinstance(encoder, ImageTextEncoder)
    encoder.image_encoder.load_state_dict(vit.backbone.state_dict())
    return encoder
