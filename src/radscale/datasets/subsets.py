"""Nested subsets: an order of the training images per replicate, so that a subset is a prefix and nesting cannot fail."""

from collections.abc import Sequence

import numpy as np

from radscale.datasets.splits import keyed_fraction


def subset_ranks(patient_ids: Sequence[str], is_train: Sequence[bool], seed: int, replicate: int) -> np.ndarray:
    """Place of each image in a replicate's order.

    Patients are ordered by a keyed hash and their images follow each other, in the order given.

    Args:
        patient_ids: (n,) of the images.
        is_train: (n,) only training images are ranked.
        seed: of the dataset.
        replicate: which order.

    Returns:
        (n,) int64, 0 to the number of training images - 1; -1 elsewhere.
    """
    place = {patient: keyed_fraction("subset", seed, replicate, patient) for patient in set(patient_ids)}
    rows = np.flatnonzero(np.asarray(is_train, dtype=bool))
    ordered = sorted(rows.tolist(), key=lambda row: (place[patient_ids[row]], patient_ids[row], row))
    ranks = np.full(len(patient_ids), -1, dtype=np.int64)
    ranks[ordered] = np.arange(len(ordered))
    return ranks
