"""DaViT, the dual-attention vision transformer of MedImageInsight (Ding et al., 2022), with MedImageInsight's names.

Four stages; each begins with a strided convolution and then repeats a spatial (window attention) and a channel attention
block. B = images, N = tokens, C = channels, h, w = rows and columns of tokens.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.models.recomputation import recompute
from radscale.models.stochastic_depth import draw_uniform

KERNELS, STRIDES, PADDINGS = (7, 3, 3, 3), (4, 2, 2, 2), (3, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class DaViTConfig:
    """Sizes of a DaViT. The defaults are MedImageInsight's (360.6M parameters)."""

    depths: tuple[int, ...] = (1, 1, 9, 1)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    num_heads: tuple[int, ...] = (8, 16, 32, 64)
    """Heads of the window attention and groups of the channel attention, per stage."""
    window_size: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.2
    """Rate of the last attention block; earlier ones rise linearly from 0 (24 rates at full size)."""

    def __post_init__(self) -> None:
        lengths = {len(self.depths), len(self.widths), len(self.num_heads)}
        if lengths != {4}:
            raise InputError(f"DaViT needs 4 depths, widths and num_heads, got lengths {sorted(lengths)}")
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise InputError(f"DaViT width {width} is not a multiple of its num_heads {heads}; change one")


class DropPath(nn.Module):
    """Per-image stochastic depth."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = draw_uniform(x.shape[0], generator).ge(self.rate).to(x)
        return x * (kept / (1 - self.rate)).view(-1, *[1] * (x.ndim - 1))


class DepthwiseConv(nn.Module):
    """3 x 3 depth-wise convolution added to its input: the only source of position in DaViT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"dw": nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)})

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, size)
        return x + self.fn["dw"](image).flatten(2).transpose(1, 2)


class WindowAttention(nn.Module):
    """Attention inside windows of window_size x window_size tokens."""

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        B, _, C = x.shape
        (h, w), side = size, self.window_size
        bottom, right = -h % side, -w % side
        # Padding is not masked: padded tokens (zeros after the norm) take part with q = k = v = bias, as in the original.
        x = F.pad(x.view(B, h, w, C), (0, 0, 0, right, 0, bottom))
        rows, columns = (h + bottom) // side, (w + right) // side
        x = x.view(B, rows, side, columns, side, C).transpose(2, 3).reshape(-1, side * side, C)
        q, k, v = self.qkv(x).view(-1, side * side, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, side * side, C)
        x = self.proj(x).view(B, rows, columns, side, side, C).transpose(2, 3)
        return x.reshape(B, h + bottom, w + right, C)[:, :h, :w].reshape(B, h * w, C)


class ChannelAttention(nn.Module):
    """Attention between the channels of a group, with tokens as features; scaled by the number of tokens."""

    def __init__(self, width: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_groups, C // self.num_groups).permute(2, 0, 3, 4, 1)
        x = F.scaled_dot_product_attention(q, k, v, scale=N**-0.5)
        return self.proj(x.permute(0, 3, 1, 2).reshape(B, N, C))


class Residual(nn.Module):
    """LayerNorm, function, stochastic depth, addition."""

    def __init__(self, width: int, function: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = function
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *arguments: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return x + self.drop_path(self.fn(self.norm(x), *arguments), generator)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["fc2"](F.gelu(self.net["fc1"](x)))


class SpatialBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, window_size: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv(width)
        self.window_attn = Residual(width, WindowAttention(width, num_heads, window_size), drop_path)
        self.conv2 = DepthwiseConv(width)
        self.ffn = Residual(width, FeedForward(width, int(width * mlp_ratio)), drop_path)

    def forward(self, x: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        x = self.window_attn(self.conv1(x, size), size, generator=generator)
        return self.ffn(self.conv2(x, size), generator=generator)


class ChannelBlock(nn.Module):
    def __init__(self, width: int, num_groups: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv(width)
        self.channel_attn = Residual(width, ChannelAttention(width, num_groups), drop_path)
        self.conv2 = DepthwiseConv(width)
        self.ffn = Residual(width, FeedForward(width, int(width * mlp_ratio)), drop_path)

    def forward(self, x: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        x = self.channel_attn(self.conv1(x, size), size, generator=generator)
        return self.ffn(self.conv2(x, size), generator=generator)


class DualBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, config: DaViTConfig, drop_paths: tuple[float, float]) -> None:
        super().__init__()
        self.spatial_block = SpatialBlock(width, num_heads, config.window_size, config.mlp_ratio, drop_paths[0])
        self.channel_block = ChannelBlock(width, num_heads, config.mlp_ratio, drop_paths[1])

    def forward(self, x: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        return self.channel_block(self.spatial_block(x, size, generator), size, generator)


class ConvEmbed(nn.Module):
    """Strided convolution; the first stage normalises after it, the others before."""

    def __init__(self, stage: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_first = stage > 0
        self.proj = nn.Conv2d(in_channels, out_channels, KERNELS[stage], STRIDES[stage], PADDINGS[stage])
        self.norm = nn.LayerNorm(in_channels if self.norm_first else out_channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        if self.norm_first:
            x = self.norm(x)
        image = self.proj(x.transpose(1, 2).unflatten(2, size))
        x = image.flatten(2).transpose(1, 2)
        return (x if self.norm_first else self.norm(x)), (image.shape[-2], image.shape[-1])


def _run_blocks(blocks: nn.Module, size: tuple[int, int], x: Tensor, generator: torch.Generator | None) -> Tensor:
    for block in blocks.children():
        x = block(x, size, generator)
    return x


class DaViT(nn.Module):
    """See the module's docstring. Any image size; maps have ceil(size / 4), then ceil(/ 2) per stage, rows and columns."""

    def __init__(self, config: DaViTConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        total = 2 * sum(config.depths)
        rates = [config.drop_path * index / max(total - 1, 1) for index in range(total)]
        self.convs = nn.ModuleList()
        self.blocks = nn.ModuleList()
        in_channels, position = 3, 0
        for stage, (depth, width, heads) in enumerate(zip(config.depths, config.widths, config.num_heads, strict=True)):
            self.convs.append(ConvEmbed(stage, in_channels, width))
            blocks = nn.ModuleList()
            for _ in range(depth):
                blocks.append(DualBlock(width, heads, config, (rates[position], rates[position + 1])))
                position += 2
            self.blocks.append(blocks)
            in_channels = width
        self.norms = nn.LayerNorm(config.widths[-1])

    def reset_parameters(self, generator: torch.Generator) -> None:
        """MedImageInsight's random start: std .02 (linear layers truncated), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _stages(self, pixels: Tensor, generator: torch.Generator | None) -> list[tuple[Tensor, tuple[int, int]]]:
        size = (pixels.shape[-2], pixels.shape[-1])
        x = pixels.flatten(2).transpose(1, 2)
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        outputs = []
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x, size = conv(x, size)
            run_stage = partial(_run_blocks, blocks, size)
            x = recompute(run_stage, x, generator) if recomputes else run_stage(x, generator)
            outputs.append((x, size))
        return outputs

    def forward_features(self, pixels: Tensor) -> list[Tensor]:
        """Outputs of the four stages as maps (B, C, h, w); no norm is applied to them."""
        return [x.transpose(1, 2).unflatten(2, size) for x, size in self._stages(pixels, None)]

    def forward_pooled(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, C) mean of the last stage's tokens, normalised."""
        x, _ = self._stages(pixels, generator)[-1]
        return self.norms(x.mean(dim=1))
