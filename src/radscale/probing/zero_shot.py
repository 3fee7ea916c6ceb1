"""Zero-shot classification: images against label texts in the style that MedImageInsight was trained with.

The texts are "x-ray chest anteroposterior Pneumonia": modality, body part, view, finding. The scores are
softmax(exp(logit_scale) * image . text) over the given labels, as its publisher computes them. They sum to 1 over the labels,
so they say which of these labels fits best, not how probable a finding is; another list gives other scores.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from radscale.datasets.views import VIEW_WORDS
from radscale.errors import InputError
from radscale.models import Encoder
from radscale.models.encoder import ImageTextEncoder

PROMPT = "x-ray chest {view} {label}"
"""Prose such as "a chest X-ray showing pneumonia" or a bare label is what the publisher advises against."""


class ZeroShotClassifier:
    """Scores embeddings of images against labels.

    Args:
        encoder: with a text tower; texts are encoded on its device.
        labels: at least two, all different.
        prompt: text with `{label}` and, where the view matters, `{view}`.

    Raises:
        InputError: an encoder that reads images only, or labels or a prompt that cannot be used.
    """

    def __init__(self, encoder: Encoder, labels: Sequence[str], prompt: str = PROMPT) -> None:
        if not encoder.has_text:
            encoder.encode_text(list(labels))  # raises, and says what is wrong
        assert isinstance(encoder, ImageTextEncoder)
        if len(labels) < 2:
            raise InputError(
                f"labels: {len(labels)} given; scores are relative to the other labels, so give two or more, e.g. also 'normal'"
            )
        double = next((label for index, label in enumerate(labels) if label in labels[:index]), None)
        if double is not None:
            raise InputError(f"labels: '{double}' is given twice; give every label once")
        if "{label}" not in prompt:
            raise InputError(f"prompt '{prompt}': has no {{label}}; e.g. '{PROMPT}'")
        self.encoder, self.labels, self.prompt = encoder, list(labels), prompt
        self._texts: dict[str, Tensor] = {}

    def texts(self, view: str) -> list[str]:
        """What the encoder reads for images of a view (a word as of `view_word`, or empty)."""
        prompts = (self.prompt.replace("{view}", view).replace("{label}", label) for label in self.labels)
        return [" ".join(text.split()) for text in prompts]

    @torch.inference_mode()
    def scores(self, embeddings: Tensor, views: Sequence[str]) -> Tensor:
        """(B, D) L2-normalised embeddings and B words for views -> (B, labels) float32, rows sum to 1."""
        texts = torch.stack([self._encoded(view) for view in views])
        logits = self.encoder.logit_scale.float().exp() * torch.einsum("bd,bkd->bk", embeddings.float(), texts)
        return logits.softmax(dim=1)

    def _encoded(self, view: str) -> Tensor:
        if view not in self._texts:
            self._texts[view] = self.encoder.encode_text(self.texts(view)).float()
        return self._texts[view]


def read_labels(text: str) -> list[str]:
    """Labels of a text file (one a line, `#` starts a comment), or of the text itself (separated by commas).

    Raises:
        InputError: a file that is no text.
    """
    path = Path(text)
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"--labels {text}: not a UTF-8 text file; give one label a line") from None
        found = [line.partition("#")[0] for line in lines]
    else:
        if path.suffix in (".txt", ".csv") and "," not in text:
            raise InputError(f"--labels {text}: no such file; give a file with one label a line, or labels with commas")
        found = text.split(",")
    return [label for label in map(str.strip, found) if label]


def named_view(view: str) -> str | None:
    """The word for a view that a user names: AP, PA, lateral, frontal, none (no word); None for auto.

    Raises:
        InputError: another name.
    """
    words = {"auto": None, "none": "", "frontal": "frontal", **{name.lower(): word for name, word in VIEW_WORDS.items()}}
    if view.lower() not in words:
        raise InputError(f"view '{view}': choose among auto, none, frontal, AP, PA, lateral")
    return words[view.lower()]
