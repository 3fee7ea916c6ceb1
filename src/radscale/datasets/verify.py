"""Check a dataset against its own rules: bytes, ids, splits, nesting, counts."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.exclusions import REASONS
from radscale.datasets.manifest import rank_column
from radscale.datasets.shards import ShardReader
from radscale.datasets.splits import SPLITS, split_patients
from radscale.datasets.subsets import subset_ranks
from radscale.errors import InputError


def verify_dataset(path: str | Path, progress: Callable[[int, int, str], None] | None = None) -> list[str]:
    """Problems, one line each; an empty list means that everything holds."""
    dataset = Dataset(path)
    return [
        *_check_tables(dataset),
        *_check_rows(dataset),
        *_check_splits(dataset),
        *_check_ranks(dataset),
        *_check_counts(dataset),
        *_check_bytes(dataset, progress),
    ]


def _check_tables(dataset: Dataset) -> list[str]:
    """The tables are those that the ingest wrote, byte for byte."""
    recorded = dataset.settings.get("tables", {})
    names = {path.name for path in dataset.path.glob("*.parquet")} | set(recorded)
    problems = []
    for name in sorted(names):
        path = dataset.path / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif name not in recorded:
            problems.append(f"{name} is not in dataset.json: the ingest did not write it")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != recorded[name]:
            problems.append(f"{name} differs from its sha256 in dataset.json: it was changed after the ingest")
    return problems


def _check_splits(dataset: Dataset) -> list[str]:
    """Every patient stands in the split that the keyed hash or a published split gives (section 1 of docs/data_format.md)."""
    config = dataset.settings.get("config")
    if config is None:
        return ["dataset.json holds no config: whether splits and ranks are those of the keyed hash cannot be checked"]
    key = (config["split_seed"], config["train_fraction"], config["validation_fraction"], config["test_fraction"])
    pairs = set(zip(*(dataset.manifest[name].to_pylist() for name in ("patient_id", "split")), strict=True))
    path = dataset.path / "official_splits.parquet"
    official = dict(zip(*pq.read_table(path).to_pydict().values(), strict=True)) if path.exists() else {}
    unlisted = {patient for patient, _ in pairs} - set(official) if official else set()
    if unlisted:
        return [f"{len(unlisted)} patients are not in official_splits.parquet"]
    expected = split_patients({patient for patient, _ in pairs}, official, *key)
    wrong = sum(expected[patient] != split for patient, split in pairs)
    source = "the published split" if official else "their hash"
    return [f"{wrong} patients do not stand in the split that {source} gives"] if wrong else []


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
    """The ranks of every replicate are 0 .. training images - 1, each once, in the order of the keyed hash.

    Only then are prefixes nested subsets that nobody chose.
    """
    problems = []
    is_train = np.asarray(dataset.manifest["split"]) == "train"
    patients, seed = dataset.manifest["patient_id"], dataset.settings.get("config", {}).get("split_seed")
    batches = np.asarray(dataset.manifest["batch"]) if "batch" in dataset.column_names else None
    for replicate in range(dataset.num_replicates):
        ranks = dataset.manifest[rank_column(replicate)].fill_null(-1).to_numpy()
        whole = np.array_equal(np.sort(ranks[is_train]), np.arange(is_train.sum()))
        if not whole or (ranks[~is_train] >= 0).any():
            problems.append(f"{rank_column(replicate)} does not order exactly the training images")
        elif seed is not None and not np.array_equal(ranks, subset_ranks(patients, is_train, seed, replicate, batches)):
            problems.append(f"{rank_column(replicate)} is not the order that the keyed hash gives")
    return problems


def _check_counts(dataset: Dataset) -> list[str]:
    if not (dataset.path / "exclusions.parquet").exists():
        return []  # said by the check of the tables
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
    damaged, reader = 0, ShardReader(dataset.path)
    columns = (dataset.manifest[name].to_pylist() for name in ("shard", "offset", "size_bytes", "sha256"))
    for row, (shard, offset, size, sha256) in enumerate(zip(*columns, strict=True)):
        try:
            data = reader.read(shard, offset, size)
        except InputError:
            damaged += 1
            continue
        damaged += hashlib.sha256(data).hexdigest() != sha256
        if progress is not None:
            progress(row + 1, len(dataset), "images verified")
    problems = [f"{damaged} images are missing or differ from their sha256"] if damaged else []
    listed = set(zip(*(dataset.manifest[name].to_pylist() for name in ("shard", "offset")), strict=True))
    strangers = sum((shard, offset) not in listed for shard, offset in _members(dataset.path))
    return [*problems, f"{strangers} members of the shards are not in the manifest"] if strangers else problems


def _members(folder: Path) -> Iterator[tuple[str, int]]:
    """(shard, offset of the bytes) of everything in the shards."""
    for path in sorted((folder / "shards").glob("*")):
        try:
            with tarfile.open(path) as tar:
                yield from ((f"shards/{path.name}", member.offset_data) for member in tar)
        except (tarfile.TarError, OSError):
            yield f"shards/{path.name}", -1
