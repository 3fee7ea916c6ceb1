"""What the text tower reads: reports and label names, each with the view position in front (paper, section 5)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radscale.datasets.views import view_word
from radscale.pretraining.config import TextOptions


def view_prefix(view_position: str, view: str) -> str:
    """`x-ray chest anteroposterior`, in the style that MedImageInsight was trained with."""
    return f"x-ray chest {view_word(view_position, view)}".strip()


def report_text(sections: Mapping[str, str], options: TextOptions) -> str:
    """Sections in the configured order, or the whole text if none of them is filled; empty without a report."""
    parts = [sections[name].strip() for name in options.sections if sections.get(name, "").strip()]
    return " ".join(parts) if parts else sections.get("text", "").strip()


def label_text(tasks: Collection[str], names: Mapping[str, str]) -> str:
    """Names of the positive tasks in a fixed order: equal sets give equal texts."""
    return ", ".join(names[task] for task in names if task in tasks)


@dataclass(frozen=True)
class TrainingRows:
    """One row per image and text; an image has up to two (its report, its labels)."""

    image: np.ndarray
    """(R,) index into the subset's images."""
    text: list[str]
    label: np.ndarray
    """(R,) 0 for a report (a pair of its own), else the class id of the text, from 1."""


def training_rows(
    reports: Sequence[str], labels: Sequence[str], prefixes: Sequence[str], *, identical_texts_are_positives: bool
) -> TrainingRows:
    """Rows of a subset: each image once with its report and once with its label text, where it has them.

    Args:
        reports: per image, empty if it has none.
        labels: per image, empty if it has none (or for CLIP).
        prefixes: per image, put in front of every text.
        identical_texts_are_positives: give equal reports one class instead of treating them as negatives.
    """
    texts = [(i, reports[i], False) for i in range(len(reports)) if reports[i]]
    texts += [(i, labels[i], True) for i in range(len(labels)) if labels[i]]
    full = [f"{prefixes[i]} {text}".strip() for i, text, _ in texts]
    shares_class = [is_label or identical_texts_are_positives for _, _, is_label in texts]
    ids = {text: 1 + n for n, text in enumerate(sorted({t for t, shares in zip(full, shares_class, strict=True) if shares}))}
    return TrainingRows(
        image=np.array([i for i, _, _ in texts], dtype=np.int64),
        text=full,
        label=np.array([ids[t] if shares else 0 for t, shares in zip(full, shares_class, strict=True)], dtype=np.int64),
    )
