"""Split by patient with a keyed hash: no patient in two splits, and a patient's split does not depend on who else is there."""

import hashlib
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from radscale.errors import InputError

SPLITS = ("train", "validation", "test")


def keyed_fraction(*key: object) -> float:
    """A number in [0, 1) that is random in `key` and the same everywhere and always."""
    text = "\0".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def keyed_fractions(names: Iterable[str], *key: object) -> list[float]:
    """`keyed_fraction(*key, name)` of each name: for millions, in a third of the time."""
    start = hashlib.sha256("".join(f"{part}\0" for part in key).encode())
    fractions = []
    for name in names:
        digest = start.copy()
        digest.update(name.encode())
        fractions.append(int.from_bytes(digest.digest()[:8], "big") / 2**64)
    return fractions


def check_patients_apart(train: pa.ChunkedArray, test: pa.ChunkedArray) -> None:
    """Raises:
    InputError: patients (pseudonyms) of whom there are images in training and in test.
    """
    both = pc.unique(test.filter(pc.is_in(test, pc.unique(train)))).sort().to_pylist()
    if both:
        listed = ", ".join(both[:5]) + (", ..." if len(both) > 5 else "")
        raise InputError(
            f"split: {len(both):,} patients have images in train and in test ({listed}), and what is measured on them would be "
            "remembered; give each patient one split in manifest.parquet, or ingest again"
        )


def patient_split(patient_id: str, seed: int, train: float, validation: float, test: float) -> str:
    """`train`, `validation` or `test`.

    Raises:
        InputError: if the fractions are not shares that sum to 1.
    """
    if min(train, validation, test) < 0 or abs(train + validation + test - 1) > 1e-6:
        raise InputError(f"split fractions {train}, {validation}, {test} must be 0 or more and sum to 1")
    return _part(keyed_fraction("split", seed, patient_id), train, validation)


def _part(value: float, train: float, validation: float) -> str:
    if value < train:
        return "train"
    return "validation" if value < train + validation else "test"


def split_patients(
    patient_ids: Iterable[str], official: Mapping[str, str], seed: int, train: float, validation: float, test: float
) -> dict[str, str]:
    """Patient -> split: `patient_split`, or the part of a published split.

    Where the published split has no validation part, a share validation / (train + validation) of its training patients becomes
    one, by the same hash; its test part is untouched.

    Args:
        patient_ids: all patients.
        official: patient -> part, of all patients or of none.
        seed, train, validation, test: as in `patient_split`.
    """
    if not official:
        patient_split("", seed, train, validation, test)  # are they shares?
        names = list(patient_ids)
        values = keyed_fractions(names, "split", seed)
        return {name: _part(value, train, validation) for name, value in zip(names, values, strict=True)}
    share = 0.0 if "validation" in official.values() or not train + validation else validation / (train + validation)
    return {
        patient: patient_split(patient, seed, 1 - share, share, 0.0) if official[patient] == "train" else official[patient]
        for patient in patient_ids
    }
