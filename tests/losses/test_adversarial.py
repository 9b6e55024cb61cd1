"""The games' losses and gradients against formulas in numpy's float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from agehpc.losses import critic_loss, generator_loss
from tests.losses.bodies import EXACT, Array, check_gradient, leaf

KINDS = ["non_saturating", "hinge", "lsgan", "wasserstein"]
SMOOTHED = ["non_saturating", "lsgan"]


def logits() -> st.SearchStrategy[Array]:
    """Logits of a batch, or maps of patches."""
    vector = st.integers(1, 9).map(lambda n: (n,))
    maps = st.tuples(*[st.integers(1, 3)] * 3)
    return npst.arrays(np.float64, vector | maps, elements=st.floats(-50, 50, width=32))


def softplus(a: Array) -> Array:
    return np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))


def sigmoid(a: Array) -> Array:
    return np.exp(-softplus(-a))


# (loss of what should look real, its derivative); (loss of what should look generated, its own)
REAL: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "non_saturating": (lambda a: softplus(-a), lambda a: -sigmoid(-a)),
    "hinge": (lambda a: np.maximum(0, 1 - a), lambda a: -(a < 1).astype(float)),
    "lsgan": (lambda a: (a - 1) ** 2 / 2, lambda a: a - 1),
    "wasserstein": (lambda a: -a, lambda a: -np.ones_like(a)),
}
FAKE: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "non_saturating": (softplus, sigmoid),
    "hinge": (lambda a: np.maximum(0, 1 + a), lambda a: (a > -1).astype(float)),
    "lsgan": (lambda a: a**2 / 2, lambda a: a),
    "wasserstein": (lambda a: a, np.ones_like),
}
JUDGED = REAL | {"hinge": (lambda a: -a, lambda a: -np.ones_like(a))}


@pytest.mark.parametrize("kind", KINDS)
@given(real=logits(), fake=logits())
def test_critic_loss(kind: str, real: Array, fake: Array):
    r, f = leaf(real), leaf(fake)
    loss = critic_loss(kind, r, f)  # type: ignore[arg-type]
    assert loss.shape == ()
    (of_real, real_slope), (of_fake, fake_slope) = REAL[kind], FAKE[kind]
    assert loss.item() == pytest.approx(of_real(real).mean() + of_fake(fake).mean(), **EXACT)
    loss.backward()
    check_gradient(r, real_slope(real) / real.size)
    check_gradient(f, fake_slope(fake) / fake.size)


@given(real=logits(), fake=logits(), smoothing=st.floats(0, 0.5))
def test_smoothing_moves_the_target_of_real_samples_alone(
    real: Array, fake: Array, smoothing: float
):
    r, f = leaf(real), leaf(fake)
    loss = critic_loss("non_saturating", r, f, smoothing)
    # Cross entropy as it is defined, by torch's own function on targets written out.
    a, b = torch.from_numpy(real), torch.from_numpy(fake)
    target = torch.full_like(a, 1 - smoothing)
    wanted = F.binary_cross_entropy_with_logits(a, target)
    wanted = wanted + F.binary_cross_entropy_with_logits(b, torch.zeros_like(b))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12, abs=1e-8)
    loss.backward()
    check_gradient(r, (sigmoid(real) - (1 - smoothing)) / real.size)
    check_gradient(f, sigmoid(fake) / fake.size)

    r, f = leaf(real), leaf(fake)
    loss = critic_loss("lsgan", r, f, smoothing)
    squares = ((real - (1 - smoothing)) ** 2).mean() + (fake**2).mean()
    assert loss.item() == pytest.approx(squares / 2, rel=1e-12)
    loss.backward()
    check_gradient(r, (real - (1 - smoothing)) / real.size)
    check_gradient(f, fake / fake.size)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(SMOOTHED)))
def test_what_has_no_target_is_not_smoothed(kind: str):
    logit = torch.zeros(2)
    with pytest.raises(AssertionError, match=kind):
        critic_loss(kind, logit, logit, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@given(fake=logits())
def test_generator_loss(kind: str, fake: Array):
    f = leaf(fake)
    loss = generator_loss(kind, f)  # type: ignore[arg-type]
    value, slope = JUDGED[kind]
    assert loss.shape == ()
    assert loss.item() == pytest.approx(value(fake).mean(), **EXACT)
    loss.backward()
    check_gradient(f, slope(fake) / fake.size)


@pytest.mark.parametrize("kind", KINDS)
def test_critics_and_generators_want_opposites(kind: str):
    low, high = torch.tensor([-2.0]), torch.tensor([2.0])
    assert critic_loss(kind, high, low) < critic_loss(kind, low, high)  # type: ignore[arg-type]
    assert generator_loss(kind, torch.tensor([0.5])) < generator_loss(kind, low)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str):
    generator = torch.Generator().manual_seed(0)
    pair = [
        torch.randn(2, 2, 2, dtype=torch.float64, generator=generator).requires_grad_(True)
        for _ in range(2)
    ]
    smoothing = 0.1 if kind in SMOOTHED else 0.0
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda r, f: critic_loss(kind, r, f, smoothing), pair)  # type: ignore[arg-type]
        if kind not in ("hinge", "wasserstein") or check is torch.autograd.gradcheck:
            assert check(lambda f: generator_loss(kind, f), pair[:1])  # type: ignore[arg-type]


def test_no_overflow_in_float32():
    for a in (-1e4, 1e4):
        logit = torch.tensor([a], requires_grad=True)
        loss = critic_loss("non_saturating", logit, logit, 0.1)
        loss = loss + generator_loss("non_saturating", logit)
        loss.backward()
        assert torch.isfinite(loss)
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()
