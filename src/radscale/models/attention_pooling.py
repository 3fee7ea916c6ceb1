"""Attention pooling: a learned query per task reduces the tokens of an image to one (paper, section 5.1)."""

import torch
from torch import Tensor, nn


def attention_pool(tokens: Tensor, queries: Tensor) -> Tensor:
    """Average the tokens with weights softmax(tokens . query / sqrt(D)), one average per query.

    Args:
        tokens: (B, N, D); they are keys and values at once.
        queries: (T, D).

    Returns:
        (B, T, D).
    """
    scores = tokens @ queries.T / tokens.shape[-1] ** 0.5
    return scores.softmax(dim=1).transpose(1, 2) @ tokens


class AttentionPooling(nn.Module):
    """`attention_pool` with a learned query for each of `num_tasks` tasks: (B, N, D) -> (B, T, D)."""

    def __init__(self, num_tasks: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(num_tasks, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return attention_pool(tokens, self.queries)
