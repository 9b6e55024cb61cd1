"""The Frechet distance against closed forms, scipy's sqrtm and other implementations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from agehpc.errors import DataError
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.moments import Moments


def orthogonal(size: int, draws: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(draws.standard_normal((size, size)))[0]


def distance(*arrays: np.ndarray) -> float:
    return frechet(*(torch.from_numpy(a) for a in arrays))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_covariances_that_commute(features: int, seed: int, singular: bool):
    """Closed form: |m_x - m_y|^2 + sum of (sqrt(a) - sqrt(b))^2 for eigenvalues a, b."""
    draws = np.random.default_rng(seed)
    basis = orthogonal(features, draws)
    a, b = draws.uniform(0.1, 4, (2, features))
    if singular:
        a[: features // 2], b[features // 3 :] = 0, 0
    x, y = draws.standard_normal((2, features))
    wanted = np.square(x - y).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = distance(x, basis * a @ basis.T, y, basis * b @ basis.T)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_two_dimensions_that_do_not_commute():
    """tr (C_x C_y)^(1/2) = sqrt(tr C_x C_y + 2 sqrt(det C_x det C_y)) in two dimensions."""
    x, y = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.9], [-0.9, 3.0]])
    cross = np.sqrt(np.trace(x @ y) + 2 * np.sqrt(np.linalg.det(x) * np.linalg.det(y)))
    wanted = 25 + np.trace(x) + np.trace(y) - 2 * cross
    found = distance(np.array([3.0, 0.0]), x, np.array([0.0, 4.0]), y)
    assert found == pytest.approx(wanted, rel=1e-12)


def features(samples: int, size: int, seed: int) -> torch.Tensor:
    """Non-negative, unequally scaled, correlated: as pooled features are."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(9))
    scale = torch.logspace(0, -2, size)
    return (torch.randn(samples, size, generator=draws) * scale @ mixing + 0.1 * seed).relu()


@pytest.mark.parametrize("samples", [300, 40], ids=["regular", "fewer samples than features"])
def test_other_implementations(samples: int):
    sets = [features(samples, 64, seed).double() for seed in (0, 1)]
    moments = []
    for x in sets:
        moments.append(Moments(64))
        moments[-1].add(x)
    given = [t for m in moments for t in (m.mean_F, m.covariance())]
    found = frechet(*given)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in sets), False)
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert found == pytest.approx(float(_compute_fid(*given)), rel=1e-6)
    if samples > 64:  # sqrtm has no square root to find of a singular product
        root = sqrtm((given[1] @ given[3]).numpy())
        mean = (given[0] - given[2]).square().sum()
        wanted = float(mean + given[1].trace() + given[3].trace()) - 2 * np.trace(root).real
        assert found == pytest.approx(wanted, rel=1e-9)


def test_fewer_samples_than_features_by_singular_values():
    """tr (C_x C_y)^(1/2) is the sum of singular values of X Y^T, which squares nothing."""
    x, y = (features(40, 200, seed).double() for seed in (0, 1))
    centred = [t - t.mean(0) for t in (x, y)]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / 39
    traces = sum(t.square().sum() / 39 for t in centred)
    wanted = (x.mean(0) - y.mean(0)).square().sum() + traces - 2 * cross
    found = frechet(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert found == pytest.approx(float(wanted), rel=1e-11)
    assert found == pytest.approx(frechet(y.mean(0), y.T.cov(), x.mean(0), x.T.cov()), rel=1e-11)


@pytest.mark.parametrize("samples", [300, 40])
def test_a_set_is_at_no_distance_from_itself(samples: int):
    x = features(samples, 64, 0).double()
    given = (x.mean(0), x.T.cov())
    assert frechet(*given, *given) == pytest.approx(0, abs=1e-6 * float(given[1].trace()))


def test_constant_features():
    zero = torch.zeros(3, 3)
    assert frechet(torch.zeros(3), zero, torch.ones(3), zero) == 3
    assert frechet(torch.zeros(3), zero, torch.ones(3), torch.eye(3)) == 6


def test_features_that_are_not_finite():
    mean, cov = torch.zeros(2), torch.eye(2)
    with pytest.raises(DataError, match="NaN or infinite"):
        frechet(mean, cov, mean, torch.tensor([[1.0, 0.0], [0.0, float("nan")]]))
