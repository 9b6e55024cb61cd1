"""KID against torch-fidelity's, torchmetrics' kernel and a plain float64 writing."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from agehpc.errors import DataError
from agehpc.evaluate import kernel_distance
from agehpc.evaluate.kernel_distance import kid


def features(samples: int, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (torch.randn(samples, 24, generator=draws) + 0.3 * seed).relu()


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


# The first takes all pairs at once, the second, of many more samples than are drawn, subsets.
@pytest.mark.parametrize(("samples", "subsets", "size"), [(80, 12, 50), (400, 3, 50)])
@pytest.mark.parametrize("rows", [7, 1024])
def test_equal_to_torch_fidelity(monkeypatch, samples: int, subsets: int, size: int, rows: int):
    monkeypatch.setattr(kernel_distance, "ROWS", rows)
    x, y = features(samples, 0).double(), features(samples + 9, 1).double()
    options = {"kid_subsets": subsets, "kid_subset_size": size, "verbose": False}
    theirs = kid_features_to_metric(x, y, **options)
    wanted = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert kid(x, y, subsets, size) == pytest.approx(wanted, rel=1e-10)
    assert kid(x.float(), y.float(), subsets, size) == pytest.approx(wanted, rel=1e-5)
    assert kid(x, y, subsets, size, seed=1) != pytest.approx(wanted, rel=1e-4)


def test_one_subset_of_everything():
    x, y = features(21, 0).double(), features(21, 1).double()
    value, spread = kid(x, y, subsets=1, size=21)
    assert value == pytest.approx(plain(x.numpy(), y.numpy()), rel=1e-10)
    assert value == pytest.approx(float(poly_mmd(x, y)), rel=1e-6)
    assert spread == 0


def test_alike_sets_are_around_zero():
    """Unbiased: the mean over subsets of disjoint halves of one distribution."""
    values = [
        kid(*torch.randn(2, 30, 24, generator=torch.Generator().manual_seed(s)), 1, 30)[0]
        for s in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5
    assert min(values) < 0


def test_too_few_samples():
    with pytest.raises(DataError, match="subsets of 1000 samples, but a set has 999"):
        kid(features(1000, 0), features(999, 1))
