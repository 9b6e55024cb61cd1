"""Prior draws: their distribution, and that each depends on its key alone."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from agehpc.config.schema import ModelConfig
from agehpc.data.keyed import philox
from agehpc.models.prior import MOMENTS, PRIORS, Prior, draw, mode_means

LATENT, DRAWS = 7, 2000
NAMES = get_args(Prior)


def keyed(first: int, count: int, seed: int = 3) -> list[np.random.Generator]:
    return [philox(seed, "prior", n) for n in range(first, first + count)]


def mixture_cdf(phase: float) -> object:
    """Distribution of one dimension: ten normals whose means go once round a circle."""
    means = [2**0.5 * 0.9 * np.cos(2 * np.pi * k / 10 - phase) for k in range(10)]
    return lambda z: np.mean([stats.norm(m, (1 - 0.81) ** 0.5).cdf(z) for m in means], axis=0)


def sphere_cdf(z: np.ndarray) -> np.ndarray:
    """(z / radius)^2 of a point on the sphere is Beta(1/2, (Z - 1) / 2)."""
    inside = special.betainc(0.5, (LATENT - 1) / 2, np.minimum(z**2 / LATENT, 1))
    return 0.5 + 0.5 * np.sign(z) * inside


def cdf(prior: Prior, dimension: int) -> object:
    if prior == "mixture":
        return mixture_cdf(np.pi / 2 if dimension % 2 else 0.0)
    known = {"gaussian": stats.norm().cdf, "uniform": stats.uniform(-1, 2).cdf}
    return (known | {"sphere": sphere_cdf})[prior]


@pytest.mark.parametrize("prior", NAMES)
def test_distribution(prior: Prior):
    z_BZ = draw(prior, keyed(0, DRAWS), LATENT)
    assert (z_BZ.shape, z_BZ.dtype) == ((DRAWS, LATENT), torch.float32)
    for n, dimension in enumerate(z_BZ.double().numpy().T):
        assert stats.kstest(dimension, cdf(prior, n)).pvalue > 1e-3
    mean, variance = MOMENTS[prior]
    for values in z_BZ.double().T:
        assert values.mean().item() == pytest.approx(mean, abs=5 * (variance / DRAWS) ** 0.5)
        # No kurtosis here is above the Gaussian's.
        assert values.var().item() == pytest.approx(variance, rel=5 * (2 / DRAWS) ** 0.5)
    # Neighbouring draws know nothing of each other; in the mixture, pairs share a mode.
    correlations = torch.corrcoef(torch.cat([z_BZ[1:], z_BZ[:-1]], 1).T).fill_diagonal_(0)
    across = correlations[:LATENT, LATENT:]
    assert (across if prior == "mixture" else correlations).abs().max() < 5 / DRAWS**0.5


@pytest.mark.parametrize("latent", [1, 2, 64, 511])
def test_sphere_has_one_radius(latent: int):
    z_BZ = draw("sphere", keyed(0, 50), latent).double()
    torch.testing.assert_close(z_BZ.norm(dim=1), torch.full((50,), latent**0.5).double())


@pytest.mark.parametrize("latent", [2, 7, 64])
def test_mixture_modes(latent: int):
    means = mode_means(latent)
    for k in range(10):
        pair = 2**0.5 * 0.9 * np.array([np.cos(2 * np.pi * k / 10), np.sin(2 * np.pi * k / 10)])
        np.testing.assert_allclose(means[k], np.tile(pair, latent)[:latent], atol=1e-15)
    np.testing.assert_allclose(means.mean(0), 0, atol=1e-15)
    np.testing.assert_allclose((means**2).mean(0) + 1 - 0.9**2, 1, rtol=1e-14)


def test_mixture_draws_lie_around_their_modes():
    latent = 64
    z_BZ = draw("mixture", keyed(0, DRAWS), latent).double()
    means = torch.from_numpy(mode_means(latent))
    mode_B = torch.cdist(z_BZ, means).argmin(1)  # modes are ten deviations apart here
    counts = torch.bincount(mode_B, minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    inside = z_BZ - means[mode_B]
    deviation = (1 - 0.9**2) ** 0.5
    assert stats.kstest(inside.flatten().numpy(), stats.norm(0, deviation).cdf).pvalue > 1e-3
    correlations = torch.corrcoef(inside.T).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / DRAWS**0.5


@pytest.mark.parametrize("prior", NAMES)
def test_a_draw_depends_on_its_key_alone(prior: Prior):
    whole = draw(prior, keyed(0, 8), LATENT)
    parts = [draw(prior, keyed(first, 2), LATENT) for first in (6, 2, 0, 4)]
    assert torch.equal(torch.cat([parts[2], parts[1], parts[3], parts[0]]), whole)
    assert not torch.equal(draw(prior, keyed(0, 8, seed=4), LATENT), whole)
    assert len(whole.unique()) == whole.numel()


def test_draws_of_before_are_unchanged():
    """Runs that were trained with these priors resume and sample as they did."""

    def numbers(prior: Prior) -> Tensor:
        return draw(prior, [np.random.Generator(np.random.Philox(7))], 3)[0]

    same = np.random.Generator(np.random.Philox(7)).standard_normal(3, dtype=np.float32)
    assert np.array_equal(numbers("gaussian").numpy(), same)
    same = np.random.Generator(np.random.Philox(7)).random(3, dtype=np.float32) * 2 - 1
    assert np.array_equal(numbers("uniform").numpy(), same)


def test_the_configuration_names_every_prior():
    assert get_args(ModelConfig.model_fields["prior"].annotation) == NAMES
    assert set(PRIORS) == set(MOMENTS) == set(NAMES)
