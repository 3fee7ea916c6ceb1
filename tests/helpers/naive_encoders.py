"""Encoders written once more from their description, one window, head and text at a time: slow, and plain."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from radscale.models import DaViTConfig, TextEncoderConfig


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Over the last axis, biased variance, epsilon 1e-5."""
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def _windows(state: dict[str, Tensor], name: str, x: Tensor, heads: int, side: int) -> Tensor:
    """One window and one head at a time, for x of shape (h, w, C)."""
    h, w, C = x.shape
    d = C // heads
    padded = torch.zeros(math.ceil(h / side) * side, math.ceil(w / side) * side, C, dtype=x.dtype)
    padded[:h, :w] = x
    out = torch.zeros_like(padded)
    for i in range(0, padded.shape[0], side):
        for j in range(0, padded.shape[1], side):
            qkv = _linear(state, f"{name}.qkv", padded[i : i + side, j : j + side].reshape(-1, C))
            results = []
            for head in range(heads):
                q, k, v = (qkv[:, part * C + head * d : part * C + (head + 1) * d] for part in range(3))
                results.append((q @ k.T / d**0.5).softmax(1) @ v)
            out[i : i + side, j : j + side] = _linear(state, f"{name}.proj", torch.cat(results, 1)).reshape(side, side, C)
    return out[:h, :w]


def _channels(state: dict[str, Tensor], name: str, x: Tensor, groups: int, _: int) -> Tensor:
    h, w, C = x.shape
    tokens, d = x.reshape(-1, C), C // groups
    qkv = _linear(state, f"{name}.qkv", tokens)
    results = []
    for group in range(groups):
        q, k, v = (qkv[:, part * C + group * d : part * C + (group + 1) * d] for part in range(3))
        attention = ((q * len(tokens) ** -0.5).T @ k).softmax(-1)
        results.append((attention @ v.T).T)
    return _linear(state, f"{name}.proj", torch.cat(results, 1)).reshape(h, w, C)


def naive_davit(state: dict[str, Tensor], image: Tensor, config: DaViTConfig) -> tuple[list[Tensor], Tensor]:
    """(3, H, W) -> four maps (C, h, w) and the pooled, normalised vector; names without `image_encoder.`."""

    def conv(name: str, x: Tensor, **arguments: int) -> Tensor:
        x = F.conv2d(x.permute(2, 0, 1)[None], state[f"{name}.weight"], state[f"{name}.bias"], **arguments)
        return x[0].permute(1, 2, 0)

    x, maps = image.permute(1, 2, 0), []
    for stage in range(4):
        if stage > 0:
            x = _norm(state, f"convs.{stage}.norm", x)
        kernel = {"stride": 4, "padding": 3} if stage == 0 else {"stride": 2, "padding": 1}
        x = conv(f"convs.{stage}.proj", x, **kernel)
        if stage == 0:
            x = _norm(state, "convs.0.norm", x)
        for block in range(config.depths[stage]):
            for kind, attention, function in (
                ("spatial_block", "window_attn", _windows),
                ("channel_block", "channel_attn", _channels),
            ):
                name, C = f"blocks.{stage}.{block}.{kind}", x.shape[-1]
                x = x + conv(f"{name}.conv1.fn.dw", x, padding=1, groups=C)
                inner = _norm(state, f"{name}.{attention}.norm", x)
                x = x + function(state, f"{name}.{attention}.fn", inner, config.num_heads[stage], config.window_size)
                x = x + conv(f"{name}.conv2.fn.dw", x, padding=1, groups=C)
                inner = _linear(state, f"{name}.ffn.fn.net.fc1", _norm(state, f"{name}.ffn.norm", x))
                inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
                x = x + _linear(state, f"{name}.ffn.fn.net.fc2", inner)
        maps.append(x.permute(2, 0, 1))
    return maps, _norm(state, "norms", x.mean((0, 1)))


def naive_text(state: dict[str, Tensor], ids: list[int], config: TextEncoderConfig) -> Tensor:
    """One text without padding, one head at a time, in double precision; names without `lang_encoder.`."""

    def norm(name: str, x: Tensor) -> Tensor:
        x = x.float()  # MedImageInsight's LayerNorm computes in float32
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
        return (x.double() * state[f"{name}.weight"] + state[f"{name}.bias"]).double()

    def linear(name: str, x: Tensor) -> Tensor:
        return _linear(state, name, x)

    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: len(ids)]
    D, d = config.width, config.width // config.num_heads
    for layer in range(config.depth):
        name = f"resblocks.{layer}"
        qkv = norm(f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        heads = []
        for head in range(config.num_heads):
            q, k, v = (qkv[:, part * D + head * d : part * D + (head + 1) * d] for part in range(3))
            heads.append((q @ k.T / d**0.5).softmax(1) @ v)
        x = x + linear(f"{name}.attn.out_proj", torch.cat(heads, 1))
        hidden = linear(f"{name}.mlp.c_fc", norm(f"{name}.ln_2", x))
        x = x + linear(f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    return norm("ln_final", x)[ids.index(49407)]
