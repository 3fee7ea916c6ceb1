"""CLIP's byte-pair tokenizer (vocabulary of 49,408, from the package instant-clip-tokenizer)."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

BEGIN_OF_TEXT, END_OF_TEXT = 49406, 49407
NUM_BYTE_TOKENS = 512
"""Every byte, alone and at the end of a word; merges follow in their order, then begin and end of text."""
WHITE_SPACE = re.compile(r"[^\S\x1c-\x1f]+")  # Python alone takes the four separators for white space
SEPARATORS = re.compile(r"[\x1c-\x1f]")


@cache
def _byte_pair_encoder() -> Any:
    from instant_clip_tokenizer import Tokenizer

    return Tokenizer()


def normalise(text: str) -> str:
    """As published: composed characters, single spaces, lower case letter by letter (no final sigma)."""
    text = WHITE_SPACE.sub(" ", unicodedata.normalize("NFC", text))
    return text.lower() if text.isascii() else "".join(letter.lower() for letter in text)


@lru_cache(maxsize=1 << 16)
def _encode_word(word: str) -> tuple[int, ...]:
    return tuple(_byte_pair_encoder().encode(normalise(word)))


class ClipTokenizer:
    """Texts to token ids as MedImageInsight reads them: begin, at most `context_length - 2` tokens, end."""

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without begin and end, untruncated; case and runs of white space do not matter.

        The names of the special tokens are words like others: a report cannot end its own text.
        """
        if SEPARATORS.search(text):
            return list(_byte_pair_encoder().encode(normalise(text)))
        # No merge crosses white space, and reports repeat their words: most come from the cache.
        return list(chain.from_iterable(map(_encode_word, text.split())))

    def num_truncated(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the context."""
        return sum(len(self.encode(text)) > self.context_length - 2 for text in texts)

    def difference_from(self, ids: Mapping[str, int], merges: Sequence[str]) -> str | None:
        """What a tokenizer folder (vocab.json, lines of merges.txt) has otherwise than CLIP, in words; None if nothing.

        Words end in `</w>` there.
        """
        merges = [line for line in merges if line and not line.startswith("#version")]
        expected = BEGIN_OF_TEXT - NUM_BYTE_TOKENS
        if len(merges) != expected:
            return f"{len(merges):,} merges instead of {expected:,}"
        special = {"<|startoftext|>": BEGIN_OF_TEXT, "<|endoftext|>": END_OF_TEXT}
        joined = {"".join(line.split(" ")): NUM_BYTE_TOKENS + rank for rank, line in enumerate(merges)}
        for token, number in {**joined, **special}.items():
            if ids.get(token) != number:
                return f"{token!r} has id {ids.get(token)} instead of {number}"
        if len(ids) != END_OF_TEXT + 1:
            return f"{len(ids):,} entries"
        # The carried vocabulary shows its tokens only as text; those of plain letters are compared with it.
        decode = _byte_pair_encoder().decode
        for token, number in joined.items():
            text = token.removesuffix("</w>")
            if text.isascii() and text.isalnum() and decode([number]).strip() != text:
                return f"{number} is {token!r} instead of {decode([number])!r}"
        return None

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
