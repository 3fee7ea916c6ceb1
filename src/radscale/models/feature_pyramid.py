"""Four feature maps of an encoder brought to one grid and width (paper, section 5.1).

The paper applies "convolutions and linear projections to unify dimensions" and names neither kernel, stride nor
nonlinearity. Without a nonlinearity a convolution followed by a linear projection is one convolution, so each map has
exactly one: 1 x 1 by default, 3 x 3 or larger as an option. Maps reach the common grid before it without parameters:
area averaging where the map is finer than the grid, bilinear interpolation where it is coarser.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radscale.errors import InputError


def resample_to_grid(feature_map: Tensor, grid: int) -> Tensor:
    """(B, C, h, w) -> (B, C, grid, grid): area average along an axis that shrinks, bilinear along one that grows."""
    height, width = feature_map.shape[-2:]
    if (height, width) == (grid, grid):
        return feature_map
    shrunk = F.adaptive_avg_pool2d(feature_map, (min(height, grid), min(width, grid)))
    if shrunk.shape[-2:] == (grid, grid):
        return shrunk
    return F.interpolate(shrunk, size=(grid, grid), mode="bilinear", align_corners=False)


def normalise_to_grid(feature_maps: Sequence[Tensor], grid: int) -> Tensor:
    """The part of the pyramid without parameters: LayerNorm over channels, then one grid, concatenated.

    The norm makes maps comparable whose raw scales differ by orders of magnitude (MedImageInsight's stages end without
    one), and bounds every value by sqrt(C), so that the result can be stored in half precision. It has no weights: a
    scale per channel would be absorbed by the projection that follows.

    Args:
        feature_maps: each (B, C_i, h_i, w_i).
        grid: side of the common grid in cells.

    Returns:
        (B, sum of C_i, grid, grid) in the dtype of the maps.
    """
    normed = [
        F.layer_norm(feature_map.permute(0, 2, 3, 1), feature_map.shape[1:2]).permute(0, 3, 1, 2)
        for feature_map in feature_maps
    ]
    return torch.cat([resample_to_grid(feature_map, grid) for feature_map in normed], dim=1)


class FeaturePyramid(nn.Module):
    """Feature maps -> one map of `len(in_channels) * width` channels (paper: 33 x 33 x 4096 and 37 x 37 x 3072).

    The projections have no bias: whatever reads the result (softmax over tokens, a linear head with its own bias)
    absorbs it.

    Args:
        in_channels: channels of each map, e.g. 256, 512, 1024, 2048.
        width: channels that each map is projected to.
        grid: side of the common grid in cells.
        kernel_size: odd; of the projecting convolution.

    Raises:
        InputError: an even kernel size, or a width or grid below 1.
    """

    def __init__(self, in_channels: Sequence[int], width: int, grid: int, kernel_size: int = 1) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {kernel_size}: it must be odd and positive; use 1 or 3")
        if width < 1 or grid < 1:
            raise InputError(f"width {width} and grid {grid}: both must be at least 1")
        self.in_channels = tuple(in_channels)
        self.grid = grid
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, width, kernel_size, padding="same", bias=False) for channels in in_channels
        )

    def project(self, normed: Tensor) -> Tensor:
        """Project what `normalise_to_grid` returned: (B, sum of C_i, grid, grid) -> (B, maps * width, grid, grid)."""
        parts = normed.split(self.in_channels, dim=1)
        return torch.cat([layer(part) for layer, part in zip(self.projections, parts, strict=True)], dim=1)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Each (B, C_i, h_i, w_i) -> (B, maps * width, grid, grid)."""
        return self.project(normalise_to_grid(feature_maps, self.grid))
