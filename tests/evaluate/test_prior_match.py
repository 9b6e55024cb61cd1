"""Latents against their prior: distribution functions, kernel and correction by other means."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from agehpc.errors import DataError
from agehpc.evaluate import prior_match as module
from agehpc.evaluate.prior_match import MARGINALS, ks, mmd, prior_match
from agehpc.models.prior import MOMENTS, PRIORS, Prior, draw


def drawn(prior: Prior, samples: int, latent: int, seed: int = 0) -> torch.Tensor:
    return draw(prior, [np.random.default_rng(seed)] * samples, latent)


def test_every_prior_has_a_marginal():
    assert set(MARGINALS) == set(PRIORS)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("latent", [2, 3, 9])
def test_marginals_are_distribution_functions_with_the_priors_moments(prior: Prior, latent: int):
    for d in range(latent):

        def cdf(x: float, d: int = d) -> float:
            return float(MARGINALS[prior](np.array([x]), d, latent)[0])

        edges = np.linspace(-8, 8, 1001)
        values = MARGINALS[prior](edges, d, latent)
        assert (np.diff(values) >= 0).all()
        assert values[[0, -1]] == pytest.approx([0, 1], abs=1e-12)
        # E[x^2] = integral of 2 x (1 - F(x) + F(-x)) over x > 0; the mean likewise.
        square = quad(lambda x: 2 * x * (1 - cdf(x) + cdf(-x)), 0, 8, limit=200)[0]
        mean = quad(lambda x: 1 - cdf(x) - cdf(-x), 0, 8, limit=200)[0]
        assert (mean, square - mean**2) == pytest.approx(MOMENTS[prior], abs=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("latent", [2, 16])
def test_draws_match_and_what_is_a_little_off_does_not(prior: Prior, latent: int):
    z = drawn(prior, 2000, latent, seed=2)
    found = prior_match(z, prior, seed=1)
    assert found["ks_rejected"] == 0
    assert found["ks_p"] > module.LEVEL
    assert abs(found["mmd"]) < 2e-3
    assert abs(found["mmd_draws"]) < 2e-3
    off = z.clone()
    off[:, 1] = 0.8 * off[:, 1] + 0.1
    wrong = prior_match(off, prior, seed=1)
    assert wrong["ks_rejected"] == pytest.approx(1 / latent)
    assert wrong["ks_p"] < 1e-3
    assert wrong["ks"] > found["ks"]
    assert wrong["mmd_draws"] == found["mmd_draws"]


@pytest.mark.parametrize("prior", PRIORS)
def test_no_prior_passes_for_another(prior: Prior):
    z = drawn(prior, 2000, 8, seed=2)
    for other in PRIORS:
        assert (ks(z, other)[1].min() > module.LEVEL) == (other == prior), other


def test_equal_to_scipy_dimension_by_dimension():
    z = drawn("gaussian", 500, 5) * torch.tensor([1, 1.05, 1.1, 1.15, 1.5])
    statistic, p = ks(z, "gaussian")
    theirs = [stats.kstest(z[:, d].double().numpy(), "norm") for d in range(5)]
    assert statistic == pytest.approx([t.statistic for t in theirs], rel=1e-12)
    # Holm: the smallest times 5, the next times 4 ..., never less than one before, at most 1.
    raw, wanted, least = np.array([t.pvalue for t in theirs]), np.zeros(5), 0.0
    for step, d in enumerate(sorted(range(5), key=lambda d: raw[d])):
        least = wanted[d] = min(1.0, max(least, raw[d] * (5 - step)))
    assert p == pytest.approx(wanted, rel=1e-12)
    assert len(set(wanted)) > 2


def test_a_matching_latent_is_seldom_rejected():
    """Without a correction, 30 dimensions reject in 4 of 5 cases."""
    rejected = [ks(drawn("gaussian", 200, 30, s), "gaussian")[1].min() < 0.05 for s in range(60)]
    assert sum(rejected) <= 8  # 3 are expected; more than 8 of 60 in one case of 200


@pytest.mark.parametrize("prior", ["gaussian", "uniform"])
@pytest.mark.parametrize("pairs", [1, 25, 10**6])
def test_mmd_pair_by_pair(monkeypatch, prior: Prior, pairs: int):
    monkeypatch.setattr(module, "PAIRS", pairs)
    x, y = drawn("gaussian", 11, 3).double().numpy(), drawn("uniform", 8, 3).double().numpy()
    variance = {"gaussian": 1, "uniform": 1 / 3}[prior]

    def k(a: np.ndarray, b: np.ndarray) -> float:
        c = 2 * 3 * variance * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
        return float((c / (c + ((a - b) ** 2).sum())).mean())

    xx = np.mean([k(x[i], x[j]) for i in range(11) for j in range(11) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(8) for j in range(8) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    found = mmd(torch.from_numpy(x), torch.from_numpy(y), prior)
    assert found == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_mmd_sees_what_no_dimension_shows():
    """Two equal dimensions have the right marginals."""
    z = drawn("gaussian", 1000, 1).expand(-1, 2)
    found = prior_match(z, "gaussian", seed=1)
    assert found["ks_rejected"] == 0
    assert found["mmd"] > 10 * abs(found["mmd_draws"])


def test_what_cannot_be_judged():
    with pytest.raises(DataError, match="two points"):
        ks(torch.ones(5, 1), "sphere")
    with pytest.raises(DataError, match="there are 1"):
        mmd(torch.ones(1, 2), torch.ones(9, 2), "gaussian")
