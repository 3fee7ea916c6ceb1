import numpy as np
import pytest
import torch

from radscale.errors import InputError
from radscale.models.feature_pyramid import FeaturePyramid, normalise_to_grid, resample_to_grid


def random_maps(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator) * scale for shape, scale in zip(shapes, (1, 5, 1e3, 0.1), strict=True)]


@pytest.mark.parametrize(
    ("sizes", "grid"),
    [((130, 65, 33, 17), 33), ((37, 37, 37, 37), 37), ((12, 12, 12, 12), 6)],
    ids=["MedImageInsight at 518 px", "RAD-DINO at 518 px", "averaged to a smaller grid"],
)
def test_reaches_grid_and_width_of_the_paper(sizes, grid):
    maps = random_maps([(channels, size, size) for channels, size in zip((2, 4, 8, 16), sizes, strict=True)])
    assert FeaturePyramid((2, 4, 8, 16), width=5, grid=grid)(maps).shape == (2, 20, grid, grid)


def test_area_average_where_the_map_is_finer():
    feature_map = torch.arange(36.0).view(1, 1, 6, 6)
    expected = feature_map.view(1, 1, 3, 2, 3, 2).mean(dim=(3, 5))
    torch.testing.assert_close(resample_to_grid(feature_map, 3), expected)


def test_bilinear_where_the_map_is_coarser():
    feature_map = torch.tensor([[0.0, 4.0], [0.0, 4.0]]).view(1, 1, 2, 2)
    # Cell centres of 4 cells lie at 1/4, 3/4, 5/4, 7/4 of a coarse cell; beyond the outer centres the value is kept.
    torch.testing.assert_close(resample_to_grid(feature_map, 4)[0, 0, 2], torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_finer_along_one_axis_and_coarser_along_the_other():
    feature_map = torch.tensor([[1.0, 3.0]]).repeat(8, 1).view(1, 1, 8, 2)
    assert resample_to_grid(feature_map, 4)[0, 0, 0].tolist() == [1.0, 1.5, 2.5, 3.0]


def test_layer_norm_is_over_channels_of_each_cell():
    maps = random_maps([(3, 2, 2), (4, 2, 2), (5, 2, 2), (6, 2, 2)])
    normed = normalise_to_grid(maps, 2)
    start = 0
    for feature_map in maps:
        values = feature_map.double().numpy()
        naive = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5)
        part = normed[:, start : start + values.shape[1]]
        np.testing.assert_allclose(part.numpy(), naive, rtol=1e-4, atol=1e-5)
        start += values.shape[1]


def test_values_fit_half_precision_however_large_the_map():
    spike = torch.zeros(1, 64, 1, 1)
    spike[0, 0] = 1e6
    assert normalise_to_grid([spike], 1).abs().max() <= 64**0.5


def test_projection_is_a_convolution_of_each_map_alone():
    maps = random_maps([(3, 4, 4)] * 4)
    pyramid = FeaturePyramid((3,) * 4, width=2, grid=4, kernel_size=3)
    with torch.no_grad():
        before = pyramid(maps)
        changed = pyramid([*maps[:3], maps[3].flip(1)])
    torch.testing.assert_close(changed[:, :6], before[:, :6])
    assert not torch.allclose(changed[:, 6:], before[:, 6:])


@pytest.mark.parametrize(("settings", "name"), [({"kernel_size": 2}, "kernel_size"), ({"width": 0}, "width")])
def test_refuses_impossible_sizes(settings, name):
    with pytest.raises(InputError, match=name):
        FeaturePyramid((3,), **{"width": 2, "grid": 4, **settings})
