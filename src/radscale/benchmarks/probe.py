"""A probe on frozen features: all seeds and tasks in one pass, extraction beside the bare encoder, cached features."""

import atexit
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.datasets.png import decode_png, encode_png
from radscale.models import Preprocessing, ViTConfig, ViTEncoder
from radscale.models.encoder import Encoder
from radscale.probing.classifier import AttentionProbe, ProbeShape, train_probe
from radscale.training.features import ComputedFeatures, FeatureSource, cached_features

SMALL = {"width": 384, "depth": 12, "num_heads": 6}
QUICK = {"width": 64, "depth": 4, "num_heads": 1}
NUM_SEEDS, NUM_TASKS = 3, 20
EPOCHS = 2
"""Of the training that is timed: enough to see the cost of one."""


def cases(options: Options) -> list[Case]:
    """ViT-S/14 with random weights on made images, 518 px at full size: its features and 37 x 37 grid are those of DINOv2."""
    num_images, size_px = (8, 56) if options.quick else (48, 518)
    images = _Images(num_images, size_px, options.seed)
    encoder = _encoder(options, size_px)
    grid = size_px // 14
    computed = ComputedFeatures(images, np.arange(num_images), encoder, grid=grid, batch_size=8, num_workers=2)
    folder = tempfile.TemporaryDirectory(prefix="radscale-probe-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "features.npy"
    cached = cached_features(path, computed)
    channels = tuple(encoder.feature_channels)
    shape = ProbeShape(in_channels=channels, grid=grid, width=channels[2], num_tasks=NUM_TASKS)
    one = replace(shape, num_tasks=1)
    targets = (np.random.default_rng(options.seed).random((num_images, NUM_TASKS)) < 0.5).astype(np.float32)
    targets[:2] = [[0.0], [1.0]]
    size = f"{num_images} images, {grid} x {grid} x {sum(channels)} features"
    common: dict[str, Any] = {"workload": lambda _: targets, "rounds": options.repeat or (1 if options.quick else 3)}
    seen = num_images * EPOCHS

    def train(source: FeatureSource, shape: ProbeShape, num_seeds: int) -> Callable[[np.ndarray], None]:
        def run(labels: np.ndarray) -> None:
            train_probe(source, labels[:, : shape.num_tasks], shape, seeds=range(num_seeds), epochs=EPOCHS, batch_size=512)

        return run

    return [
        Case(
            title=f"training a probe on cached features, {size}",
            unit="image and epoch",
            contestants=[
                Contestant(
                    f"radscale, {NUM_SEEDS} seeds x {NUM_TASKS} tasks", "radscale", lambda: train(cached, shape, 3), seen
                ),
                Contestant("radscale, 1 seed x 1 task", "radscale", lambda: train(cached, one, 1), seen),
                Contestant(
                    f"as the paper writes it, seed by seed, {NUM_TASKS} tasks", "torch", lambda: _plain(cached, shape), seen
                ),
            ],
            note="ratio of one seed and task: 0.77 or more means that all cost at most 1.3 of it",
            **common,
        ),
        Case(
            title=f"features of images, {size}",
            unit="image",
            contestants=[
                Contestant(
                    "radscale: decode, encoder, norm, half precision, disk",
                    "radscale",
                    lambda: lambda _: _cache_again(path.with_name("again.npy"), computed),
                    num_images,
                ),
                Contestant(
                    "the encoder alone, on pixels in memory", "torch", lambda: _encoder_alone(encoder, images), num_images
                ),
            ],
            note="the ratio of the encoder alone is the share of the time that is its own",
            **common,
        ),
        Case(
            title=f"an epoch of {NUM_SEEDS} seeds x {NUM_TASKS} tasks, {size}",
            unit="image and epoch",
            contestants=[
                Contestant("radscale, cached features", "radscale", lambda: train(cached, shape, 3), seen),
                Contestant("features computed in every epoch", "radscale", lambda: train(computed, shape, 3), seen),
            ],
            note="the cost of writing the cache once is in the table above",
            **common,
        ),
    ]


def _cache_again(path: Path, computed: ComputedFeatures) -> None:
    path.unlink(missing_ok=True)
    cached_features(path, computed)


class _Images:
    """Smooth shapes under grain, kept as PNG files in memory, decoded whenever they are read."""

    def __init__(self, num_images: int, size_px: int, seed: int) -> None:
        self._files = []
        for index in range(num_images):
            rng = np.random.default_rng([seed, index])
            image = cv2.resize(rng.random((10, 8), dtype=np.float32) * 200, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
            image = image + rng.normal(0, 1.3, image.shape)
            self._files.append(encode_png(np.clip(image, 0, 255).astype(np.uint8)))

    def read_images(self, rows: np.ndarray) -> list[np.ndarray]:
        return [decode_png(self._files[row]) for row in rows]

    def __len__(self) -> int:
        return len(self._files)


def _encoder(options: Options, size_px: int) -> Encoder:
    config = ViTConfig(layerscale_init=1.0, interpolation="size", **(QUICK if options.quick else SMALL))
    encoder = ViTEncoder(config, Preprocessing(image_size_px=size_px))
    encoder.backbone.reset_parameters(torch.Generator().manual_seed(options.seed))
    return encoder.eval()


def _encoder_alone(encoder: Encoder, images: _Images) -> Callable[[Any], None]:
    batches = encoder.preprocess(images.read_images(np.arange(len(images)))).split(8)

    def run(_: Any) -> None:
        with torch.inference_mode():
            for pixels in batches:
                encoder.forward_features(pixels)

    return run


def _plain(features: FeatureSource, shape: ProbeShape) -> Callable[[np.ndarray], None]:
    """Projected maps are formed, and each seed reads the features anew."""

    def run(labels: np.ndarray) -> None:
        targets = torch.from_numpy(labels)
        for seed in range(NUM_SEEDS):
            torch.manual_seed(seed)
            probe = AttentionProbe(shape)
            optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3)
            for _ in range(EPOCHS):
                optimizer.zero_grad()
                for positions in np.array_split(np.arange(len(labels)), max(1, len(labels) // 8)):
                    maps = features.read(positions).transpose(1, 2).unflatten(2, (shape.grid, shape.grid))
                    logits = probe(maps.split(shape.in_channels, dim=1))
                    F.binary_cross_entropy_with_logits(logits, targets[positions]).backward()
                optimizer.step()

    return run
