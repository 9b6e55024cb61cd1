"""Reconstruction distances and their gradients against formulas in numpy's float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from agehpc.losses import bernoulli_nats, reconstruction_loss
from tests.losses.bodies import Array, check_gradient, leaf


def pairs(low: float, high: float) -> st.SearchStrategy[tuple[Array, Array]]:
    """Logits or pixels in [-1, 1] widened 20 times, and targets in [low, high]."""
    return npst.array_shapes(min_dims=2, max_dims=5, max_side=3).flatmap(
        lambda shape: st.tuples(
            npst.arrays(np.float64, shape, elements=st.floats(-20, 20, width=32)),
            npst.arrays(np.float64, shape, elements=st.floats(low, high, width=32)),
        )
    )


@given(pair=pairs(-1, 1))
def test_l1_and_mse(pair: tuple[Array, Array]):
    ours, x = pair
    y = leaf(ours)
    loss = reconstruction_loss("l1", y, torch.from_numpy(x))
    assert loss.item() == pytest.approx(np.abs(ours - x).sum() / x.size, rel=1e-12)
    loss.backward()
    check_gradient(y, np.sign(ours - x) / x.size)
    y = leaf(ours)
    loss = reconstruction_loss("mse", y, torch.from_numpy(x))
    assert loss.item() == pytest.approx(((ours - x) ** 2).sum() / x.size, rel=1e-12)
    loss.backward()
    check_gradient(y, 2 * (ours - x) / x.size)


@given(pair=pairs(0, 1))
def test_cross_entropies(pair: tuple[Array, Array]):
    logits, x = pair
    one = 1 / (1 + np.exp(-logits))
    # 1 - p is written as p of the opposite logit: it loses its digits otherwise.
    nats = -(x * np.log(one) + (1 - x) * np.log(1 / (1 + np.exp(logits))))
    for loss_of, count in (
        (bernoulli_nats, len(x)),
        (lambda y, x: reconstruction_loss("bce", y, x), x.size),
    ):
        y = leaf(logits)
        loss = loss_of(y, torch.from_numpy(x))
        assert loss.shape == ()
        assert loss.item() == pytest.approx(nats.sum() / count, rel=1e-12)
        loss.backward()
        check_gradient(y, (one - x) / count)


def test_a_coin_costs_ln_2_a_pixel():
    nats = bernoulli_nats(torch.zeros(5, 1, 28, 28), torch.rand(5, 1, 28, 28))
    assert nats.item() == pytest.approx(784 * np.log(2), rel=1e-6)


def test_no_overflow_in_float32():
    logits = torch.tensor([[-1e4, 1e4, 1e4]], requires_grad=True)
    nats = bernoulli_nats(logits, torch.tensor([[0.0, 1.0, 0.0]]))
    assert nats.item() == 1e4
    nats.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 1.0]]


def test_derivatives():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_(True)
    x = torch.rand(2, 3, dtype=torch.float64, generator=generator)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda y: bernoulli_nats(y, x), (y,))
        assert check(lambda y: reconstruction_loss("bce", y, x), (y,))
        assert check(lambda y: reconstruction_loss("mse", y, x), (y,))
