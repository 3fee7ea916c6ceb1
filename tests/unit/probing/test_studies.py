import csv
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score

from radscale.cli import _run, app
from radscale.errors import InputError
from radscale.probing import ProbeConfig, ProbeShape, StackedProbe, run_probing
from radscale.probing.studies import LayerSelection, ProbeRun, layer_shares
from radscale.probing.targets import LabelledImages, TaskSetPlan


class Array:
    def __init__(self, features):
        self.features = features

    def read(self, positions):
        return self.features[positions]


def shape(kernel_size=1):
    return ProbeShape(in_channels=(5, 3, 4), grid=3, width=2, num_tasks=2, kernel_size=kernel_size)


def some_probe(kernel_size=1):
    probe = StackedProbe(shape(kernel_size), seeds=(0, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    probe.standardise_by(torch.randn(12, generator=generator), torch.rand(12, generator=generator) + 0.5)
    return probe


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_terms_of_layers_sum_to_what_the_probe_computes(kernel_size):
    probe = some_probe(kernel_size)
    features = torch.randn(6, 9, 12, generator=torch.Generator().manual_seed(1))
    scores, evidence = probe.layer_terms(features)
    logits = (scores.sum(0).softmax(dim=1) * evidence.sum(0)).sum(dim=1).view(6, 2, 2).transpose(0, 1) + probe.bias[:, None]
    torch.testing.assert_close(logits, probe(features), rtol=1e-4, atol=1e-4)


def test_shares_sum_to_one_and_a_layer_without_weights_has_none():
    probe = some_probe()
    with torch.no_grad():
        probe.projections[1].zero_()
    features = torch.randn(40, 9, 12, generator=torch.Generator().manual_seed(1))
    images = LabelledImages(np.arange(40), np.zeros((40, 2), np.float32))
    plan = TaskSetPlan("tasks", ["a", "b"], images, images)
    positions = np.arange(40)
    run = ProbeRun(
        plan, shape(), Array(features), positions, positions, [], np.array([]), probe, np.zeros((2, 40, 2)), lambda *_: probe
    )
    rows = layer_shares(run)
    assert [(row["task"], row["layer"]) for row in rows] == [(task, layer) for task in "ab" for layer in (1, 2, 3)]
    for name in ("logit_share", "attention_share"):
        for task in "ab":
            assert sum(row[name] for row in rows if row["task"] == task) == pytest.approx(1, abs=1e-9)
        assert [row[name] for row in rows if row["layer"] == 2] == pytest.approx([0, 0], abs=1e-12)
    # Against numpy's covariance, of one task and seed.
    scores, evidence = probe.layer_terms(features)
    pooled = (scores.sum(0).softmax(dim=1) * evidence).sum(2).detach().double().numpy()[:, :, 0::2]
    by_seed = [np.cov(pooled[0, :, s], pooled[:, :, s].sum(0))[0, 1] / pooled[:, :, s].sum(0).var(ddof=1) for s in (0, 1)]
    assert rows[0]["logit_share"] == pytest.approx(np.mean(by_seed), abs=1e-6)


def test_a_selection_has_the_channels_of_its_layers():
    features = torch.arange(2 * 3 * 12.0).view(2, 3, 12)
    chosen = LayerSelection(Array(features), (5, 3, 4), (0, 2)).read(np.array([1]))
    torch.testing.assert_close(chosen, features[1:][..., [0, 1, 2, 3, 4, 8, 9, 10, 11]], rtol=0, atol=0)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_studies_of_a_dataset_agree_with_the_predictions(blob_dataset, encoder_folder, tmp_path):
    config = ProbeConfig(
        tasks=("blob", "stripe"),
        seeds=(0, 1),
        epochs=1,
        min_steps=1,
        batch_size=32,
        layer_study=True,
        label_fractions=(1.0, 0.02, 0.3),
    )
    seen = []
    arguments = {"encoder": encoder_folder, "dataset": blob_dataset, "labels": blob_dataset}
    run_probing(config, **arguments, out=tmp_path / "studied", progress=lambda *got: seen.append(got))
    run_probing(dataclasses.replace(config, layer_study=False, label_fractions=()), **arguments, out=tmp_path / "plain")
    assert max(done for done, _, _ in seen) <= seen[0][1]
    table = pq.read_table(tmp_path / "studied/predictions.parquet")
    assert table == pq.read_table(tmp_path / "plain/predictions.parquet")
    layers, efficiency = read(tmp_path / "studied/layers.csv"), read(tmp_path / "studied/label_efficiency.csv")
    frame = table.to_pandas()
    for task, own in frame.groupby("task"):
        auprc = own.groupby("seed").apply(lambda part: average_precision_score(part["target"], part["prediction"])).mean()
        (everything,) = (row for row in layers if row["task"] == task and row["layers"] == "all")
        assert float(everything["auprc"]) == pytest.approx(auprc, abs=1e-6)
        whole = [row for row in efficiency if row["task"] == task and row["fraction"] == "1.0"]
        assert float(whole[0]["auprc"]) == pytest.approx(auprc, abs=1e-6)
        sizes = [int(row["num_images"]) for row in efficiency if row["task"] == task]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1] / 10
    names = ["all", *(f"{word} {layer}" for word in ("only", "without") for layer in (1, 2, 3, 4))]
    assert [row["layers"] for row in layers if row["task"] == "average"] == names
    for row in layers:
        if row["layers"] != "all":
            assert float(row["low"]) <= float(row["high"])
    assert "<svg" in (tmp_path / "studied/label_efficiency.svg").read_text()


def test_bad_input():
    for fractions, message in (
        ((0.0, 1.0), "0.0 is no share"),
        ((0.1, 1.5), "1.5 is no share"),
        ((0.1, 0.1), "names a share twice"),
    ):
        with pytest.raises(InputError, match=message):
            ProbeConfig(tasks="all", label_fractions=fractions)
    arguments = ["probe", "weights", "dataset", "--out", "new", "--label-fractions", "few"]
    assert _run(lambda: app(args=arguments, standalone_mode=False)) == 2
