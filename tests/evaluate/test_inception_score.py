"""The Inception Score against closed forms and torch-fidelity's."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from agehpc.errors import DataError
from agehpc.evaluate.inception_score import inception_score


def logits(samples: int, scale: float = 3.0) -> torch.Tensor:
    """Float32 outputs whose distribution changes with the position: the order counts."""
    draws = torch.Generator().manual_seed(0)
    drift = torch.linspace(0, 2, samples)[:, None]
    return torch.randn(samples, 20, generator=draws) * scale + drift * torch.arange(20)


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_equal_to_torch_fidelity(splits: int):
    x = logits(203)
    theirs = isc_features_to_metric(x, splits)
    wanted = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert inception_score(x, splits) == pytest.approx(wanted, rel=1e-9)
    assert inception_score(x.half(), splits) == pytest.approx(wanted, rel=1e-2)
    assert inception_score(x, splits, seed=1) != pytest.approx(wanted, rel=1e-6) or splits == 1


def test_certain_and_even_classes_score_their_number():
    """Also where the other classes' probabilities are 0 in float64."""
    for certain in (50.0, 5000.0):
        x = certain * torch.eye(8).repeat(30, 1)
        assert inception_score(x, splits=1) == pytest.approx((8, 0), rel=1e-9)
        assert inception_score(x[::8], splits=3) == pytest.approx((1, 0), rel=1e-9)


def test_the_same_outputs_for_all_score_one():
    assert inception_score(logits(1).repeat(40, 1)) == pytest.approx((1, 0), abs=1e-9)


def test_two_splits_by_hand():
    x = logits(5)
    order = np.random.RandomState(2020).permutation(5)
    scores = []
    for part in (order[:2], order[2:]):
        p = np.exp(x.double().numpy()[part])
        p /= p.sum(1, keepdims=True)
        scores.append(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))
    wanted = np.mean(scores), np.std(scores)
    assert inception_score(x, splits=2) == pytest.approx(wanted, rel=1e-9)


def test_too_few_samples_and_damaged_outputs():
    with pytest.raises(DataError, match="10 splits, but there are 9 samples"):
        inception_score(logits(9))
    x = logits(20)
    x[3, 4] = float("inf")
    with pytest.raises(DataError, match="NaN or infinite"):
        inception_score(x)
