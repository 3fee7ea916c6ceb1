"""Embeddings and patch features of many images: read ahead of the encoder, written in parts, resumable (docs/embedding.md)."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from radscale.datasets.exclusions import Excluded
from radscale.errors import InputError
from radscale.execution.work_folder import LOCK, work_folder
from radscale.models import Encoder
from radscale.models.davit import DaViT
from radscale.models.encoder import EXTERNAL_FAMILY
from radscale.models.vit import VisionTransformer
from radscale.probing.embedding_output import (
    OutputFormat,
    Part,
    check_output,
    exclusion_table,
    make_output,
    read_exclusions,
    write_exclusions,
)
from radscale.probing.embedding_sources import ArraySource, ImageSource, open_source
from radscale.probing.zero_shot import PROMPT, ZeroShotClassifier, named_view
from radscale.training.checkpointing import encoder_fingerprint
from radscale.training.devices import choose_device
from radscale.training.features import Progress
from radscale.training.open_weights import load_encoder
from radscale.training.reading import read_ahead
from radscale.training.weight_files import write_atomically

FEATURES = ("embedding", "mean", "patches", "maps")
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PART_BYTES = 64 << 20
PART_IMAGES = 8192


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """What is computed of each image."""

    features: tuple[str, ...] = ("embedding",)
    """embedding (D,): `encode_image`, L2-normalised. patches (h, w, C): a ViT's patch tokens after the final norm, DaViT's last
    stage, the last map of an encoder of your own. mean (C,): mean of the patches. maps: the four maps of `forward_features`,
    map_0 to map_3, each (C, h, w)."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of patches and maps on disk; vectors and scores are always float32."""
    batch_size: int = 32
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    labels: tuple[str, ...] = ()
    """Zero-shot labels; none: no scores."""
    prompt: str = PROMPT
    view: str = "auto"
    """View in the label texts: auto (of each image, where it is known), AP, PA, lateral, frontal, or none."""

    def __post_init__(self) -> None:
        unknown = next((name for name in self.features if name not in FEATURES), None)
        if unknown is not None:
            raise InputError(f"features: '{unknown}' is not known; choose among {', '.join(FEATURES)}")
        if len(set(self.features)) < len(self.features):
            raise InputError(f"features: {', '.join(self.features)}: name each once")
        if not self.features and not self.labels:
            raise InputError(f"features: none, and no labels; choose among {', '.join(FEATURES)}")
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision '{self.precision}': choose among {', '.join(PRECISIONS)}")
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"dtype '{self.dtype}': choose float16 or float32")
        named_view(self.view)


def embed_images(
    encoder: Encoder,
    images: Sequence[np.ndarray | str | Path],
    *,
    features: Literal["embedding", "mean", "patches"] = "embedding",
    batch_size: int = 32,
    num_workers: int = 2,
) -> np.ndarray:
    """Embed images that fit into memory; for folders and millions there is `run_embedding`.

    Args:
        encoder: in eval mode, on the device where it shall run.
        images: (H, W) arrays as `encoder.preprocess` takes them, or paths of PNG, JPEG, TIFF or DICOM files.
        features: see `EmbeddingConfig`.
        batch_size: images in one pass of the encoder.
        num_workers: threads that read images ahead of it.

    Returns:
        float32, in the order of `images`: (n, D), (n, C) or (n, h, w, C).

    Raises:
        InputError: no images, one that cannot be used (it is named), or an encoder that gives no finite numbers.
    """
    if features not in ("embedding", "mean", "patches"):
        raise InputError(f"features '{features}': choose embedding, mean or patches; for maps use encoder.forward_features")
    config = EmbeddingConfig(features=(features,), dtype="float32", batch_size=batch_size)
    return Embedder(encoder, config).all_of(ArraySource(images), num_workers)[features]


def zero_shot_scores(
    encoder: Encoder,
    images: Sequence[np.ndarray | str | Path],
    labels: Sequence[str],
    *,
    view: str = "auto",
    prompt: str = PROMPT,
    batch_size: int = 32,
    num_workers: int = 2,
) -> np.ndarray:
    """Score images against labels; `radscale.probing.zero_shot` says what the scores mean.

    Args:
        encoder: with a text tower (MedImageInsight, or trained with CLIP or UniCL), in eval mode.
        images: as for `embed_images`.
        labels: at least two, e.g. "Pneumonia", "Pleural Effusion".
        view: "auto" (what a DICOM header says, else no word), "AP", "PA", "lateral", "frontal" or "none".
        prompt: text with `{view}` and `{label}`.
        batch_size: images in one pass of the encoder.
        num_workers: threads that read images ahead of it.

    Returns:
        (n, labels) float32; rows sum to 1.

    Raises:
        InputError: an encoder without a text tower, fewer than two labels, an image that cannot be used.
    """
    classifier = ZeroShotClassifier(encoder, labels, prompt)
    config = EmbeddingConfig(features=(), labels=tuple(labels), prompt=prompt, view=view, batch_size=batch_size)
    return Embedder(encoder, config, classifier).all_of(ArraySource(images), num_workers)["scores"]


class Embedder:
    """An encoder and what is wanted of it.

    Args:
        encoder: in eval mode, on its device.
        config: see `EmbeddingConfig`.
        classifier: scores the embeddings, where `config` has labels.
    """

    def __init__(self, encoder: Encoder, config: EmbeddingConfig, classifier: ZeroShotClassifier | None = None) -> None:
        self.encoder, self.config, self.classifier = encoder, config, classifier
        self.device = next(encoder.parameters()).device
        self.view = named_view(config.view)
        self.waiting_seconds = 0.0
        """Time that the encoder waited for images."""

    def compute(self, pixels: Tensor, views: Sequence[str]) -> dict[str, np.ndarray]:
        """What `config` asks for of (B, 3, S, S) preprocessed pixels: by name, arrays (B, ...).

        Raises:
            InputError: numbers that are not finite.
        """
        wanted, found = self.config.features, {}
        half = PRECISIONS[self.config.precision]
        autocast = torch.autocast(self.device.type, half) if half else nullcontext()
        with torch.inference_mode(), autocast, _last_tokens(self.encoder) as tokens:
            pixels = pixels.to(self.device)
            embedding = None
            if self.classifier is not None or {"embedding", "mean", "patches"} & set(wanted):
                embedding = self.encoder.encode_image(pixels).float()
            if "embedding" in wanted and embedding is not None:
                found["embedding"] = embedding
            if not tokens and {"mean", "patches"} & set(wanted):
                tokens.append(self.encoder.forward_features(pixels)[-1].flatten(2).transpose(1, 2))
            if "mean" in wanted:
                found["mean"] = tokens[-1].float().mean(1)
            if "patches" in wanted:
                side = round(tokens[-1].shape[1] ** 0.5)  # preprocessed images are square
                found["patches"] = tokens[-1].unflatten(1, (side, side)).to(self._map_type)
            if "maps" in wanted:
                maps = self.encoder.forward_features(pixels)
                found |= {f"map_{layer}": feature_map.to(self._map_type) for layer, feature_map in enumerate(maps)}
            if self.classifier is not None and embedding is not None:
                words = [word if self.view is None else self.view for word in views]
                found["scores"] = self.classifier.scores(embedding, words)
        for name, tensor in found.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(
                    f"encoder ({self.encoder.origin}): {name} has infinite or undefined numbers in {tensor.dtype}; "
                    "check its weights, or take --precision 32-true and --dtype float32"
                )
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    @property
    def _map_type(self) -> torch.dtype:
        return torch.float16 if self.config.dtype == "float16" else torch.float32

    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Names, dtypes and shapes of what one image gives, from a black one."""
        size = self.encoder.preprocessing.image_size_px
        found = self.compute(self.encoder.preprocess([np.zeros((max(size, 8),) * 2, np.uint8)]), [""])
        return {name: (array.dtype, array.shape[1:]) for name, array in found.items()}

    def batches(self, source: ImageSource, num_workers: int, start: int = 0) -> Iterator[Part]:
        """Results of `batch_size` consecutive images at a time, from position `start` on; the last may be fewer.

        Which images share a pass decides the last bits of a result, so it depends on their positions alone.
        """
        size, total = self.config.batch_size, len(source.ids)

        def load(position: int) -> tuple[Tensor, str] | Excluded:
            try:
                pixels, view = source.read(position)
            except Excluded as verdict:
                return verdict
            try:
                return self.encoder.preprocess([pixels]), view
            except InputError as error:
                raise InputError(f"{source.ids[position]}: {str(error).removeprefix('image 0: ')}") from None

        # Preprocessed pixels wait, not files: they have one size, whatever the archive holds.
        loaded = read_ahead(load, range(start, total), num_workers, depth=2 * size + num_workers)
        for first in range(start, total, size):
            part, ready = Part(), []
            waited = time.perf_counter()
            for position in range(first, min(first + size, total)):
                result = next(loaded)
                if isinstance(result, Excluded):
                    row = {"id": shown_id(source.ids[position]), "reason": result.reason, "detail": str(result)}
                    part.excluded.append(row)
                    continue
                part.ids.append(shown_id(source.ids[position]))
                part.views.append(result[1])
                ready.append(result[0])
            self.waiting_seconds += time.perf_counter() - waited
            if ready:
                part.arrays = {name: [array] for name, array in self.compute(torch.cat(ready), part.views).items()}
            yield part

    def all_of(self, source: ImageSource, num_workers: int) -> dict[str, np.ndarray]:
        """Results of all images, by name.

        Raises:
            InputError: no images, or one that cannot be used.
        """
        if not source.ids:
            raise InputError("no images to embed; give at least one array or path")
        parts = []
        for part in self.batches(source, num_workers):
            if part.excluded:
                raise InputError("{id}: {detail}; leave this image out ({reason})".format(**part.excluded[0]))
            parts.append(part)
        return {name: np.concatenate([part.arrays[name][0] for part in parts]) for name in parts[0].arrays}


@contextmanager
def _last_tokens(encoder: Encoder) -> Iterator[list[Tensor]]:
    """Catch the (B, N, C) patch tokens of a pass: patches and their mean then cost no second one.

    Of an encoder of the user's own nothing is caught: its patches are its last map.
    """
    tower = next((module for module in encoder.modules() if isinstance(module, VisionTransformer | DaViT)), None)
    caught: list[Tensor] = []
    if encoder.family == EXTERNAL_FAMILY or tower is None:
        yield caught
        return
    module: nn.Module
    if isinstance(tower, VisionTransformer):
        module, skipped = tower.norm, 1 + tower.config.num_registers
    else:
        module, skipped = list(tower.blocks[-1].children())[-1], 0

    def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        caught.append(output[:, skipped:])

    handle = module.register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


def shown_id(name: str) -> str:
    """An id as files hold it: UTF-8, on one line."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\n", "\\n").replace("\r", "\\r")


def run_embedding(
    config: EmbeddingConfig,
    *,
    encoder: Path | tuple[str, Path],
    images: Path,
    out: Path,
    split: str | None = None,
    parts: bool = False,
    device: str = "auto",
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed a folder, dataset, list or file into one file. Killed and called again, it goes on, to the same bytes.

    Parts of at most 64 MiB stand in `OUT.partial` until all are there, and are then joined. Images that cannot be used are rows
    (id, reason, detail) of `STEM.exclusions.parquet` beside `out`.

    Args:
        config: what is computed.
        encoder: a checkpoint folder, or name and weights as for `load_encoder`.
        images: see `open_source`.
        out: new file; its suffix (.parquet, .safetensors, .csv) decides the format, see `embedding_output`.
        split: of a dataset; None: all images.
        parts: make `out` a folder with the parts instead of joining them: half the disk while it runs, and for patch features
            of many images.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_workers: threads that read images; None: 2 on a CPU, up to 16 beside a GPU.
        progress: called with (images done, images in all, what).

    Returns:
        images (embedded), excluded (reason -> count), exclusions (path of their table), resumed (images of an earlier run),
        images_per_second and waiting_share (share of the time that the encoder waited for images) of this run, shapes.

    Raises:
        InputError: `out` exists, an earlier run with other settings stands there unfinished, nothing to embed, nothing usable,
            an encoder without a text tower for labels, too little disk.
    """
    check_output(out, config.features, config.labels)
    if out.exists():
        raise InputError(f"--out {out}: exists; choose a new name")
    source = open_source(images, split)
    run_device = choose_device(device)
    model = (load_encoder(*encoder) if isinstance(encoder, tuple) else load_encoder(str(encoder))).eval()
    settings = {
        "encoder": encoder_fingerprint(model),
        "images": source.identity(),
        "num_images": len(source.ids),
        "format": out.suffix,
        **asdict(config),
    }
    model = model.to(run_device)
    embedder = Embedder(model, config, ZeroShotClassifier(model, config.labels, config.prompt) if config.labels else None)
    workers = num_workers if num_workers is not None else (min(16, os.cpu_count() or 1) if run_device.type == "cuda" else 2)
    work = out.with_name(out.name + ".partial")
    with work_folder(work, settings, out, "part-*"):
        (work / "exclusions").mkdir(exist_ok=True)
        try:
            facts = _embed(embedder, source, out, work, settings, parts=parts, num_workers=workers, progress=progress)
        except torch.OutOfMemoryError:
            raise InputError(f"--batch-size {config.batch_size}: does not fit the GPU's memory; take a smaller one") from None
    return facts


def _embed(
    embedder: Embedder,
    source: ImageSource,
    out: Path,
    work: Path,
    settings: dict[str, Any],
    *,
    parts: bool,
    num_workers: int,
    progress: Progress | None,
) -> dict[str, Any]:
    arrays = embedder.arrays()
    output = make_output(out.suffix, arrays, embedder.config.labels, settings)
    image_bytes = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in arrays.values())
    part_size = _part_size(image_bytes, embedder.config.batch_size)
    total = len(source.ids)
    files = [work / f"part-{number:06d}{output.part_suffix}" for number in range(-(-total // part_size))]
    exclusions = [work / "exclusions" / f"{path.stem}.parquet" for path in files]
    num_done = next((number for number, path in enumerate(files) if not path.exists()), len(files))
    resumed = min(num_done * part_size, total)
    _check_disk(image_bytes * ((total - resumed) + (0 if parts else total)), work)
    started = time.perf_counter()
    report = progress or (lambda done, total, what: None)
    report(resumed, total, "images")

    def written(number: int, part: Part) -> None:
        write_atomically(exclusions[number], lambda path: write_exclusions(path, exclusion_table(part.excluded)))
        write_atomically(files[number], lambda path: output.write_part(path, part))

    done = resumed
    current = Part(arrays={name: [] for name in arrays})
    for batch in embedder.batches(source, num_workers, resumed):
        _append(current, batch)
        done += len(batch.ids) + len(batch.excluded)
        if done % part_size == 0 or done == total:
            written((done - 1) // part_size, current)
            current = Part(arrays={name: [] for name in arrays})
        seconds = time.perf_counter() - started
        report(done, total, f"images, {(done - resumed) / seconds:.1f}/s")
    seconds = time.perf_counter() - started
    table = out.with_name(f"{out.stem}.exclusions.parquet")
    reasons = _finish(output, files, exclusions, table, out, work, parts=parts, num_images=total)
    return {
        "images": total - len(reasons),
        "excluded": dict(sorted(Counter(reasons).items())),
        "exclusions": str(table),
        "resumed": resumed,
        "images_per_second": round((total - resumed) / seconds, 2),
        "waiting_share": round(embedder.waiting_seconds / seconds, 4),
        "shapes": {name: list(shape) for name, (_, shape) in arrays.items()},
    }


def _append(part: Part, batch: Part) -> None:
    part.ids += batch.ids
    part.views += batch.views
    part.excluded += batch.excluded
    for name, found in batch.arrays.items():
        part.arrays[name] += found


def _finish(
    output: OutputFormat,
    files: Sequence[Path],
    exclusions: Sequence[Path],
    table: Path,
    out: Path,
    work: Path,
    *,
    parts: bool,
    num_images: int,
) -> list[str]:
    """Give the output its name; returns the reasons of the exclusions."""
    excluded = read_exclusions(exclusions)
    if excluded.num_rows == num_images:
        shutil.rmtree(work)
        raise InputError(_nothing_usable(excluded.to_pylist()))
    write_atomically(table, lambda path: write_exclusions(path, excluded))
    if parts:
        shutil.rmtree(work / "exclusions")
        (work / LOCK).unlink()
        os.replace(work, out)
    else:
        joined = work / "joined"
        write_atomically(joined, lambda path: output.join(files, path))
        os.replace(joined, out)
        shutil.rmtree(work)
    return list(excluded["reason"].to_pylist())


def _nothing_usable(rows: Sequence[dict[str, str]]) -> str:
    first = "{id}: {detail} ({reason})".format(**rows[0])
    if len(rows) == 1:
        return f"{first}; give another image"
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row["reason"] for row in rows).most_common())
    return f"none of {len(rows)} images can be used ({reasons}); the first is {first}"


def _part_size(image_bytes: int, batch_size: int) -> int:
    """Images of a part: whole batches, so that a resumed run has the same batches; at most 64 MiB where a batch is less."""
    images = min(PART_IMAGES, PART_BYTES // image_bytes)
    return max(1, images // batch_size) * batch_size


def _check_disk(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise InputError(
            f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on disk; free some, or take --parts (half of it), "
            "--dtype float16, or features that are smaller"
        )
