"""The prediction table: the border between evaluation and statistics (docs/data_format.md, section 4)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from radscale.errors import InputError

PREDICTION_SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("objective", pa.string()),
        ("subset_size", pa.int64()),
        ("replicate", pa.int32()),
        ("seed", pa.int32()),
        ("task", pa.string()),
        ("sample_id", pa.string()),
        ("patient_id", pa.string()),
        ("target", pa.int8()),
        ("prediction", pa.float32()),
    ]
)
IMAGE_COLUMNS = ("arm", "objective", "subset_size", "replicate", "seed", "task", "sample_id", "patient_id", "present")
IMAGE_MEASURES = ("hausdorff_px", "hd95_px", "dice", "cldice")
"""Of segmentations (docs/data_format.md, section 7), as far as studies use them."""
KEY = ("arm", "subset_size", "replicate", "seed", "task", "sample_id")


def read_predictions(paths: str | Path | Sequence[str | Path]) -> pa.Table:
    """One prediction table from Parquet or CSV files, checked.

    Raises:
        InputError: missing files or columns, targets other than 0 and 1, predictions outside [0, 1], a sample twice.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise InputError("no prediction table given; name at least one Parquet or CSV file")
    return pa.concat_tables([_read_one(Path(file)) for file in files])


def read_segmentations(paths: Sequence[Path]) -> pa.Table:
    """One table of segmented test images (docs/data_format.md, section 7) from Parquet files, checked.

    Raises:
        InputError: missing files or columns, an image twice, a measurement below 0.
    """
    parts = []
    for path in paths:
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such segmentation table; correct the path") from None
        except pa.ArrowInvalid as error:
            raise InputError(f"{path.name}: not a Parquet table ({str(error).splitlines()[0]})") from None
        missing = [name for name in (*IMAGE_COLUMNS, *IMAGE_MEASURES) if name not in table.column_names]
        if missing:
            raise InputError(f"{path.name}: no column '{missing[0]}'; found {', '.join(table.column_names)}")
        repeated = int((np.diff(np.sort(row_keys(table, KEY))) == 0).sum())
        if repeated:
            raise InputError(f"{path.name}: {repeated} rows repeat an image of the same arm, size, replicate, seed and task")
        for name in IMAGE_MEASURES:
            if (table[name].to_numpy() < 0).any():
                raise InputError(f"{path.name}: column '{name}' has values below 0; make the table again")
        parts.append(table.select([*IMAGE_COLUMNS, *IMAGE_MEASURES]))
    return pa.concat_tables(parts)


def _read_one(path: Path) -> pa.Table:
    try:
        # Ids are text: 007 is not 7.
        text = {field.name: field.type for field in PREDICTION_SCHEMA if pa.types.is_string(field.type)}
        options = pa.csv.ConvertOptions(column_types=text)
        table = pa.csv.read_csv(path, convert_options=options) if path.suffix == ".csv" else pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such prediction table; correct the path") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path.name}: not a Parquet or CSV table ({str(error).splitlines()[0]})") from None
    missing = [name for name in PREDICTION_SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(f"{path.name}: no column '{missing[0]}'; found {', '.join(table.column_names)}")
    try:
        table = table.select(PREDICTION_SCHEMA.names).cast(PREDICTION_SCHEMA)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path.name}: {str(error).splitlines()[0]}; see docs/data_format.md, section 4") from None
    _check(table, path.name)
    return table


def _check(table: pa.Table, name: str) -> None:
    for column in PREDICTION_SCHEMA.names:
        if table[column].null_count:
            raise InputError(f"{name}: column '{column}' has {table[column].null_count} empty values; drop those rows")
    prediction = table["prediction"].to_numpy()
    wrong = np.flatnonzero(~((prediction >= 0) & (prediction <= 1)))
    if wrong.size:
        raise InputError(f"{name}: prediction {prediction[wrong[0]]} in row {wrong[0]}; probabilities in [0, 1] are needed")
    targets = set(pc.unique(table["target"]).to_pylist())
    if targets - {0, 1}:
        raise InputError(f"{name}: target {sorted(targets - {0, 1})[0]}; targets are 0 or 1, drop rows with unknown ones")
    repeated = int((np.diff(np.sort(row_keys(table, KEY))) == 0).sum())
    if repeated:
        raise InputError(f"{name}: {repeated} rows repeat a sample of the same arm, size, replicate, seed and task")


def row_keys(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """(rows,) int64 that sort as the values of these columns do, the first column first; equal only where all are equal."""
    keys = np.zeros(table.num_rows, np.int64)
    for name in names:
        encoded = table[name].combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        values = encoded.dictionary
        rank = np.empty(len(values), np.int64)
        rank[pc.sort_indices(values).to_numpy()] = np.arange(len(values))
        keys = keys * max(len(values), 1) + rank[encoded.indices.to_numpy()]
    return keys
