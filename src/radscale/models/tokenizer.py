"""CLIP's byte-pair tokenizer (vocabulary of 49,408, from the package instant-clip-tokenizer)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

BEGIN_OF_TEXT, END_OF_TEXT = 49406, 49407


@cache
def _byte_pair_encoder() -> Any:
    from instant_clip_tokenizer import Tokenizer

    return Tokenizer()


class ClipTokenizer:
    """Texts to token ids as MedImageInsight reads them: begin, at most `context_length - 2` tokens, end."""

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without begin and end, untruncated; case and runs of white space do not matter."""
        return list(_byte_pair_encoder().encode(" ".join(text.split())))

    def num_truncated(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the context."""
        return sum(len(self.encode(text)) > self.context_length - 2 for text in texts)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, L) int64 ids and mask, padded with the end token to the longest text; the head of a long text is kept."""
        rows = [[BEGIN_OF_TEXT, *self.encode(text)[: self.context_length - 2], END_OF_TEXT] for text in texts]
        return pad_tokens(rows)


def pad_tokens(rows: Sequence[Sequence[int]], padding: int = END_OF_TEXT) -> tuple[Tensor, Tensor]:
    """Token rows of different lengths as (B, L) ids and mask (1 = token, 0 = padding)."""
    length = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), length), padding, dtype=torch.int64)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        attention_mask[index, : len(row)] = 1
    return input_ids, attention_mask
