"""Who is in a dataset and with which pixels: archives and image folders, de-identification, shards, splits, subsets, labels.

Knows no stage and no model; may import numpy, scipy, OpenCV, pydicom, pyarrow and `radscale.errors`.
"""

from radscale.datasets.dataset import Dataset
from radscale.datasets.deidentification import load_or_create_secret, pseudonym
from radscale.datasets.ingest import IngestConfig, ingest
from radscale.datasets.labels import TaskTable, read_label_table, task_table
from radscale.datasets.parts import Part
from radscale.datasets.resize import resize_shorter_side
from radscale.datasets.verify import verify_dataset

__all__ = [
    "Dataset",
    "IngestConfig",
    "Part",
    "TaskTable",
    "ingest",
    "load_or_create_secret",
    "pseudonym",
    "read_label_table",
    "resize_shorter_side",
    "task_table",
    "verify_dataset",
]
