"""Encoders and heads as plain torch modules with the field's published names. Knows no files, ranks or run settings.

May import only torch, numpy and `radscale.errors`.
"""

from radscale.models.davit import DaViT, DaViTConfig
from radscale.models.dino_head import DinoHead
from radscale.models.encoder import (
    Encoder,
    ImageTextEncoder,
    Preprocessing,
    ViTEncoder,
    add_text_tower,
    build_encoder,
    make_encoder,
)
from radscale.models.similarity import patch_at, patch_similarity, visible_box
from radscale.models.text_encoder import TextEncoder, TextEncoderConfig
from radscale.models.tokenizer import ClipTokenizer
from radscale.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "ClipTokenizer",
    "DaViT",
    "DaViTConfig",
    "DinoHead",
    "Encoder",
    "ImageTextEncoder",
    "Preprocessing",
    "TextEncoder",
    "TextEncoderConfig",
    "ViTConfig",
    "ViTEncoder",
    "VisionTransformer",
    "add_text_tower",
    "build_encoder",
    "make_encoder",
    "patch_at",
    "patch_similarity",
    "visible_box",
]
