"""Settings of a segmentation."""

from dataclasses import dataclass
from typing import Literal

from radscale.errors import InputError

VIEWS = ("frontal", "lateral", "unknown")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Settings of a segmentation. The paper (section 5.2) names the four maps, the linear head, Dice loss and the size of
    518 px; everything else is ours."""

    tasks: tuple[str, ...] | None = None
    """Tasks of the mask table; None: all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Paper: three seeds."""
    epochs: int = 25
    batch_size: int = 16
    min_steps: int = 200
    """Few images are cut into smaller batches, so that training takes at least so many steps."""
    learning_rate: float = 3e-3
    """AdamW, cosine to 0. Lungs in 35 real X-rays, DINOv2 ViT-S/14 at 224 px, five folds by patient: Hausdorff distance 95, 93,
    98 and 103 px at 1e-3, 3e-3, 1e-2 and 3e-2; the same for both `dice_over` within 2 px."""
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises linearly."""
    grid: int | None = None
    """Side of the common grid of the four maps in cells. None: that of the encoder's third map; where maps differ in size
    (MedImageInsight) at least 37, the grid of RAD-DINO, to which the paper upsamples it."""
    whole_image: bool = False
    """Squash the whole image into the square of the encoder, as MedImageInsight does; RAD-DINO and DINOv2 crop its centre.
    Metrics are in pixels of the stored image for all encoders, and what is cropped away counts as missed."""
    kernel_size: int = 1
    """Of the head's convolution; paper: linear, 1."""
    upsampling: int = 1
    """Learned upsampling: a transposed convolution of this kernel and stride after the projection, so that each cell of the
    grid gives so many logits a side. 1: none. Logits then reach the pixels by bilinear interpolation."""
    mask_size_px: int | None = None
    """Side of the square in which logits meet masks in training. None: that of the encoder's input (RAD-DINO: 518)."""
    dice_over: Literal["image", "batch"] = "batch"
    """What an overlap is counted over, see `dice_loss`: one image, or all of a batch. Image by image, a device that is there is
    followed better, but nothing teaches where it is not: 27 phantom images, DINOv2 features, three devices, mean clDice
    .17 ("image") and .31 ("batch"), false alarms 47.5 and 9.5; where the device is there, Hausdorff 33 and 63 px."""
    dice_squared: bool = False
    """Squares in the denominator (V-Net)."""
    dice_smooth: float = 1.0
    """In pixels. With "image" it decides what an absent device costs: little if less than about this is predicted."""
    cross_entropy: float = 0.0
    """Weight of the mean binary cross-entropy over pixels that is added to the Dice loss; paper: 0."""
    threshold: float = 0.5
    """Pixels above this probability are predicted."""
    views: tuple[str, ...] = ("frontal",)
    """Images used. Add "unknown" for datasets that do not state the view."""
    max_train: int | None = None
    """At most so many training images, drawn at random; None: all."""
    min_positives: int = 1
    """A task needs so many images with it in training and in test, or it is excluded."""
    arm: str = ""
    """`arm` column of the table; empty: the encoder's name."""
    objective: str = "open_weights"
    subset_size: int = 0
    replicate: int = 0
    image_batch_size: int = 16
    """Images in one pass of the encoder."""
    cache_features: bool = True
    """False computes the training features anew in every epoch. Test images are always read once, without a cache."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    cache_limit_gb: float = 50.0
    num_overlays: int = 4
    """Columns of the overlay sheets: so many of the best, the median and the worst cases of each task; 0: no sheets."""

    def __post_init__(self) -> None:
        if self.tasks is not None and not self.tasks:
            raise InputError("tasks: empty; name at least one, or leave it out for all tasks of the mask table")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {list(self.seeds)}; give one or more different numbers from 0")
        if not self.views or any(view not in VIEWS for view in self.views):
            raise InputError(f"views: {list(self.views)}; choose from {', '.join(VIEWS)}")
        for name in (
            "epochs",
            "batch_size",
            "min_steps",
            "image_batch_size",
            "min_positives",
            "upsampling",
            "grid",
            "mask_size_px",
            "max_train",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {self.kernel_size}: it must be odd and positive; use 1 or 3")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warmup_fraction < 1:
            raise InputError("learning_rate must be above 0, weight_decay at least 0, warmup_fraction in [0, 1)")
        if self.dice_smooth <= 0 or self.cross_entropy < 0 or not 0 < self.threshold < 1:
            raise InputError("dice_smooth must be above 0, cross_entropy at least 0, threshold between 0 and 1")
        if self.cache_limit_gb <= 0 or self.num_overlays < 0:
            raise InputError("cache_limit_gb must be above 0, num_overlays at least 0")
