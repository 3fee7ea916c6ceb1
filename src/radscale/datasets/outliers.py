"""Outliers and near duplicates of a dataset, from their search to the decision (paper, section 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.quality import QualityConfig, assess, read_quality
from radscale.datasets.quality_page import write_quality_page
from radscale.datasets.set_aside import set_aside
from radscale.errors import InputError

__all__ = ["REASONS", "QualityConfig", "find_outliers", "set_aside_by"]

REASONS = ("outlier", "near_duplicate")
"""For which images are set aside here."""


def find_outliers(
    config: QualityConfig,
    dataset: Path,
    out: Path,
    *,
    embeddings: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Write quality.parquet (docs/data_format.md, section 1) and outliers.html into the folder `out`, made if needed.

    Args:
        config: see `QualityConfig`.
        dataset: folder.
        out: folder.
        embeddings: Parquet file of `radscale embed` with all images of the dataset; None compares pixels.
        progress: called with (images done, all, what).

    Returns:
        Counts and scores: images, score of which 6 % and 1 % lie above, groups of near duplicates and those across patients.

    Raises:
        InputError: see `quality.assess`; embeddings that are not of these images.
    """
    data = Dataset(dataset)
    vectors = None if embeddings is None else _embeddings(embeddings, data)
    out.mkdir(parents=True, exist_ok=True)
    table = assess(data, config, out, progress, vectors)
    pq.write_table(table, out / "quality.parquet")
    write_quality_page(data, table, out / "outliers.html")
    scores, groups = table["outlier_score"].to_numpy(), table["near_duplicate_group"]
    across = table.filter(table["across_patients"])["near_duplicate_group"]
    return {
        "images": len(data),
        "6 % lie above": round(float(np.quantile(scores, 0.94)), 4),
        "1 % lie above": round(float(np.quantile(scores, 0.99)), 4),
        "near_duplicate_groups": pc.count_distinct(groups).as_py(),
        "across_patients": pc.count_distinct(across).as_py(),
    }


def _embeddings(path: Path, dataset: Dataset) -> np.ndarray:
    """(n, D) in the order of the dataset."""
    try:
        table = pq.read_table(path, columns=["id", "embedding"])
    except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: no Parquet file of `radscale embed` ({str(error).splitlines()[0]})") from None
    place = pc.index_in(dataset.column("sample_id"), value_set=table["id"].combine_chunks())
    if place.null_count:
        raise InputError(
            f"{path}: {place.null_count:,} of {len(dataset):,} images of the dataset have no embedding; embed all of it"
        )
    vectors = table["embedding"].combine_chunks()
    return np.asarray(vectors.flatten()).reshape(len(vectors), -1)[np.asarray(place)]


def set_aside_by(dataset: Path, quality: Path, *, above: float | None = None, duplicates: bool = False) -> dict[str, Any]:
    """Take out of the dataset what a table of `find_outliers` says.

    Args:
        dataset: folder.
        quality: quality.parquet.
        above: images with a higher score.
        duplicates: of each group of near duplicates all but the first image of the manifest.

    Returns:
        The dataset's new counts.

    Raises:
        InputError: nothing is chosen, or see `set_aside`.
    """
    table = read_quality(quality)
    reasons: dict[str, tuple[str, str]] = {}
    if duplicates:
        groups = table.filter(pc.is_valid(table["near_duplicate_group"]))
        seen: set[int] = set()
        rows = zip(*(groups[name].to_pylist() for name in ("sample_id", "near_duplicate_group")), strict=True)
        for sample, group in rows:
            if group in seen:
                reasons[sample] = ("near_duplicate", f"of group {group} of {quality.name}")
            seen.add(group)
    if above is not None:
        strange = table.filter(pc.greater(table["outlier_score"], above))
        for sample, score in zip(strange["sample_id"].to_pylist(), strange["outlier_score"].to_pylist(), strict=True):
            reasons[sample] = ("outlier", f"score {score:.4f} above {above:g}")
    if not reasons:
        raise InputError(f"{quality}: nothing to set aside; give --set-aside-above SCORE or --set-aside-duplicates")
    return set_aside(dataset, reasons)
