"""Prior draws: their distribution, and that each depends on its key alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from agehpc.data.keyed import philox
from agehpc.models.prior import MOMENTS, draw

LATENT, DRAWS = 7, 2000


def keyed(first: int, count: int, seed: int = 3) -> list[np.random.Generator]:
    return [philox(seed, "prior", n) for n in range(first, first + count)]


@pytest.mark.parametrize("prior", ["gaussian", "uniform"])
def test_distribution(prior: str):
    z_BZ = draw(prior, keyed(0, DRAWS), LATENT)  # type: ignore[arg-type]
    assert (z_BZ.shape, z_BZ.dtype) == ((DRAWS, LATENT), torch.float32)
    cdf = stats.norm().cdf if prior == "gaussian" else stats.uniform(-1, 2).cdf
    for dimension in z_BZ.double().numpy().T:
        assert stats.kstest(dimension, cdf).pvalue > 1e-3
    values = z_BZ.double().flatten()
    mean, variance = MOMENTS[prior]  # type: ignore[index]
    assert values.mean().item() == pytest.approx(mean, abs=5 * (variance / len(values)) ** 0.5)
    assert values.var().item() == pytest.approx(variance, rel=5 * (2 / len(values)) ** 0.5)
    # Neither dimensions nor neighbouring draws know of each other.
    correlations = torch.corrcoef(torch.cat([z_BZ[1:], z_BZ[:-1]], 1).T).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / DRAWS**0.5


@pytest.mark.parametrize("prior", ["gaussian", "uniform"])
def test_a_draw_depends_on_its_key_alone(prior: str):
    whole = draw(prior, keyed(0, 8), LATENT)  # type: ignore[arg-type]
    parts = [draw(prior, keyed(first, 2), LATENT) for first in (6, 2, 0, 4)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat([parts[2], parts[1], parts[3], parts[0]]), whole)
    assert not torch.equal(draw(prior, keyed(0, 8, seed=4), LATENT), whole)  # type: ignore[arg-type]
    assert len(whole.unique()) == whole.numel()
