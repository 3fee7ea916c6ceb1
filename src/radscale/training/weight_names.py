"""Names of the same tensors in the formats that publishers use. Pure functions: state dict in, state dict out.

Ours are the publishers' own: DINOv2's for a ViT, MedImageInsight's for a DaViT with its text encoder.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

# (ours, Hugging Face's), block by block. transformers renamed its modules, but writes these names into files.
OUTER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
INSIDE_A_BLOCK = {
    "attn.proj.": "attention.output.dense.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
ROLES = ("query", "key", "value")
BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
LAYER = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")
PART_OF_QKV = re.compile(r"^attention\.attention\.(query|key|value)\.(weight|bias)$")
CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")


def to_huggingface(state: Mapping[str, Tensor]) -> State:
    """DINOv2's names to those of a Hugging Face file; `attn.qkv` is split into query, key and value (views, no copies)."""
    renamed: State = {}
    for name, tensor in state.items():
        match = BLOCK.match(name)
        if match is None:
            renamed[OUTER[name]] = tensor
            continue
        index, rest = match.groups()
        layer = f"encoder.layer.{index}."
        if rest.startswith("attn.qkv."):
            kind = rest.removeprefix("attn.qkv.")
            for role, part in zip(ROLES, tensor.chunk(3), strict=True):
                renamed[f"{layer}attention.attention.{role}.{kind}"] = part
        else:
            for ours, theirs in INSIDE_A_BLOCK.items():
                rest = rest.replace(ours, theirs) if rest.startswith(ours) else rest
            renamed[layer + rest] = tensor
    return renamed


def from_huggingface(state: Mapping[str, Tensor]) -> State:
    """The other way; names that are DINOv2's own stay. An incomplete query, key, value shows up as a missing tensor."""
    outer = {theirs: ours for ours, theirs in OUTER.items()}
    renamed: State = {}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        name = name.removeprefix("dinov2.").removeprefix("dinov2_with_registers.")
        match = LAYER.match(name)
        if match is None:
            renamed[outer.get(name, name)] = tensor
            continue
        index, rest = match.groups()
        if part := PART_OF_QKV.match(rest):
            role, kind = part.groups()
            parts.setdefault(f"blocks.{index}.attn.qkv.{kind}", {})[role] = tensor
            continue
        for ours, theirs in INSIDE_A_BLOCK.items():
            rest = rest.replace(theirs, ours) if rest.startswith(theirs) else rest
        renamed[f"blocks.{index}.{rest}"] = tensor
    for name, roles in parts.items():
        if set(roles) == set(ROLES):
            renamed[name] = torch.cat([roles[role] for role in ROLES])
    return renamed


def from_dinov2_training(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """Backbone and DINO head of a training dump: prefixes off, and the chunk number that FSDP puts before a block's number."""
    backbone: State = {}
    head: State = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith("dino_head."):
            head[name.removeprefix("dino_head.")] = tensor
        elif not name.startswith("ibot_head."):
            backbone[CHUNKED_BLOCK.sub(r"blocks.\1.", name.removeprefix("backbone."))] = tensor
    return backbone, head


def head_names(state: Mapping[str, Tensor]) -> State:
    """A DINO head's names: torch's new weight normalisation calls the two parts of the last layer otherwise."""
    new_style = "last_layer.parametrizations.weight.original"
    renamed = {f"{new_style}0": "last_layer.weight_g", f"{new_style}1": "last_layer.weight_v"}
    return {renamed.get(name, name): tensor for name, tensor in state.items()}


def from_older_medimageinsight(state: Mapping[str, Tensor]) -> State:
    """Names of older MedImageInsight files, which its own loader accepts too, to the present ones."""
    return {_present_medimageinsight_name(name): tensor for name, tensor in state.items()}


def _present_medimageinsight_name(name: str) -> str:
    for old, new in (("visual.", "image_encoder."), ("text.", "lang_encoder.")):
        if name.startswith(old):
            name = new + name.removeprefix(old)
    if name.startswith("image_encoder."):
        name = name.replace(".conv_embeds.", ".convs.").replace(".main_blocks.", ".blocks.")
    return {"vision_projection": "image_projection", "text_projection": "lang_projection"}.get(name, name)
