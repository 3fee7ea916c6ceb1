"""Check a dataset against its own rules: bytes, ids, splits, nesting, counts."""

import hashlib
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.exclusions import REASONS
from radscale.datasets.file_hash import sha256_of
from radscale.datasets.manifest import rank_column
from radscale.datasets.shards import ShardReader
from radscale.datasets.splits import SPLITS, split_patients
from radscale.datasets.subsets import STRATA, strata_of, subset_ranks
from radscale.errors import InputError

ROWS_AT_ONCE = 8192
NUM_THREADS = 8
"""More than most machines have cores to hash with: on a network disk they wait."""


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
        elif sha256_of(path) != recorded[name]:
            problems.append(f"{name} differs from its sha256 in dataset.json: it was changed after the ingest")
    return problems


def _check_splits(dataset: Dataset) -> list[str]:
    """Every patient stands in the split that the keyed hash or a published split gives (section 1 of docs/data_format.md)."""
    config = dataset.settings.get("config")
    if config is None:
        return ["dataset.json holds no config: whether splits and ranks are those of the keyed hash cannot be checked"]
    key = (config["split_seed"], config["train_fraction"], config["validation_fraction"], config["test_fraction"])
    pairs = list(zip(*_pairs(dataset).to_pydict().values(), strict=True))
    path = dataset.path / "official_splits.parquet"
    official = dict(zip(*pq.read_table(path).to_pydict().values(), strict=True)) if path.exists() else {}
    unlisted = {patient for patient, _ in pairs} - set(official) if official else set()
    if unlisted:
        return [f"{len(unlisted)} patients are not in official_splits.parquet"]
    expected = split_patients([patient for patient, _ in pairs], official, *key)
    wrong = sum(expected[patient] != split for patient, split in pairs)
    source = "the published split" if official else "their hash"
    return [f"{wrong} patients do not stand in the split that {source} gives"] if wrong else []


def _pairs(dataset: Dataset) -> pa.Table:
    """Patients with the splits that their images stand in, each pair once."""
    table = pa.table({name: dataset.column(name) for name in ("patient_id", "split")})
    return table.group_by(["patient_id", "split"]).aggregate([])


def _check_rows(dataset: Dataset) -> list[str]:
    again = len(dataset) - pc.count_distinct(dataset.column("sample_id")).as_py()
    problems = [f"{again} sample_ids occur twice"] if again else []
    pairs = _pairs(dataset)
    crossing = pc.sum(pc.greater(pc.value_counts(pairs["patient_id"].combine_chunks()).field("counts"), 1)).as_py()
    unknown = set(pc.unique(pairs["split"]).to_pylist()) - set(SPLITS)
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
    is_train = np.asarray(pc.equal(dataset.column("split"), "train"))
    patients, seed = dataset.column("patient_id"), dataset.settings.get("config", {}).get("split_seed")
    batches = np.asarray(dataset.column("batch")) if "batch" in dataset.column_names else None
    stratify_by = dataset.settings.get("config", {}).get("stratify_by", [])
    if not set(stratify_by) <= set(STRATA):
        return [f"dataset.json: stratify_by holds other things than {', '.join(STRATA)}: ranks cannot be checked"]
    strata = strata_of(stratify_by, dataset.column)
    for replicate in range(dataset.num_replicates):
        ranks = dataset.column(rank_column(replicate)).fill_null(-1).to_numpy()
        whole = np.array_equal(np.sort(ranks[is_train]), np.arange(is_train.sum()))
        if not whole or (ranks[~is_train] >= 0).any():
            problems.append(f"{rank_column(replicate)} does not order exactly the training images")
        elif seed is not None and not np.array_equal(ranks, subset_ranks(patients, is_train, seed, replicate, batches, strata)):
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
    unknown = set(pc.unique(exclusions["reason"]).to_pylist()) - set(REASONS)
    if unknown:
        problems.append(f"exclusion reason '{sorted(unknown)[0]}' is not one of {', '.join(REASONS)}")
    return problems


def _check_bytes(dataset: Dataset, progress: Callable[[int, int, str], None] | None) -> list[str]:
    reader, done, damaged = ShardReader(dataset.path), 0, 0
    listed: dict[str, list[np.ndarray]] = {}

    def is_whole(shard: str, offset: int, size: int, sha256: str) -> bool:
        try:
            return hashlib.sha256(reader.read(shard, offset, size)).hexdigest() == sha256
        except InputError:
            return False

    # Reading and hashing leave Python's lock, so threads are enough; rows stand in the order of the shards.
    with pq.ParquetFile(dataset.path / "manifest.parquet") as manifest, ThreadPoolExecutor(NUM_THREADS) as pool:
        for batch in manifest.iter_batches(ROWS_AT_ONCE, columns=["shard", "offset", "size_bytes", "sha256"]):
            columns = [batch[name].to_pylist() for name in ("shard", "offset", "size_bytes", "sha256")]
            for whole in pool.map(is_whole, *columns):
                done, damaged = done + 1, damaged + (not whole)
                if progress is not None:
                    progress(done, len(dataset), "images verified")
            for shard in set(columns[0]):
                own = np.asarray(batch["offset"].filter(pc.equal(batch["shard"], shard)))
                listed.setdefault(shard, []).append(own)
    aside = dataset.set_aside()
    for shard, offset in () if aside is None else zip(*(aside[name].to_pylist() for name in ("shard", "offset")), strict=True):
        listed.setdefault(shard, []).append(np.array([offset]))
    problems = [f"{damaged} images are missing or differ from their sha256"] if damaged else []
    strangers = 0
    for path in sorted((dataset.path / "shards").glob("*")):
        known = np.concatenate(listed.get(f"shards/{path.name}", [np.empty(0, np.int64)]))
        strangers += int(np.isin(_offsets(path), known, invert=True).sum())
    return [*problems, f"{strangers} members of the shards are not in the manifest"] if strangers else problems


def _offsets(shard: Path) -> list[int]:
    """Where the bytes of each member begin; -1 where the file is no tar."""
    try:
        with tarfile.open(shard) as tar:
            return [member.offset_data for member in tar]
    except (tarfile.TarError, OSError):
        return [-1]
