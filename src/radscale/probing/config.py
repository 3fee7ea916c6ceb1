"""Settings of a probe."""

import re
from dataclasses import dataclass
from typing import Literal

from radscale.errors import InputError

VIEWS = ("frontal", "lateral", "unknown")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe; the defaults are the paper's (section 5.1) or, where it is silent, ours.

    Exactly one of `tasks` and `task_sets` is given.
    """

    tasks: str | tuple[str, ...] | None = None
    """One task set, by name ("findings", "nih", ...: `task_sets`), "all", or task keys; written to predictions.parquet."""
    task_sets: dict[str, str | tuple[str, ...]] | None = None
    """Named task sets on the same features, each with probes of its own; written to predictions.NAME.parquet."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Paper: three seeds."""
    epochs: int = 25
    """Paper."""
    batch_size: int = 512
    """Paper."""
    min_steps: int = 100
    """Few images are cut into smaller batches, so that training takes at least so many steps: 25 epochs of one batch each end
    before they have learned. On real X-rays and DINOv2 features, mean AUROC of validation patients with 25, 100, 200 and 400
    steps: .847, .860, .856, .851 (113 images); .862, .881, .875, .868 (300 images)."""
    learning_rate: float = 1e-3
    """AdamW, cosine to 0. The paper names neither optimiser nor rate. On 900 real X-rays and DINOv2 features the mean AUROC
    was within 0.007 from 3e-4 to 1e-2 at this batch size; smaller batches want smaller rates."""
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises linearly."""
    grid: int | None = None
    """Side of the common grid in cells. None: that of the encoder's third map (33 for MedImageInsight, 37 for RAD-DINO,
    as in the paper). The cost falls with its square; a smaller one averages neighbouring cells."""
    width: int | None = None
    """Channels that each map is projected to. None: those of the encoder's third map (1024 and 768, as in the paper)."""
    kernel_size: int = 1
    """Of the projecting convolution; the paper names none. 3 costs nine times the training time."""
    views: tuple[str, ...] = ("frontal",)
    """Images used; paper: frontal. Add "unknown" for datasets that do not state the view."""
    max_train: int | None = None
    """At most so many training images, drawn at random; None: all."""
    min_positives: int = 5
    """A task needs so many positives and as many negatives in training and in test, or it is excluded. Below five, more
    than one bootstrap replicate in 150 would have no positive (exp(-5) = 0.7 %)."""
    not_mentioned: Literal["negative", "unknown"] = "negative"
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    engine: str | None = None
    """Whose statements of the label table to use; None: those of the only engine that it holds."""
    arm: str = ""
    """`arm` column of the predictions; empty: the encoder's name."""
    objective: str = "open_weights"
    subset_size: int = 0
    replicate: int = 0
    image_batch_size: int = 32
    """Images in one pass of the encoder."""
    cache_features: bool = True
    """False computes the features anew in every epoch: for encoders and datasets whose features fit no disk."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    cache_limit_gb: float = 50.0
    layer_study: bool = False
    """Also train probes on each of the encoder's layers alone and on all but it: eight more trainings on the same features;
    written to layers.csv and layer_shares.csv."""
    label_fractions: tuple[float, ...] = ()
    """Also train probes on these shares of the labelled training images, tested on the same images; label_efficiency.csv."""
    shuffle_labels: bool = False
    """Control experiment: labels move to other images, in training and in test, so that nothing can be learned and
    AUPRC must equal the prevalence. All seeds share the order, which the first seed draws."""

    def __post_init__(self) -> None:
        if (self.tasks is None) == (self.task_sets is None):
            raise InputError("tasks, task_sets: give exactly one of them")
        for name in self.task_sets or {}:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise InputError(f"task_sets: the name '{name}' may have letters, digits, - and _ only; rename it")
        if self.task_sets is not None and not self.task_sets:
            raise InputError("task_sets: empty; name at least one task set")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {list(self.seeds)}; give one or more different numbers from 0")
        if not self.views or any(view not in VIEWS for view in self.views):
            raise InputError(f"views: {list(self.views)}; choose from {', '.join(VIEWS)}")
        for name in ("epochs", "batch_size", "min_steps", "image_batch_size", "min_positives", "grid", "width", "max_train"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {self.kernel_size}: it must be odd and positive; use 1 or 3")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warmup_fraction < 1:
            raise InputError("learning_rate must be above 0, weight_decay at least 0, warmup_fraction in [0, 1)")
        for fraction in self.label_fractions:
            if not 0 < fraction <= 1:
                raise InputError(f"label_fractions: {fraction} is no share of the labels; give numbers above 0 and up to 1")
        if len(set(self.label_fractions)) != len(self.label_fractions):
            raise InputError(f"label_fractions: {list(self.label_fractions)} names a share twice; give each once")
        if self.cache_limit_gb <= 0:
            raise InputError(f"cache_limit_gb is {self.cache_limit_gb}: it must be above 0")
