"""Text encoder of MedImageInsight: a bidirectional CLIP-style transformer, with MedImageInsight's names."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from radscale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of the text encoder. The defaults are MedImageInsight's (252.2M parameters)."""

    width: int = 1024
    depth: int = 16
    num_heads: int = 16
    context_length: int = 77
    vocabulary_size: int = 49408

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InputError(f"text width {self.width} is not a multiple of num_heads {self.num_heads}; change one")


class LayerNorm32(nn.LayerNorm):
    """LayerNorm in float32 with MedImageInsight's epsilon, whatever the precision around it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(3 * width, width), std=0.02))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, L, D = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(B, L, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).reshape(B, L, D))


class TextMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))  # QuickGELU


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, num_heads)
        self.ln_1 = LayerNorm32(width)
        self.mlp = TextMlp(width)
        self.ln_2 = LayerNorm32(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nn.Module):
    """Tokens in, the hidden state at the end-of-text token out."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(config.width, config.num_heads) for _ in range(config.depth))
        self.ln_final = LayerNorm32(config.width)

    def reset_parameters(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) token ids and mask (1 = token, 0 = padding) -> (B, width).

        Attention is bidirectional, padding is hidden, positions are absolute: trimming the padding changes nothing. The
        first occurrence of the largest id is the end of the text (49407 also pads).
        """
        x = self.token_embedding(input_ids)
        x = x + self.positional_embedding[: input_ids.shape[1]].to(x.dtype)
        mask = attention_mask.bool()[:, None, None, :]
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.resblocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if recomputes else block(x, mask)
        x = self.ln_final(x)
        return x[torch.arange(x.shape[0], device=x.device), input_ids.argmax(dim=1)]
