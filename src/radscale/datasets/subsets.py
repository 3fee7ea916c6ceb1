"""Nested subsets: an order of the training images per replicate, so that a subset is a prefix and nesting cannot fail.

With strata, each is an order of its own that is stretched to the same length, and all are merged: so a prefix holds of each
stratum its share, to about one patient (systematic sampling).
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radscale.datasets.splits import keyed_fractions

STRATA = {"sex": "sex", "view": "view", "age": "age_years", "manufacturer": "manufacturer"}
"""What subsets can be stratified by -> column of the manifest."""


def strata_of(stratify_by: Sequence[str], column: Callable[[str], pa.ChunkedArray]) -> np.ndarray | None:
    """(n,) number of each image's stratum, a combination of values; None without strata. Ages count by decade.

    Args:
        stratify_by: of `STRATA`.
        column: gives a column of the manifest by its name.
    """
    strata = None
    for name in stratify_by:
        values = column(STRATA[name])
        if name == "age":
            values = pc.floor(pc.divide(pc.cast(values, pa.float64()), 10))
        whole = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
        codes = np.asarray(pc.fill_null(whole.dictionary_encode().indices, -1)).astype(np.int64) + 1
        joined = codes if strata is None else strata * (codes.max(initial=0) + 1) + codes
        strata = np.unique(joined, return_inverse=True)[1]
    return strata


def subset_ranks(
    patient_ids: Sequence[str] | pa.ChunkedArray,
    is_train: Sequence[bool] | np.ndarray,
    seed: int,
    replicate: int,
    batches: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Place of each image in a replicate's order.

    Patients are ordered by a keyed hash and their images follow each other, in the order given. Images that a later ingest
    added come after all that were there, so that subsets once drawn stay what they are.

    Args:
        patient_ids: (n,) of the images.
        is_train: (n,) only training images are ranked.
        seed: of the dataset.
        replicate: which order.
        batches: (n,) which ingest brought the image; None: all one.
        strata: (n,) group of the image, whose numbers only tell groups apart; a patient is of the group that the first image of
            an ingest has. In each prefix of N images of one ingest the images of a group of share s are at most m + sM off
            from sN, where m is the largest number of images of one of its patients, and M the sum of these over the groups.
            None: one group.

    Returns:
        (n,) int64, 0 to the number of training images - 1; -1 elsewhere.
    """
    return ranks_of_codes(*patient_codes(patient_ids), is_train, seed, replicate, batches, strata)


def patient_codes(patient_ids: Sequence[str] | pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The patients, each once, and (n,) the number of each image's patient among them."""
    column = patient_ids if isinstance(patient_ids, pa.ChunkedArray) else pa.chunked_array([patient_ids], pa.string())
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
    encoded = whole.dictionary_encode()  # of one piece: uniting the dictionaries of many takes longer than all else here
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices)


def ranks_of_codes(
    names: list[str],
    codes: np.ndarray,
    is_train: Sequence[bool] | np.ndarray,
    seed: int,
    replicate: int,
    batches: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """`subset_ranks` of what `patient_codes` gives."""
    fractions = np.array(keyed_fractions(names, "subset", seed, replicate))
    order = np.argsort(fractions, kind="stable")
    if len(names) > 1 and (np.diff(fractions[order]) == 0).any():  # one chance in ten thousand, for a million patients
        order = np.array(sorted(range(len(names)), key=lambda number: (fractions[number], names[number])))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    rows = np.flatnonzero(np.asarray(is_train, dtype=bool))
    key = place[codes[rows]]
    if batches is not None:
        key += np.asarray(batches)[rows].astype(np.int64) * len(names)
    if strata is not None and len(rows):
        key = _merged(key, np.asarray(strata)[rows], names, place, seed, replicate)
    ordered = rows[np.argsort(key, kind="stable")]
    ranks = np.full(len(codes), -1, dtype=np.int64)
    ranks[ordered] = np.arange(len(ordered))
    return ranks


def _merged(key: np.ndarray, strata: np.ndarray, names: list[str], place: np.ndarray, seed: int, replicate: int) -> np.ndarray:
    """(rows,) a key that puts the patients of each ingest in the order in which their strata are merged.

    Args:
        key: (rows,) ingest * patients + place of the patient in the order without strata.
        strata: (rows,) group of the image.
        names: of the patients.
        place: (patients,) in the order without strata.
        seed, replicate: as in `subset_ranks`.
    """
    keys, first, inverse, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    batch, patient = keys // len(names), np.argsort(place)[keys % len(names)]
    _, group = np.unique(np.stack([batch, strata[first]], axis=1), axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")  # groups one after the other, each in the keyed order
    group = group.ravel()[order]
    totals = np.bincount(group, weights=sizes[order])
    before = np.cumsum(sizes[order]) - sizes[order] - (np.cumsum(totals) - totals)[group]
    jitter = np.array(keyed_fractions((names[number] for number in patient[order]), "stratum", seed, replicate))
    position = np.empty(len(keys))
    position[order] = (before + jitter * sizes[order]) / totals[group]
    merged = np.empty(len(keys), dtype=np.int64)
    merged[np.lexsort((keys, position, batch))] = np.arange(len(keys))
    return merged[inverse]
