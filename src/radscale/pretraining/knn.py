"""How good the features are while training runs: a nearest-neighbour vote on labelled images that the run does not train on."""

import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor

from radscale.datasets import Dataset, task_table
from radscale.errors import InputError
from radscale.metrics import average_precision
from radscale.pretraining.config import KnnOptions

QUERIES_PER_BLOCK = 1024
IMAGES_PER_BATCH = 32


def knn_scores(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Share of the votes of each test image's k nearest training images, as in DINO's evaluation (Caron et al., 2021).

    Args:
        train_features: (n, D); cosine similarity counts, lengths do not.
        train_labels: (n, T) 1, 0 or NaN; a neighbour without a known label has no vote.
        test_features: (m, D).
        k: neighbours; all training images if there are fewer.
        temperature: a vote weighs exp(cosine / temperature); None weighs all alike, as scikit-learn's `uniform`.

    Returns:
        (m, T) from 0 to 1; one half where no neighbour has a vote.
    """
    train, test = F.normalize(train_features.float(), dim=-1), F.normalize(test_features.float(), dim=-1)
    known = ~train_labels.isnan()
    votes = train_labels.float().nan_to_num(0.0)
    scores = []
    for block in test.split(QUERIES_PER_BLOCK):
        cosine, nearest = (block @ train.T).topk(min(k, len(train)), dim=1)
        weight = torch.ones_like(cosine) if temperature is None else ((cosine - 1) / temperature).exp()
        weight = weight[..., None] * known[nearest]
        total = weight.sum(dim=1)
        scores.append(torch.where(total > 0, (weight * votes[nearest]).sum(dim=1) / total, 0.5))
    return torch.cat(scores)


class KnnMonitor:
    """AUPRC of a vote among held-out images of the dataset, the same ones at each call.

    The images are those of the validation split, else training images of patients outside the subset; never test images.
    Half of their patients vote, and the others are judged.
    """

    def __init__(self, dataset: Dataset, label_table: pa.Table, subset: np.ndarray, options: KnnOptions) -> None:
        """
        Args:
            dataset: of the run.
            label_table: with the tasks; see `radscale.datasets.read_label_table`.
            subset: rows that the run trains on.
            options: how many images, which tasks, and of the vote.

        Raises:
            InputError: no image or task is left.
        """
        rows = held_out_rows(dataset, subset, options.num_images)
        wanted = options.tasks or tuple(sorted(pc.unique(label_table["task"]).to_pylist()))
        table = task_table(dataset, label_table, wanted, rows=rows)
        patients = dataset.columns("patient_id", rows=rows)["patient_id"].to_pylist()
        judged = np.array([zlib.crc32(f"knn {patient}".encode()) % 2 == 1 for patient in patients], dtype=bool)
        enough = [
            all(
                (table.targets[part, column] == value).sum() >= options.min_positives
                for part in (judged, ~judged)
                for value in (0, 1)
            )
            for column in range(len(wanted))
        ]
        if not any(enough):
            raise InputError(
                f"knn: none of {len(wanted)} tasks has {options.min_positives} positives and negatives in both halves of the "
                f"{len(rows)} held-out images; raise knn.num_images, lower knn.min_positives, or set knn.every_steps to 0"
            )
        self.dataset, self.options, self.rows, self.judged = dataset, options, rows, judged
        self.tasks = [task for task, kept in zip(wanted, enough, strict=True) if kept]
        self.targets = torch.from_numpy(table.targets[:, enough])

    @torch.no_grad()
    def evaluate(self, encode: Callable[[list[np.ndarray]], Tensor]) -> dict[str, float]:
        """`knn_auprc`, the mean over tasks, and that of each task.

        Args:
            encode: (H, W) uint8 images -> (B, D) features.
        """
        batches = np.array_split(self.rows, -(-len(self.rows) // IMAGES_PER_BATCH))
        features = torch.cat([encode(self.dataset.read_images(batch)).float().cpu() for batch in batches])
        judged = torch.from_numpy(self.judged)
        scores = knn_scores(
            features[~judged], self.targets[~judged], features[judged], self.options.k, self.options.temperature
        ).numpy()
        targets = self.targets[judged].numpy()
        found = {}
        for column, task in enumerate(self.tasks):
            known = ~np.isnan(targets[:, column])
            found[f"knn_auprc_{task}"] = average_precision(targets[known, column], scores[known, column])
        return {"knn_auprc": float(np.mean(list(found.values()))), **found}


def held_out_rows(dataset: Dataset, subset: np.ndarray, limit: int) -> np.ndarray:
    """Up to `limit` rows, in an order of patients that depends on nothing but their pseudonyms.

    Raises:
        InputError: neither a validation split nor training patients outside the subset.
    """
    rows = dataset.select(split="validation")
    patients = dataset.column("patient_id")
    if not len(rows):
        rows = dataset.select(split="train")
        trained = pc.unique(patients.take(pa.array(subset)))
        rows = rows[~np.asarray(pc.is_in(patients.take(pa.array(rows)), trained))]
    if not len(rows):
        raise InputError(
            "knn: the dataset has no validation split and the subset takes all training patients; ingest with a validation "
            "share, take a smaller subset, or set knn.every_steps to 0"
        )
    order = [zlib.crc32(f"knn order {patient}".encode()) for patient in patients.take(pa.array(rows)).to_pylist()]
    return rows[np.lexsort((rows, np.array(order)))[:limit]]
