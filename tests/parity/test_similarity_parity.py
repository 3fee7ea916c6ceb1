"""Patch similarity against scikit-learn's cosine similarity."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from radscale.models import patch_similarity


@pytest.mark.parametrize(("shape", "scale"), [((8, 5, 7), 1.0), ((384, 16, 16), 1e-3), ((3, 1, 4), 50.0)])
def test_patch_similarity_is_scikit_learns(shape: tuple[int, int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    features = scale * (torch.randn(shape, generator=generator) + 0.5)
    patches = features.flatten(1).T.double().numpy()
    expected = cosine_similarity(patches).reshape(*shape[1:], *shape[1:])
    for row, column in np.ndindex(*shape[1:]):
        found = patch_similarity(features, row, column).numpy()
        np.testing.assert_allclose(found, expected[row, column], atol=2e-6)
