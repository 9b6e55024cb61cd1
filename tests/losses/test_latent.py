"""Losses on latents against numpy, torch.distributions and published values."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from agehpc.cluster.groups import Ranks
from agehpc.losses import gaussian_kl, moment_kl, moment_loss
from agehpc.losses.latent import VARIANCE_FLOOR, KlForm, Reduction
from agehpc_kernels.norm import global_moments
from tests.losses.bodies import Array, check_gradient, leaf

FORMS, REDUCTIONS = get_args(KlForm), get_args(Reduction)


@given(
    m=npst.arrays(np.float64, 5, elements=st.floats(-3, 3, width=32)),
    v=npst.arrays(np.float64, 5, elements=st.floats(0, 3, width=32)),
    mean=st.floats(-1, 1),
    variance=st.floats(0.125, 2),
)
def test_moment_loss(m: Array, v: Array, mean: float, variance: float):
    m_Z, v_Z = leaf(m), leaf(v)
    loss = moment_loss(m_Z, v_Z, mean, variance)
    wanted = sum((a - mean) ** 2 + (b - variance) ** 2 for a, b in zip(m, v, strict=True)) / 5
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
    loss.backward()
    check_gradient(m_Z, 2 * (m - mean) / 5)
    check_gradient(v_Z, 2 * (v - variance) / 5)


@settings(deadline=None)  # the first call of torch.distributions takes its time
@given(
    pair=st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
        lambda shape: st.tuples(
            npst.arrays(np.float64, shape, elements=st.floats(-4, 4, width=32)),
            npst.arrays(np.float64, shape, elements=st.floats(-8, 4, width=32)),
        )
    )
)
def test_gaussian_kl(pair: tuple[Array, Array]):
    mean, logvar = (leaf(a) for a in pair)
    loss = gaussian_kl(mean, logvar)
    posterior = Normal(torch.from_numpy(pair[0]), torch.from_numpy(np.exp(pair[1] / 2)))
    wanted = kl_divergence(posterior, Normal(0.0, 1.0)).sum() / len(pair[0])
    assert loss.shape == ()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-10, abs=1e-12)
    loss.backward()
    check_gradient(mean, pair[0] / len(pair[0]))
    check_gradient(logvar, (np.exp(pair[1]) - 1) / 2 / len(pair[0]))


def test_gaussian_kl_keeps_its_digits_close_to_the_prior():
    logvar = torch.full((1, 1), 1e-4)
    wanted = (np.expm1(1e-4) - 1e-4) / 2
    assert gaussian_kl(torch.zeros(1, 1), logvar).item() == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize(
    ("variance", "exact", "legacy"), [(4.0, 0.8069, 6.1137), (0.25, 0.3181, 0.9175), (1.0, 0, 0)]
)
def test_moment_kl_at_known_values(variance: float, exact: float, legacy: float):
    m_Z, v_Z = torch.zeros(3, dtype=torch.float64), torch.full((3,), variance).double()
    for form, wanted in (("exact", exact), ("legacy_age", legacy)):
        assert moment_kl(m_Z, v_Z, form, "mean").item() == pytest.approx(wanted, abs=5e-5)  # type: ignore[arg-type]
        assert moment_kl(m_Z, v_Z, form, "sum").item() == pytest.approx(3 * wanted, abs=2e-4)  # type: ignore[arg-type]


def reference(m_Z: Tensor, v_Z: Tensor, form: str, reduction: str) -> Tensor:
    """torch's own divergence; the published code takes the variance for the deviation."""
    scale = v_Z.sqrt() if form == "exact" else v_Z
    kl_Z = kl_divergence(Normal(m_Z, scale), Normal(torch.zeros_like(m_Z), torch.ones_like(m_Z)))
    return kl_Z.sum() if reduction == "sum" else kl_Z.mean()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None)  # the first call of torch.distributions takes its time
@given(
    m=npst.arrays(np.float64, 5, elements=st.floats(-3, 3, width=32)),
    v=npst.arrays(np.float64, 5, elements=st.floats(2 * VARIANCE_FLOOR, 9)),
)
def test_moment_kl(form: KlForm, reduction: Reduction, m: Array, v: Array):
    (m_Z, v_Z), (a_Z, b_Z) = ([leaf(m), leaf(v)] for _ in range(2))
    loss, wanted = moment_kl(m_Z, v_Z, form, reduction), reference(a_Z, b_Z, form, reduction)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12, abs=1e-12)
    loss.backward()
    wanted.backward()
    for ours, theirs in ((m_Z, a_Z), (v_Z, b_Z)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_moment_kl_keeps_its_digits_in_float32(form: KlForm):
    v = np.array([0.01, 0.7, 1.001, 5.0], dtype=np.float32)
    v_Z = leaf(v)
    moment_kl(torch.zeros(4), v_Z, form, "sum").backward()
    exact = v.astype(np.float64)
    slope = (1 - 1 / exact) / 2 if form == "exact" else exact - 1 / exact
    assert v_Z.grad is not None
    np.testing.assert_allclose(v_Z.grad.numpy(), slope, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("form", FORMS)
def test_a_collapsed_dimension_is_spread_again(form: KlForm):
    def value_and_slope(variance: float) -> tuple[float, float]:
        v_Z = torch.tensor([variance], dtype=torch.float64, requires_grad=True)
        loss = moment_kl(torch.zeros_like(v_Z), v_Z, form, "sum")
        (slope,) = torch.autograd.grad(loss, v_Z)
        return loss.item(), slope.item()

    power = 0.5 if form == "exact" else 1.0
    for variance in (0.0, VARIANCE_FLOOR / 2, VARIANCE_FLOOR):
        value, slope = value_and_slope(variance)
        assert slope == pytest.approx(-power / VARIANCE_FLOOR, rel=1e-5)
        assert value > value_and_slope(2 * VARIANCE_FLOOR)[0]
    just_below, just_above = (value_and_slope(VARIANCE_FLOOR * (1 + e))[0] for e in (-1e-9, 1e-9))
    assert just_below == pytest.approx(just_above, abs=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives(form: KlForm):
    m_Z = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    v_Z = torch.tensor([0.2, 3.0], dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda m, v: moment_kl(m, v, form, "sum"), (m_Z, v_Z))
        pair = tuple(torch.stack([a, a + 1]).detach().requires_grad_(True) for a in (m_Z, v_Z))
        assert check(gaussian_kl, pair)


@pytest.mark.world_size(2)
def test_two_ranks_of_32_equal_one_of_64(ranks: Ranks):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 6, dtype=torch.float64, generator=generator)
    x[32:] = 2 * x[32:] + 3  # ranks whose own moments differ
    start = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    mine = x[32 * ranks.env.rank :][:32]
    for form in FORMS:
        for reduction in REDUCTIONS:
            alone, shared = (start.clone().requires_grad_(True) for _ in range(2))
            z_BZ = x @ alone
            wanted = reference(z_BZ.mean(0), z_BZ.var(0, correction=0), form, reduction)
            wanted.backward()
            m_Z, v_Z, count = global_moments(mine @ shared)
            loss = moment_kl(m_Z, v_Z, form, reduction)
            loss.backward()
            assert count == 64
            assert shared.grad is not None
            # Every rank holds the whole loss; the engines average gradients over ranks.
            dist.all_reduce(shared.grad)
            torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(shared.grad / 2, alone.grad, rtol=1e-11, atol=1e-12)
            local = mine @ start
            apart = reference(local.mean(0), local.var(0, correction=0), form, reduction)
            assert abs(apart - wanted.detach()) > 0.05 * wanted
