"""What a probe's result rests on: which of the encoder's layers, and how many labelled images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radscale.analysis import paired_bootstrap
from radscale.analysis.bootstrap import bootstrap_average_precision
from radscale.datasets.subsets import subset_ranks
from radscale.metrics import average_precision
from radscale.probing.classifier import ProbeShape, StackedProbe, predict
from radscale.probing.targets import TaskSetPlan
from radscale.training.features import FeatureSource, in_chunks

NUM_REPLICATES = 500
"""Of the bootstrap, as in the paper (A.8)."""
AVERAGE = "average"
"""Rows over all tasks of the set."""


@dataclass(frozen=True)
class ProbeRun:
    """One task set's probes as they were trained, and the means to train others on the same features."""

    plan: TaskSetPlan
    shape: ProbeShape
    features: FeatureSource
    train_positions: np.ndarray
    """(n,) positions of the training images in `features`."""
    test_positions: np.ndarray
    train_patients: Sequence[str]
    test_patients: np.ndarray
    probe: StackedProbe
    probabilities: np.ndarray
    """(S, n, T) of the test images."""
    train: Callable[[FeatureSource, np.ndarray, np.ndarray, ProbeShape, str], StackedProbe]
    """Features, positions, targets, shape, what to show -> probes of all seeds."""


class LayerSelection:
    """Some of the layers of another source: (n, N, C) with their channels only.

    Args:
        in_channels: channels of each layer of `source`.
        layers: indices of those that stay, ascending.
    """

    def __init__(self, source: FeatureSource, in_channels: Sequence[int], layers: Sequence[int]) -> None:
        self._source, self._in_channels, self._layers = source, list(in_channels), layers

    def read(self, positions: np.ndarray) -> Tensor:
        parts = self._source.read(positions).split(self._in_channels, dim=-1)
        return torch.cat([parts[layer] for layer in self._layers], dim=-1)


def layer_ablation(run: ProbeRun) -> list[dict[str, Any]]:
    """Probes trained on each layer alone and on all but it, beside the one on all layers.

    Returns:
        Rows task, layers ("all", "only 1", "without 1", ...), auprc (mean over seeds), seed_deviation (standard deviation
        over seeds, NaN for one), difference from all layers, low, high: 95 % interval of the paired bootstrap over test
        patients (A.8), of the differences that the same draws give. `average` is the mean over tasks.
    """
    scores = {"all": run.probabilities}
    every = tuple(range(len(run.shape.in_channels)))
    for word, layer in product(("only", "without"), every):
        layers = (layer,) if word == "only" else tuple(other for other in every if other != layer)
        shape = replace(run.shape, in_channels=tuple(run.shape.in_channels[index] for index in layers))
        part = LayerSelection(run.features, run.shape.in_channels, layers)
        name = f"{word} {layer + 1}"
        probe = run.train(part, run.train_positions, run.plan.train.targets, shape, name)
        scores[name] = predict(probe, part, run.test_positions)
    rows = []
    reference = auprc_of_seeds(run.plan, scores["all"])
    for name, probabilities in scores.items():
        own = auprc_of_seeds(run.plan, probabilities)
        differences = None if name == "all" else _differences(run, probabilities)
        for task, values in own.items():
            row = {"task": task, "layers": name, "auprc": float(values.mean()), "seed_deviation": _deviation(values)}
            gap = float(values.mean() - reference[task].mean())
            low, high = differences[task] if differences else (0.0, 0.0)
            rows.append({**row, "difference": gap, "low": low, "high": high})
    return rows


def auprc_of_seeds(plan: TaskSetPlan, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Task and `average` -> (S,) AUPRC on the test images with a known target."""
    result = {}
    for column, task in enumerate(plan.tasks):
        targets = plan.test.targets[:, column]
        known = ~np.isnan(targets)
        result[task] = np.array([average_precision(targets[known], of_seed[known, column]) for of_seed in probabilities])
    return {**result, AVERAGE: np.mean(list(result.values()), axis=0)}


def _differences(run: ProbeRun, probabilities: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of `probabilities` minus those of all layers."""
    targets, theirs, ours, patients, samples = {}, {}, {}, {}, {}
    for column, task in enumerate(run.plan.tasks):
        known = np.flatnonzero(~np.isnan(run.plan.test.targets[:, column]))
        targets[task] = run.plan.test.targets[known, column]
        theirs[task], ours[task] = probabilities[:, known, column], run.probabilities[:, known, column]
        patients[task], samples[task] = run.test_patients[known], run.plan.test.rows[known].astype(str)
    # Tasks share images: drawn alike, the interval of their average covers what their errors have in common.
    found = paired_bootstrap(targets, theirs, ours, NUM_REPLICATES, groups=patients, sample_ids=samples)
    return {**{task: (d.low, d.high) for task, d in found.per_task.items()}, AVERAGE: (found.macro.low, found.macro.high)}


@torch.inference_mode()
def layer_shares(run: ProbeRun) -> list[dict[str, Any]]:
    """How much each layer's channels contribute inside the probe on all layers, on the test images.

    A logit without its bias is a sum of one term per layer, and so is a token's attention score. The share of a layer is the
    covariance of its term with the sum, divided by the variance of the sum: shares add up to 1, and one is negative where
    a layer works against the others. Of logits over images (`logit_share`); of attention scores over the tokens of an image,
    all images together (`attention_share`).

    Returns:
        Rows task, layer (1 is the first), logit_share, logit_deviation, attention_share, attention_deviation: means and
        standard deviations over seeds.
    """
    terms, chosen = [], torch.zeros(())
    for chunk in in_chunks(run.test_positions, run.shape.elements_per_image):
        scores, evidence = run.probe.layer_terms(run.features.read(chunk))
        pooled = scores.sum(0).softmax(dim=1)
        terms.append((pooled * evidence).sum(dim=2).double().cpu())
        centred = (scores - scores.mean(dim=2, keepdim=True)).double()
        chosen = chosen + (centred * centred.sum(0)).sum(dim=(1, 2)).cpu()
    logits = torch.cat(terms, dim=1)
    centred = logits - logits.mean(dim=1, keepdim=True)
    of_logits, of_attention = (_to_shares(total, run) for total in ((centred * centred.sum(0)).sum(dim=1), chosen))
    return [
        {
            "task": task,
            "layer": layer + 1,
            "logit_share": float(of_logits[layer, :, column].mean()),
            "logit_deviation": _deviation(of_logits[layer, :, column]),
            "attention_share": float(of_attention[layer, :, column].mean()),
            "attention_deviation": _deviation(of_attention[layer, :, column]),
        }
        for column, task in enumerate(run.plan.tasks)
        for layer in range(len(run.shape.in_channels))
    ]


def _to_shares(covariances: Tensor, run: ProbeRun) -> np.ndarray:
    """(L, S * T) -> (L, S, T), adding up to 1 over layers."""
    return (covariances / covariances.sum(0)).unflatten(1, (-1, run.shape.num_tasks)).numpy()


def label_efficiency(run: ProbeRun, fractions: Sequence[float]) -> list[dict[str, Any]]:
    """Probes trained on a share of the labelled images, always tested on the same ones.

    Patients are put in one order, and their images follow each other in it; a share is a prefix, so smaller ones lie in it.

    Returns:
        Rows task, fraction, num_images and num_positives (training images with a known target), auprc (mean over seeds; NaN
        where a class is absent), seed_deviation, low, high: 95 % interval over test patients.
    """
    ranks = subset_ranks(run.train_patients, [True] * len(run.train_patients), seed=0, replicate=0)
    rows = []
    for fraction in sorted(fractions):
        chosen = np.flatnonzero(ranks < max(1, round(fraction * len(ranks))))
        targets = run.plan.train.targets[chosen]
        columns = [c for c in range(len(run.plan.tasks)) if {0.0, 1.0} <= set(targets[:, c].tolist())]
        probabilities = run.probabilities[:, :, columns]
        if fraction < 1 and columns:
            labelled = ~np.isnan(targets[:, columns]).all(axis=1)
            shape = replace(run.shape, num_tasks=len(columns))
            positions, known = run.train_positions[chosen[labelled]], targets[labelled][:, columns]
            probe = run.train(run.features, positions, known, shape, f"{fraction:.3g} of the labels")
            probabilities = predict(probe, run.features, run.test_positions)
        for column, task in enumerate(run.plan.tasks):
            counts = {
                "num_images": int((~np.isnan(targets[:, column])).sum()),
                "num_positives": int(np.nansum(targets[:, column])),
            }
            score = dict.fromkeys(("auprc", "seed_deviation", "low", "high"), float("nan"))
            if column in columns:
                score = _score(run, task, column, probabilities[:, :, columns.index(column)])
            rows.append({"task": task, "fraction": fraction, **counts, **score})
    return rows


def _score(run: ProbeRun, task: str, column: int, probabilities: np.ndarray) -> dict[str, float]:
    known = np.flatnonzero(~np.isnan(run.plan.test.targets[:, column]))
    targets, scores = run.plan.test.targets[known, column], probabilities[:, known]
    values = np.array([average_precision(targets, of_seed) for of_seed in scores])
    drawn = bootstrap_average_precision(
        targets, scores, num_replicates=NUM_REPLICATES, seed=0, task=task, groups=run.test_patients[known]
    ).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auprc": float(values.mean()), "seed_deviation": _deviation(values), "low": float(low), "high": float(high)}


def _deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def draw_label_efficiency(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """AUPRC against the number of labelled training images, one line per task with its interval (SVG)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task and not np.isnan(row["auprc"])]
        if not own:
            continue
        sizes = [row["num_images"] for row in own]
        (line,) = axes.plot(sizes, [row["auprc"] for row in own], marker="o", markersize=4, label=task.replace("_", " "))
        axes.fill_between(
            sizes, [row["low"] for row in own], [row["high"] for row in own], color=line.get_color(), alpha=0.15, linewidth=0
        )
    axes.set(xscale="log", xlabel="labelled training images", ylabel="AUPRC on the test images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    with mpl.rc_context({"svg.hashsalt": "radscale"}):  # the same rows give the same bytes
        figure.savefig(path, metadata={"Date": None})
