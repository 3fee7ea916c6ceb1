"""Which images look unlike all others, and which are one image under two names (paper, section 4: outliers, id errors).

n = images, r = reference images, D = features of an image. Memory is bounded by blocks: of millions of images only hashes and
scores are held.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from radscale.datasets.dataset import Dataset
from radscale.errors import InputError

SIDE_PX = 48
HASH_SIDE_PX = 32
BLOCK = 2048
NUM_BANDS, EQUAL_BANDS = 8, 4
"""Hashes that differ in at most NUM_BANDS - EQUAL_BANDS bits agree in EQUAL_BANDS of their bands: no pair of them is missed."""
LONGEST_RUN = 256
"""Of images with equal bands, each is compared with so many that follow it."""
NUM_THREADS = 8
QUALITY_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("outlier_score", pa.float32()),
        ("near_duplicate_group", pa.int32()),
        ("across_patients", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What is unusual, and what is the same."""

    neighbours: int = 20
    """The score is the distance of so many-th nearest image: a cluster of fewer strange images is strange as a whole."""
    num_reference: int = 20_000
    """Images of each view, drawn at random, among which neighbours are looked for; all, if there are fewer."""
    hash_bits: int = 4
    """Near duplicates differ in at most so many of the 64 bits of a perceptual hash: on chest X-rays, more makes all alike."""
    min_correlation: float = 0.95
    """And their 48 x 48 pixels correlate at least so."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.num_reference < 2:
            raise InputError("neighbours must be at least 1, num_reference at least 2")
        if not 0 <= self.hash_bits <= NUM_BANDS - EQUAL_BANDS:
            raise InputError(f"hash_bits is {self.hash_bits}; it must be from 0 to {NUM_BANDS - EQUAL_BANDS}")


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (48, 48) uint8: the whole image, squeezed to a square."""
    return np.asarray(cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))


def pixel_features(thumbnails: np.ndarray) -> np.ndarray:
    """(n, 48, 48) uint8 -> (n, D) float32 of length 1 and mean 0: brightness and contrast do not count."""
    flat = thumbnails.reshape(len(thumbnails), SIDE_PX**2).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits: signs of the low frequencies of (H, W) uint8 about their median (pHash; DCT-II of 32 x 32 pixels)."""
    small = cv2.resize(image, (HASH_SIDE_PX, HASH_SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = dct(dct(small, axis=0, norm="ortho"), axis=1, norm="ortho")[:8, :8].ravel()
    return int(np.packbits(low > np.median(low[1:])).view(">u8")[0])


def knn_distances(features: np.ndarray, own: np.ndarray, reference: np.ndarray, k: int) -> np.ndarray:
    """Distance to the k-th nearest reference image, which is not the image itself.

    Args:
        features: (n, D) float32 of length 1.
        own: (n,) row of the image itself in `reference`, -1 if it is none.
        reference: (r, D).
        k: at most r - 1.

    Returns:
        (n,) float32 from 0 to 2.
    """
    squared = 2 - 2 * (features @ reference.T)
    itself = np.flatnonzero(own >= 0)
    squared[itself, own[itself]] = np.inf
    return np.asarray(np.sqrt(np.maximum(np.partition(squared, k - 1, axis=1)[:, k - 1], 0)), dtype=np.float32)


def near_pairs(hashes: np.ndarray, bits: int) -> np.ndarray:
    """(P, 2) rising positions of (n,) uint64 hashes that differ in at most `bits` bits, each pair once.

    Band hashing: pairs are looked for among images that agree in four of eight bands, not among all. Of long runs of equal
    bands only neighbours are compared (`LONGEST_RUN`).
    """
    bands = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, NUM_BANDS)
    found = []
    for chosen in combinations(range(NUM_BANDS), EQUAL_BANDS):
        keys = np.ascontiguousarray(bands[:, chosen]).view(np.uint32).ravel()
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for shift in range(1, LONGEST_RUN + 1):
            same = np.flatnonzero(ordered[shift:] == ordered[:-shift])
            if not len(same):
                break
            first, second = order[same], order[same + shift]
            close = np.bitwise_count(hashes[first] ^ hashes[second]) <= bits
            found.append(np.sort(np.stack([first[close], second[close]], axis=1), axis=1))
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(pairs, axis=0)


def assess(
    dataset: Dataset,
    config: QualityConfig,
    work: Path,
    progress: Callable[[int, int, str], None] | None = None,
    embeddings: np.ndarray | None = None,
) -> pa.Table:
    """Score every image of a dataset.

    Args:
        dataset: whose images are read once.
        config: see `QualityConfig`.
        work: existing folder for the thumbnails (2.3 kB an image), which are removed at the end.
        progress: called with (images done, all, what).
        embeddings: (n, D) of all images, to look for outliers among them instead of pixels.

    Returns:
        Rows of `QUALITY_SCHEMA` in the order of the manifest. Groups of near duplicates are numbered from 0; null: in none.
        `across_patients`: the group has images of several patients, of whom at least one has the wrong name.

    Raises:
        InputError: fewer than three images, a damaged shard, or embeddings of another number of images.
    """
    count = len(dataset)
    if count < 3:
        raise InputError(f"{dataset.path}: {count} images; outliers are looked for among three or more")
    if embeddings is not None and len(embeddings) != count:
        raise InputError(f"embeddings of {len(embeddings):,} images, the dataset has {count:,}; embed all of this dataset")
    path = work / "thumbnails.npy"
    thumbnails = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, SIDE_PX, SIDE_PX))
    hashes = np.empty(count, dtype=np.uint64)

    def look(row: int) -> None:
        image = dataset.read_image(row)
        thumbnails[row], hashes[row] = thumbnail(image), perceptual_hash(image)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            list(pool.map(look, range(start, stop)))
            if progress is not None:
                progress(stop, count, "images read")

    def features(rows: np.ndarray) -> np.ndarray:
        if embeddings is None:
            return pixel_features(thumbnails[rows])
        part = np.asarray(embeddings[rows], dtype=np.float32)
        return part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6)

    scores, done = np.empty(count, np.float32), 0
    for rows, candidates in _by_view(*dataset.words("view"), config.neighbours):
        drawn = np.random.default_rng(config.seed).permutation(candidates)[: config.num_reference]
        reference = features(drawn)
        place = np.full(count, -1, np.int64)
        place[drawn] = np.arange(len(drawn))
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            scores[part] = knn_distances(features(part), place[part], reference, min(config.neighbours, len(drawn) - 1))
            done += len(part)
            if progress is not None:
                progress(done, count, "images compared")

    pairs = near_pairs(hashes, config.hash_bits)
    alike = [
        (pixel_features(thumbnails[part[:, 0]]) * pixel_features(thumbnails[part[:, 1]])).sum(axis=1) >= config.min_correlation
        for part in np.array_split(pairs, max(1, -(-len(pairs) // BLOCK)))
    ]
    groups = group_numbers(pairs[np.concatenate(alike)], count)
    path.unlink()  # the mapping lives until it is let go
    return pa.table(
        {
            "sample_id": dataset.column("sample_id"),
            "outlier_score": scores,
            "near_duplicate_group": pa.array(groups, pa.int32(), mask=groups < 0),
            "across_patients": _across_patients(groups, dataset.column("patient_id")),
        },
        schema=QUALITY_SCHEMA,
    )


def _by_view(codes: np.ndarray, words: list[str], neighbours: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows that are compared, and with which: with those of their view, or with all where their view has too few.

    Else lateral images, the minority, would be strange for being lateral. Images of unknown view are compared with all: what is
    no chest X-ray gathers there, and would be at home among its like.
    """
    everything = np.arange(len(codes))
    parts = [(np.flatnonzero(codes == code), code >= 0 and words[code] != "unknown") for code in np.unique(codes)]
    return [(rows, rows if known and len(rows) > neighbours + 1 else everything) for rows, known in parts]


def group_numbers(pairs: np.ndarray, count: int) -> np.ndarray:
    """(count,) number of the group that each image belongs to by (P, 2) pairs, in order of the first image; -1 for none."""
    edges = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = connected_components(edges, directed=False)[1]
    inside = np.unique(pairs)
    groups = np.full(count, -1, np.int64)
    _, first, number = np.unique(labels[inside], return_index=True, return_inverse=True)
    groups[inside] = np.argsort(np.argsort(first))[number]
    return groups


def _across_patients(groups: np.ndarray, patients: pa.ChunkedArray) -> np.ndarray:
    across = np.zeros(len(groups), dtype=bool)
    inside = np.flatnonzero(groups >= 0)
    codes = patients.take(pa.array(inside)).combine_chunks().dictionary_encode().indices.to_numpy()
    pairs = np.unique(np.stack([groups[inside], codes], axis=1), axis=0)
    several = np.flatnonzero(np.bincount(pairs[:, 0]) > 1) if len(pairs) else np.empty(0, np.int64)
    across[inside] = np.isin(groups[inside], several)
    return across


def read_quality(path: Path) -> pa.Table:
    """A table that `assess` made.

    Raises:
        InputError: no such table.
    """
    try:
        return pq.read_table(path, schema=QUALITY_SCHEMA)
    except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: no table of `radscale outliers` ({str(error).splitlines()[0]})") from None
