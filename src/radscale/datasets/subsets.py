"""Nested subsets: an order of the training images per replicate, so that a subset is a prefix and nesting cannot fail."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radscale.datasets.splits import keyed_fraction


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
    column = (
        pa.chunked_array([pa.array(patient_ids, pa.string())]) if not isinstance(patient_ids, pa.ChunkedArray) else patient_ids
    )
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no or one chunk
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    names, codes = encoded.dictionary, np.asarray(encoded.indices)
    fractions = np.array([keyed_fraction("subset", seed, replicate, name.as_py()) for name in names])
    by_name = np.empty(len(names), dtype=np.int64)
    by_name[np.asarray(pc.sort_indices(names))] = np.arange(len(names))
    place = np.empty(len(names), dtype=np.int64)
    place[np.lexsort((by_name, fractions))] = np.arange(len(names))
    rows = np.flatnonzero(np.asarray(is_train, dtype=bool))
    batch = np.zeros(len(rows), dtype=np.int32) if batches is None else np.asarray(batches)[rows]
    ordered = rows[np.lexsort((rows, place[codes[rows]], batch))]
    ranks = np.full(len(codes), -1, dtype=np.int64)
    ranks[ordered] = np.arange(len(ordered))
    return ranks
