"""The prediction table that a probe leaves behind, and its scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.analysis.records import PREDICTION_SCHEMA
from radscale.datasets import Dataset
from radscale.metrics import average_precision
from radscale.probing.targets import TaskSetPlan


def write_predictions(
    path: Path,
    dataset: Dataset,
    plan: TaskSetPlan,
    seeds: Sequence[int],
    probabilities: np.ndarray,
    columns: dict[str, Any],
) -> None:
    """Write the prediction table (docs/data_format.md, section 4), sorted by task, seed and manifest row.

    Args:
        probabilities: (S, n, T) for the test images and tasks of the plan.
        columns: values of arm, objective, subset_size and replicate.
    """
    samples = dataset.columns("sample_id", "patient_id", rows=plan.test.rows)
    # One task at a time: 400,000 test images with 20 tasks and 3 seeds are 24 million rows.
    with pq.ParquetWriter(path, PREDICTION_SCHEMA, compression="zstd") as writer:
        for column in sorted(range(len(plan.tasks)), key=plan.tasks.__getitem__):
            writer.write_table(_of_task(plan, column, seeds, probabilities, samples, columns))


def _of_task(
    plan: TaskSetPlan, column: int, seeds: Sequence[int], probabilities: np.ndarray, samples: pa.Table, columns: dict[str, Any]
) -> pa.Table:
    targets = plan.test.targets[:, column]
    known = np.flatnonzero(~np.isnan(targets))
    ids = {name: samples[name].take(pa.array(known)).combine_chunks() for name in samples.column_names}
    parts = []
    for index in sorted(range(len(seeds)), key=seeds.__getitem__):
        values = {
            **columns,
            **ids,
            "seed": seeds[index],
            "task": plan.tasks[column],
            "target": targets[known].astype(np.int8),
            "prediction": probabilities[index, known, column],
        }
        arrays = [_column(values[field.name], field.type, len(known)) for field in PREDICTION_SCHEMA]
        parts.append(pa.table(arrays, schema=PREDICTION_SCHEMA))
    return pa.concat_tables(parts)


def _column(value: Any, kind: pa.DataType, length: int) -> pa.Array:
    if isinstance(value, np.ndarray | pa.Array):
        return pa.array(value, kind)
    return pa.repeat(pa.scalar(value, kind), length)


def score(plan: TaskSetPlan, probabilities: np.ndarray) -> dict[str, dict[str, Any]]:
    """Per task: counts and prevalences of both splits, AUPRC on the test images for each seed."""
    scores = {}
    for column, task in enumerate(plan.tasks):
        train, test = plan.train.targets[:, column], plan.test.targets[:, column]
        known = ~np.isnan(test)
        scores[task] = {
            "num_train": int((~np.isnan(train)).sum()),
            "num_test": int(known.sum()),
            "num_test_positives": int(np.nansum(test)),
            "train_prevalence": float(np.nanmean(train)),
            "test_prevalence": float(np.nanmean(test)),
            "auprc": [float(average_precision(test[known], of_seed[known, column])) for of_seed in probabilities],
        }
    return scores
