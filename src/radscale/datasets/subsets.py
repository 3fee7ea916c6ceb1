"""Nested subsets: an order of the training images per replicate, so that a subset is a prefix and nesting cannot fail."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from radscale.datasets.splits import keyed_fractions


def subset_ranks(
    patient_ids: Sequence[str] | pa.ChunkedArray,
    is_train: Sequence[bool] | np.ndarray,
    seed: int,
    replicate: int,
    batches: np.ndarray | None = None,
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

    Returns:
        (n,) int64, 0 to the number of training images - 1; -1 elsewhere.
    """
    return ranks_of_codes(*patient_codes(patient_ids), is_train, seed, replicate, batches)


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
    ordered = rows[np.argsort(key, kind="stable")]
    ranks = np.full(len(codes), -1, dtype=np.int64)
    ranks[ordered] = np.arange(len(ordered))
    return ranks
