"""CLIP's tokenizer against transformers' CLIPTokenizer."""

import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from radscale.models import ClipTokenizer
from radscale.models.tokenizer import _byte_pair_encoder
from radscale.training.open_weights import check_tokenizer

transformers = pytest.importorskip("transformers")
FOLDER = Path(os.environ.get("RADSCALE_CLIP_TOKENIZER", "clip_tokenizer"))
NUM_TOKENS, NUM_BYTE_TOKENS, BEGIN = 49408, 512, 49406
TEXTS = [
    "x-ray chest anteroposterior Pneumonia",
    "ETT tip 3.5cm above the carina; NG-tube's side port  in\tthe stomach.\r\nNo pneumothorax (<2cm).",
    "don't, they're, I'll, we've, he'd, I'm",
    "under_score__x 1234567 12:30 -- /path/to c++ #1 @x",
    "",
    "   ",
    "a" * 400,
    "!?" * 100,
]


def ascii_folder(path: Path) -> Path:
    """CLIP's tokenizer in its published files, as far as tokens are plain text: rebuilt from the package that carries it.

    A token of rank r is one merge of two earlier ones; which two, its own merges before r say.
    """
    decode = _byte_pair_encoder().decode
    letters = [decode([index]) for index in range(256)]
    symbols = [letter if letter.isascii() and letter.isprintable() else f"<{index}>" for index, letter in enumerate(letters)]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    ranks: dict[tuple[str, str], int] = {}
    merges: list[str] = []
    for index in range(NUM_BYTE_TOKENS, BEGIN):
        text = decode([index])
        token = text.rstrip(" ") + ("</w>" if text.endswith(" ") else "")
        word = text.rstrip(" ")
        if not (word.isascii() and word.isprintable() and word):
            vocabulary.append(f"<{index}>")
            continue
        parts = [*word]
        if token.endswith("</w>"):
            parts[-1] += "</w>"
        while len(parts) > 2:
            pairs = [ranks.get((a, b), NUM_TOKENS) for a, b in pairwise(parts)]
            best = pairs.index(min(pairs))
            assert pairs[best] < NUM_TOKENS, f"{token} cannot be built"
            first = (parts[best], parts[best + 1])
            merged, position = [], 0
            while position < len(parts):
                if tuple(parts[position : position + 2]) == first:
                    merged.append("".join(first))
                    position += 2
                else:
                    merged.append(parts[position])
                    position += 1
            parts = merged
        ranks[parts[0], parts[1]] = index
        merges.append(" ".join(parts))
        vocabulary.append(token)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    assert len(vocabulary) == NUM_TOKENS
    assert len(set(vocabulary)) == NUM_TOKENS
    (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.CLIPTokenizer.from_pretrained(ascii_folder(tmp_path_factory.mktemp("clip")))


def compare(reference: Any, texts: list[str]) -> None:
    tokenizer = ClipTokenizer()
    expected = reference(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    ids, mask = tokenizer(texts)
    assert mask.tolist() == expected["attention_mask"].tolist()
    for text, row, other, length in zip(texts, ids, expected["input_ids"], mask.sum(1), strict=True):
        assert row[:length].tolist() == other[:length].tolist(), text


def test_reports_and_odd_texts(reference: Any) -> None:
    compare(reference, TEXTS)


def test_random_plain_texts(reference: Any) -> None:
    rng = random.Random(0)
    words = ["effusion", "PICC", "svc", "3.5", "mm", "'s", "n't", "--", "(", "...", "endotracheal", "\n", "\t", "  "]
    texts = []
    for _ in range(3000):
        letters = [chr(rng.randint(32, 126)) for _ in range(rng.randint(0, 12))]
        texts.append("".join(rng.choice([*letters, *words, " "]) for _ in range(rng.randint(1, 12))))
    compare(reference, texts)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="set RADSCALE_CLIP_TOKENIZER to a folder with CLIP's vocab.json and merges.txt")
def test_any_script_with_the_published_files() -> None:
    """Letters younger than Python's Unicode tables are left out: their case and order are not known to it."""
    check_tokenizer(FOLDER)
    rng = random.Random(0)
    ranges = [
        (32, 126),
        (32, 0x24F),
        (0x370, 0x3FF),
        (0x400, 0x4FF),
        (0x590, 0x5FF),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0, 0x20),
    ]
    texts = [*TEXTS, "Émphysème à l'apex", "e\u0301", "İstanbul ΣΑΣ", "ﬁbrosis 10µm ½", "胸部 X線", "😀", "a\u00a0b\x1cc"]
    texts += ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 12))) for _ in range(5000)]
    compare(transformers.CLIPTokenizer.from_pretrained(FOLDER), texts)
