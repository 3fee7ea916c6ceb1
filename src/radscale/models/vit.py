"""Vision transformer of the DINOv2 family, with DINOv2's state-dict names (Oquab et al., 2024; RAD-DINO is a ViT-B/14).

B = images, N = patches, D = width, H = heads, h, w = rows and columns of patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.models.recomputation import recompute
from radscale.models.stochastic_depth import draw_subset

Interpolation = Literal["offset0.1", "size", "size_antialias"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a ViT. The defaults are RAD-DINO's (ViT-B/14 at 518 px)."""

    image_size_px: int = 518
    """Image size for which the position table was made; other sizes interpolate it."""
    patch_size_px: int = 14
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_registers: int = 0
    layerscale_init: float = 1e-5
    drop_path: float = 0.0
    """Share of the images of a batch whose residual branch is skipped, the same in every block (DINOv2: 0.3)."""
    interpolation: Interpolation = "offset0.1"
    """How the position table is resized: DINOv2's training rule, transformers' ("size"), or timm's ("size_antialias")."""
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InputError(f"ViT width {self.width} is not a multiple of num_heads {self.num_heads}; change one")
        if self.image_size_px % self.patch_size_px:
            raise InputError(
                f"ViT image_size_px {self.image_size_px} is not a multiple of patch_size_px {self.patch_size_px}; change one"
            )

    @property
    def table_side(self) -> int:
        return self.image_size_px // self.patch_size_px


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.drop_path = config.drop_path
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = Attention(config.width, config.num_heads)
        self.ls1 = LayerScale(config.width, config.layerscale_init)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.ls2 = LayerScale(config.width, config.layerscale_init)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.training and self.drop_path > 0:
            x = self._add_to_some(x, lambda y: self.ls1(self.attn(self.norm1(y))), generator)
            return self._add_to_some(x, lambda y: self.ls2(self.mlp(self.norm2(y))), generator)
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def _add_to_some(self, x: Tensor, branch: Callable[[Tensor], Tensor], generator: torch.Generator | None) -> Tensor:
        """Stochastic depth as DINOv2 trains with it: a random subset of the batch, so that skipped images cost nothing."""
        chosen, weight = draw_subset(x.shape[0], 1 - self.drop_path, generator)
        if not len(chosen):
            return x
        chosen = chosen.to(x.device)
        return torch.index_add(x, 0, chosen, branch(x[chosen]).to(x.dtype), alpha=weight)


class PatchEmbed(nn.Module):
    def __init__(self, patch_size_px: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size_px, stride=patch_size_px)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """See the module's docstring. Pixels are (B, 3, height, width), sides multiples of the patch size."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        num_patches = config.table_side**2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, config.width))
        if config.num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_registers, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))
        self.patch_embed = PatchEmbed(config.patch_size_px, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """DINOv2's random start: truncated normal of std .02 (tokens 1e-6), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=generator)
        nn.init.normal_(self.cls_token, std=1e-6, generator=generator)
        if self.config.num_registers:
            nn.init.normal_(self.register_tokens, std=1e-6, generator=generator)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, D): the position table resized to a grid of patches."""
        side = self.config.table_side
        if (rows, columns) == (side, side):
            return self.pos_embed
        cls, table = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        table = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if self.config.interpolation == "offset0.1":
            # DINOv2 passes scale factors with 0.1 added against rounding; the factor itself then shifts the sampling grid.
            factors = ((rows + 0.1) / side, (columns + 0.1) / side)
            table = F.interpolate(table, scale_factor=factors, mode="bicubic", antialias=False)
        else:
            antialias = self.config.interpolation == "size_antialias"
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=antialias)
        table = table.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
        return torch.cat([cls, table.to(cls.dtype)], dim=1)

    def embed(self, pixels: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1 + registers + N, D) tokens; masked patches carry the mask token, before positions are added."""
        patch = self.config.patch_size_px
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        if pixels.shape[-2] % patch or pixels.shape[-1] % patch:
            raise InputError(f"image of {tuple(pixels.shape[-2:])} px: both sides must be multiples of the patch size {patch}")
        x = self.patch_embed(pixels)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token.to(x.dtype).unsqueeze(0), x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        x = x + self.position_embedding(rows, columns).to(x.dtype)
        if self.config.num_registers:
            registers = self.register_tokens.expand(x.shape[0], -1, -1).to(x.dtype)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        return x

    def forward_tokens(
        self, pixels: Tensor, masks: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tokens after the final norm: `cls` (B, D) and `patches` (B, N, D).

        Args:
            pixels: (B, 3, height, width), normalised as the weights expect.
            masks: (B, N) bool, true where a patch is hidden from the network.
            generator: of the stochastic depth in training.
        """
        x = self.embed(pixels, masks)
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = recompute(block, x, generator) if recomputes else block(x, generator)
        x = self.norm(x)
        return {"cls": x[:, 0], "patches": x[:, 1 + self.config.num_registers :]}

    def forward_features(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Raw outputs (no final norm) of the given zero-based blocks, as maps (B, D, h, w)."""
        if not all(0 <= index < len(self.blocks) for index in blocks):
            raise InputError(f"blocks {list(blocks)}: this ViT has blocks 0 to {len(self.blocks) - 1}")
        patch = self.config.patch_size_px
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        x = self.embed(pixels)
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in blocks:
                patches = x[:, 1 + self.config.num_registers :]
                maps[index] = patches.transpose(1, 2).unflatten(2, (rows, columns))
        return [maps[index] for index in blocks]
