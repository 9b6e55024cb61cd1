"""Streaming moments against numpy's on all rows at once, for every batch size and world size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agehpc.errors import DataError
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.moments import Moments
from tests.evaluate.bodies import FEATURES, rows
from tests.ranks import run_ranks


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sampled_from([0.0, 1e6]))
def test_any_batches_equal_all_rows_at_once(sizes: list[int], offset: float):
    x = rows(sum(sizes)).double() + offset
    moments = Moments(FEATURES)
    for batch in x.split(sizes):
        moments.add(batch)
    assert moments.count == sum(sizes)
    for ddof in (0, 1):
        if moments.count <= ddof:
            with pytest.raises(DataError, match=f"{ddof + 1} or more samples.*{moments.count}"):
                moments.covariance(ddof)
            continue
        np.testing.assert_allclose(moments.mean_F, x.numpy().mean(0), rtol=1e-13)
        wanted = np.cov(x.numpy(), rowvar=False, ddof=ddof)
        np.testing.assert_allclose(moments.covariance(ddof), wanted, rtol=1e-9, atol=1e-9)


def test_float32_rows_are_summed_in_float64():
    """Sums of 1000 +- 1e-3 in float32 have no digit of the variance left."""
    x = (1000 + 1e-3 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))).float()
    moments = Moments(2)
    for batch in x.split(64):
        moments.add(batch)
    wanted = np.cov(x.double().numpy(), rowvar=False)
    np.testing.assert_allclose(moments.covariance(), wanted, rtol=1e-9, atol=1e-15)


def test_saved_moments_go_on_where_they_were():
    x = rows(20)
    moments, through = Moments(FEATURES), Moments(FEATURES)
    through.add(x[:7])
    state = {name: value.clone() for name, value in through.to_dict().items()}
    through = Moments.from_dict(state)
    for part in (moments, through):
        part.add(x[7:] if part is through else x)
    assert through.count == moments.count == 20
    torch.testing.assert_close(through.covariance(), moments.covariance(), rtol=1e-12, atol=1e-12)


def test_what_is_no_moments_is_not_loaded():
    state = Moments(3).to_dict()
    for wrong in ({"scatter": torch.zeros(3, 2).double()}, {"mean": torch.zeros(3)}):
        with pytest.raises(AssertionError):
            Moments.from_dict(state | wrong)
    del state["mean"]
    with pytest.raises(KeyError):
        Moments.from_dict(state)


@pytest.mark.parametrize("shares", [[29], [5, 24], [11, 0, 1, 17]], ids=str)
def test_ranks_with_unequal_shares_equal_one_process(shares: list[int]):
    x = rows(sum(shares)).double()
    other = rows(50, seed=2).double()
    distance = frechet(x.mean(0), x.T.cov(), other.mean(0), other.T.cov())
    results = run_ranks(len(shares), "tests.evaluate.bodies:moments", shares)
    for share, found in zip(shares, results, strict=True):
        assert found["own count"] == share
        assert found["count"] == sum(shares)
        np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found["covariance"], x.T.cov(), rtol=1e-9)
        assert found["frechet"] == pytest.approx(distance, rel=1e-9)
        assert found["without any row"] == 0
