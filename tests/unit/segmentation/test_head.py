"""The stacked heads against the paper's form, and the way between grid and pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from radscale.models import Preprocessing, visible_box
from radscale.models.feature_pyramid import FeaturePyramid
from radscale.segmentation import HeadShape, SegmentationConfig, StackedHead, train_head
from radscale.segmentation.frames import interpolation_matrix, predicted_masks, seen_mask, upsample


@pytest.mark.parametrize("factor", [1, 2])
def test_projection_upsampling_and_head_are_one_matrix(factor: int) -> None:
    """Pyramid, transposed convolution of equal kernel and stride, 1 x 1 head: what the paper describes, built of layers."""
    torch.manual_seed(0)
    pyramid = FeaturePyramid((3, 5, 4, 2), width=6, grid=7)
    layer = nn.ConvTranspose2d(24, 24, factor, stride=factor, bias=False)
    head = nn.Conv2d(24, 2, 1)
    features = torch.randn(3, 14, 7, 7)
    expected = head(layer(pyramid.project(features)))

    projection = torch.block_diag(*[part.weight[:, :, 0, 0] for part in pyramid.projections])
    joined = torch.einsum("kd,cdyx,ci->kyxi", head.weight[:, :, 0, 0], layer.weight, projection)
    stacked = StackedHead(HeadShape(in_channels=14, grid=7, num_tasks=2, upsampling=factor), seeds=(0, 1))
    with torch.no_grad():
        stacked.weight[1] = joined.reshape(-1, 14, 1, 1)
        stacked.bias[1] = head.bias
    found = stacked(features.flatten(2).transpose(1, 2))
    assert found.shape == (2, 3, 2, 7 * factor, 7 * factor)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)


def test_standardising_changes_the_kernels_as_it_would_the_features() -> None:
    features = torch.randn(2, 25, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
    mean, deviation = features.mean((0, 1)), features.std((0, 1))
    heads = [StackedHead(HeadShape(in_channels=6, grid=5, num_tasks=2, kernel_size=k), seeds=(4,)) for k in (1, 3)]
    for head in heads:
        plain = head((features - mean) / deviation)
        head.standardise_by(mean, deviation)
        torch.testing.assert_close(head(features), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cells", "size"), [(5, 37), (37, 518), (9, 9), (7, 4)])
def test_interpolation_is_torchs_bilinear(cells: int, size: int) -> None:
    logits = torch.randn(2, 3, cells, cells, generator=torch.Generator().manual_seed(1))
    matrix = interpolation_matrix(size, cells)
    expected = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(logits, matrix, matrix), expected, rtol=1e-4, atol=1e-4)


def test_what_the_encoder_crops_away_is_never_predicted() -> None:
    preprocessing = Preprocessing(image_size_px=40, resize="shortest_edge_center_crop", crop_fraction=0.8)
    box = visible_box(preprocessing, (100, 140))
    found = predicted_masks(torch.full((1, 8, 8), 9.0), box, (100, 140), threshold=0.5)[0]
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 89, 30, 109)
    assert found.sum() == 80 * 80


def test_a_mask_comes_back_from_the_square_to_its_place() -> None:
    preprocessing = Preprocessing(image_size_px=64, resize="shortest_edge_center_crop")
    mask = np.zeros((128, 200), bool)
    mask[40:72, 90:130] = True
    box = visible_box(preprocessing, mask.shape)
    square = seen_mask(mask, box, 64)
    assert square.sum() == pytest.approx(mask.sum() / 4, rel=0.02), "a quarter of the pixels for the same area"
    found = predicted_masks(torch.from_numpy(square)[None] * 20 - 10, box, mask.shape, threshold=0.5)[0]
    assert (found ^ mask).sum() <= 2 * (32 + 40) * 1.5


def problem(num_images: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A channel that is high in the cells of a square, among noise."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(num_images, 64, 5, generator=generator)
    masks = torch.zeros(num_images, 1, 32, 32)
    for index in range(num_images):
        y, x = torch.randint(0, 6, (2,), generator=generator).tolist()
        masks[index, 0, 4 * y : 4 * y + 12, 4 * x : 4 * x + 12] = 1
        features[index].view(8, 8, 5)[y : y + 3, x : x + 3, 3] += 5
    return features, masks


class Held:
    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def read(self, positions: np.ndarray) -> torch.Tensor:
        return self.features[positions]


def train(seeds: tuple[int, ...], known: np.ndarray | None = None, **settings: object) -> StackedHead:
    features, masks = problem()
    config = SegmentationConfig(seeds=seeds, epochs=10, batch_size=8, min_steps=100, learning_rate=0.03, **settings)  # type: ignore[arg-type]
    shape = HeadShape(in_channels=5, grid=8, num_tasks=1)
    known = np.ones((len(features), 1), bool) if known is None else known
    return train_head(Held(features), lambda positions: masks[positions], known, shape, config)


def test_a_seed_trained_together_equals_the_seed_trained_alone() -> None:
    together, alone = train((0, 7, 3)), train((7,))
    torch.testing.assert_close(together.weight[1], alone.weight[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(together.weight[0], together.weight[2])


@pytest.mark.parametrize(
    "settings",
    [{}, {"dice_over": "image"}, {"dice_squared": True}, {"cross_entropy": 1.0}],
    ids=lambda s: "-".join(s) or "plain",
)
def test_every_loss_finds_the_square(settings: dict[str, object]) -> None:
    features, masks = problem()
    logits = train((0,), **settings)(features)[0].detach()
    matrix = interpolation_matrix(32, 8)
    found = upsample(logits, matrix, matrix) > 0
    overlap = 2 * (found * masks).sum() / (found.sum() + masks.sum())
    assert overlap > 0.85


def test_unknown_masks_teach_nothing() -> None:
    known = np.zeros((24, 1), bool)
    known[:12] = True
    features, masks = problem()
    config = SegmentationConfig(seeds=(0,), epochs=2, batch_size=24, min_steps=4, cross_entropy=0.5)
    shape = HeadShape(in_channels=5, grid=8, num_tasks=1)
    other = masks.clone()
    other[12:] = 1 - other[12:]
    heads = [train_head(Held(features), lambda p, m=m: m[p], known, shape, config) for m in (masks, other)]
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=0, atol=0)
