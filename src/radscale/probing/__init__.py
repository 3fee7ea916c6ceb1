"""Probing of frozen encoders: features, attention-pooled classifiers, prediction tables (paper, section 5.1).

May import datasets, training, analysis, models, metrics and `radscale.errors`; no other stage.
"""

from radscale.probing.classifier import AttentionProbe, ProbeShape, StackedProbe, predict, train_probe
from radscale.probing.config import ProbeConfig
from radscale.probing.embedding import EmbeddingConfig, embed_images, run_embedding, zero_shot_scores
from radscale.probing.probe import run_probing
from radscale.probing.task_sets import DISPLAY_NAMES, TASK_SETS, display_name, resolve_tasks

__all__ = [
    "DISPLAY_NAMES",
    "TASK_SETS",
    "AttentionProbe",
    "EmbeddingConfig",
    "ProbeConfig",
    "ProbeShape",
    "StackedProbe",
    "display_name",
    "embed_images",
    "predict",
    "resolve_tasks",
    "run_embedding",
    "run_probing",
    "train_probe",
    "zero_shot_scores",
]
