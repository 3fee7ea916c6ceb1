"""Check a dataset against its own rules: bytes, ids, splits, nesting, counts."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.exclusions import REASONS
from radscale.datasets.manifest import rank_column
from radscale.datasets.shards import read_member
from radscale.datasets.splits import SPLITS
from radscale.errors import InputError


def verify_dataset(path: str | Path, progress: Callable[[int, int, str], None] | None = None) -> list[str]:
    """Problems, one line each; an empty list means that everything holds."""
    dataset = Dataset(path)
    return [*_check_rows(dataset), *_check_ranks(dataset), *_check_counts(dataset), *_check_bytes(dataset, progress)]


def _check_rows(dataset: Dataset) -> list[str]:
    samples = dataset.manifest["sample_id"].to_pylist()
    problems = [] if len(set(samples)) == len(samples) else [f"{len(samples) - len(set(samples))} sample_ids occur twice"]
    splits: dict[str, set[str]] = {}
    for patient, split in zip(dataset.manifest["patient_id"].to_pylist(), dataset.manifest["split"].to_pylist(), strict=True):
        splits.setdefault(patient, set()).add(split)
    crossing = sum(len(names) > 1 for names in splits.values())
    unknown = set().union(*splits.values()) - set(SPLITS)
    if crossing:
        problems.append(f"{crossing} patients stand in more than one split")
    if unknown:
        problems.append(f"split '{sorted(unknown)[0]}' is not one of {', '.join(SPLITS)}")
    return problems


def _check_ranks(dataset: Dataset) -> list[str]:
    """The ranks of every replicate are 0 .. training images - 1, each once: only then are prefixes nested subsets."""
    problems = []
    is_train = np.asarray(dataset.manifest["split"]) == "train"
    for replicate in range(dataset.num_replicates):
        ranks = dataset.manifest[rank_column(replicate)].fill_null(-1).to_numpy()
        whole = np.array_equal(np.sort(ranks[is_train]), np.arange(is_train.sum()))
        if not whole or (ranks[~is_train] >= 0).any():
            problems.append(f"{rank_column(replicate)} does not order exactly the training images")
    return problems


def _check_counts(dataset: Dataset) -> list[str]:
    exclusions = pq.read_table(dataset.path / "exclusions.parquet")
    counts = dataset.settings["counts"]
    problems = []
    if len(dataset) + exclusions.num_rows != counts["inputs"]:
        problems.append(f"{len(dataset)} images + {exclusions.num_rows} exclusions are not the {counts['inputs']} inputs")
    unknown = set(exclusions["reason"].to_pylist()) - set(REASONS)
    if unknown:
        problems.append(f"exclusion reason '{sorted(unknown)[0]}' is not one of {', '.join(REASONS)}")
    return problems


def _check_bytes(dataset: Dataset, progress: Callable[[int, int, str], None] | None) -> list[str]:
    damaged = 0
    columns = (dataset.manifest[name].to_pylist() for name in ("shard", "offset", "size_bytes", "sha256"))
    for row, (shard, offset, size, sha256) in enumerate(zip(*columns, strict=True)):
        try:
            data = read_member(dataset.path / shard, offset, size)
        except InputError:
            damaged += 1
            continue
        damaged += hashlib.sha256(data).hexdigest() != sha256
        if progress is not None:
            progress(row + 1, len(dataset), "images verified")
    return [f"{damaged} images are missing or differ from their sha256"] if damaged else []
