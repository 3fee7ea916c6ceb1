import numpy as np
import pytest
import torch

from radscale.models.feature_pyramid import normalise_to_grid
from radscale.probing.classifier import ProbeShape, StackedProbe, masked_bce, predict, train_probe

SHAPE = ProbeShape(in_channels=(3, 3, 4, 5), grid=4, width=2, num_tasks=3)


class ArrayFeatures:
    def __init__(self, array):
        self.array = torch.from_numpy(array)

    def read(self, positions):
        return self.array[positions]


def make_problem(num_images=120, seed=0):
    """Three tasks, each with a pattern of channels that stands in one random cell of the positive images."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((num_images, 16, 15)).astype(np.float32)
    targets = (rng.random((num_images, 3)) < 0.4).astype(np.float32)
    for image, task in np.argwhere(targets == 1):
        features[image, rng.integers(16), task * 5 : task * 5 + 5] += 5
    return ArrayFeatures(features), targets


def train(features, targets, **settings):
    defaults = {"seeds": (0, 1), "epochs": 2, "batch_size": 32, "learning_rate": 0.02}
    return train_probe(features, targets, SHAPE, **{**defaults, **settings})


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_equals_the_classifier_as_the_paper_writes_it(kernel_size):
    shape = ProbeShape(in_channels=(3, 3, 4, 5), grid=4, width=2, num_tasks=3, kernel_size=kernel_size)
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, channels, size, size, generator=generator)
        for channels, size in zip(shape.in_channels, (9, 6, 4, 2), strict=True)
    ]
    probe = StackedProbe(shape, seeds=(3, 4), prevalence=torch.tensor([0.1, 0.5, 0.9]))
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        probe.standardise_by(torch.randn(15, generator=generator), torch.rand(15, generator=generator) + 0.5)
        features = normalise_to_grid(maps, 4).flatten(2).transpose(1, 2)
        logits = probe(features)
        for index in range(2):
            torch.testing.assert_close(logits[index], probe.unstack(index)(maps), rtol=1e-4, atol=1e-4)


def test_a_seed_trained_together_equals_the_seed_trained_alone():
    features, targets = make_problem()
    together = train(features, targets, seeds=(0, 7, 2))
    alone = train(features, targets, seeds=(7,))
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(together.get_parameter(name)[1:2], parameter, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.weight[0], together.weight[1])


def test_training_is_repeatable_bit_by_bit_and_leaves_the_global_generator_alone():
    features, targets = make_problem()
    state = torch.get_rng_state()
    first = train(features, targets)
    torch.testing.assert_close(torch.get_rng_state(), state)
    torch.manual_seed(5)
    for one, other in zip(first.parameters(), train(features, targets).parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("share_unknown", [0.0, 0.5])
def test_finds_what_stands_in_one_cell(share_unknown):
    features, targets = make_problem(400)
    known = targets[:300].copy()
    known[np.random.default_rng(1).random(known.shape) < share_unknown] = np.nan
    probe = train(features, known, epochs=25)
    probabilities = predict(probe, features, np.arange(300, 400))
    for seed in range(2):
        for task in range(3):
            positive = targets[300:, task] == 1
            wins = probabilities[seed, positive, task][:, None] > probabilities[seed, ~positive, task]
            assert wins.mean() > 0.95


def test_size_of_the_pieces_does_not_matter(monkeypatch):
    features, targets = make_problem()
    whole = train(features, targets)
    monkeypatch.setattr("radscale.training.features.CHUNK_ELEMENTS", 7 * 16 * 15)
    in_pieces = train(features, targets)
    torch.testing.assert_close(in_pieces.weight, whole.weight, rtol=1e-3, atol=1e-5)
    everything = np.arange(120)
    np.testing.assert_allclose(predict(in_pieces, features, everything), predict(whole, features, everything), atol=1e-4)


def test_unknown_targets_carry_no_loss_and_no_gradient():
    logits = torch.tensor([[[0.5, -1.0], [2.0, 0.0]]], requires_grad=True)
    loss = masked_bce(logits, torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
    loss.backward()
    expected = np.log1p(np.exp(-0.5)) + np.log1p(np.exp(2.0)) + np.log(2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad[0, 0, 1] == 0
    assert logits.grad[0, 0, 0] != 0


def test_biases_start_at_the_prevalence():
    probe = StackedProbe(SHAPE, seeds=(0,), prevalence=torch.tensor([0.01, 0.5, 0.9]))
    np.testing.assert_allclose(probe.bias.detach().sigmoid().numpy()[0], [0.01, 0.5, 0.9], rtol=1e-5)


def test_every_image_is_seen_once_per_epoch():
    features, targets = make_problem(70)
    seen, reported = [], []
    read = features.read

    def counting_read(positions):
        seen.append(np.asarray(positions))
        return read(positions)

    features.read = counting_read
    train(features, targets, epochs=2, progress=reported.append)
    batches = seen[1:]
    assert [len(batch) for batch in batches] == [24, 23, 23] * 2
    assert sorted(np.concatenate(batches[:3])) == list(range(70))
    assert not np.array_equal(batches[0], batches[3])
    assert reported == [24, 47, 70, 94, 117, 140]


@pytest.mark.parametrize(("num_images", "sizes"), [(70, [14] * 5), (4, [1] * 4), (320, [32] * 10)])
def test_few_images_are_cut_into_batches_enough(num_images, sizes):
    features, targets = make_problem(num_images)
    reported = []
    train(features, targets, epochs=2, min_steps=10, progress=reported.append)
    assert np.diff([0, *reported]).tolist() == sizes * 2
