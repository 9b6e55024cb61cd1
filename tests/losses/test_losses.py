"""Every loss and its gradient against formulas in numpy's float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor, nn

from agehpc.losses import (
    critic_loss,
    generator_loss,
    moment_loss,
    r1_penalty,
    reconstruction_loss,
)

Array = np.ndarray
# torch's softplus is the identity above 20, where they differ by 2e-9.
EXACT = {"rel": 1e-12, "abs": 3e-9}
KINDS = ["non_saturating", "hinge", "lsgan"]


def logits(least: int = 1) -> st.SearchStrategy[Array]:
    shape = st.integers(least, 9).map(lambda n: (n,))
    return npst.arrays(np.float64, shape, elements=st.floats(-50, 50, width=32))


def softplus(a: Array) -> Array:
    return np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))


def sigmoid(a: Array) -> Array:
    return np.exp(-softplus(-a))


# (loss of what should look real, its derivative); (loss of what should look generated, its own)
REAL: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "non_saturating": (lambda a: softplus(-a), lambda a: -sigmoid(-a)),
    "hinge": (lambda a: np.maximum(0, 1 - a), lambda a: -(a < 1).astype(float)),
    "lsgan": (lambda a: (a - 1) ** 2 / 2, lambda a: a - 1),
}
FAKE: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "non_saturating": (softplus, sigmoid),
    "hinge": (lambda a: np.maximum(0, 1 + a), lambda a: (a > -1).astype(float)),
    "lsgan": (lambda a: a**2 / 2, lambda a: a),
}
JUDGED = REAL | {"hinge": (lambda a: -a, lambda a: -np.ones_like(a))}


def leaf(a: Array) -> Tensor:
    return torch.from_numpy(a.copy()).requires_grad_(True)


def check_gradient(x: Tensor, wanted: Array) -> None:
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-10, atol=3e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(real=logits(), fake=logits())
def test_critic_loss(kind: str, real: Array, fake: Array):
    r, f = leaf(real), leaf(fake)
    loss = critic_loss(kind, r, f)  # type: ignore[arg-type]
    assert loss.shape == ()
    (of_real, real_slope), (of_fake, fake_slope) = REAL[kind], FAKE[kind]
    assert loss.item() == pytest.approx(of_real(real).mean() + of_fake(fake).mean(), **EXACT)
    loss.backward()
    check_gradient(r, real_slope(real) / len(real))
    check_gradient(f, fake_slope(fake) / len(fake))


@pytest.mark.parametrize("kind", KINDS)
@given(fake=logits())
def test_generator_loss(kind: str, fake: Array):
    f = leaf(fake)
    loss = generator_loss(kind, f)  # type: ignore[arg-type]
    value, slope = JUDGED[kind]
    assert loss.item() == pytest.approx(value(fake).mean(), **EXACT)
    loss.backward()
    check_gradient(f, slope(fake) / len(fake))


@pytest.mark.parametrize("kind", KINDS)
def test_critics_and_generators_want_opposites(kind: str):
    low, high = torch.tensor([-2.0]), torch.tensor([2.0])
    assert critic_loss(kind, high, low) < critic_loss(kind, low, high)  # type: ignore[arg-type]
    assert generator_loss(kind, torch.tensor([0.5])) < generator_loss(kind, low)  # type: ignore[arg-type]


def test_no_overflow_in_float32():
    for a in (-1e4, 1e4):
        logit = torch.tensor([a], requires_grad=True)
        loss = critic_loss("non_saturating", logit, logit) + generator_loss("non_saturating", logit)
        loss.backward()
        assert torch.isfinite(loss)
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()


@given(
    pair=npst.array_shapes(min_dims=2, max_dims=5, max_side=3).flatmap(
        lambda shape: st.tuples(
            *[npst.arrays(np.float64, shape, elements=st.floats(-1, 1, width=32))] * 2
        )
    )
)
def test_reconstruction_loss(pair: tuple[Array, Array]):
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


class Curved(nn.Module):
    """A small discriminator without kinks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)) ** 2).squeeze(1)


@pytest.fixture
def net() -> nn.Module:
    return Curved().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def r1_by_func(net: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    def logit(sample: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, (sample[None],))[0]

    return torch.func.vmap(torch.func.grad(logit))(x).square().sum((1, 2, 3)).mean()


def test_r1_equals_torch_func(net: nn.Module, x: Tensor):
    real = x.clone().requires_grad_(True)
    penalty = r1_penalty(net(real), real)
    parameters = dict(net.named_parameters())
    torch.testing.assert_close(penalty, r1_by_func(net, parameters, x), rtol=1e-12, atol=0)
    penalty.backward()
    wanted = torch.func.grad(lambda p: r1_by_func(net, p, x))(
        {name: p.detach() for name, p in parameters.items()}
    )
    for name, p in parameters.items():
        got = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(got, wanted[name], rtol=1e-10, atol=1e-14)
    assert any(w.abs().max() > 1e-6 for w in wanted.values())


def test_r1_equals_finite_differences(net: nn.Module, x: Tensor):
    step = 1e-5
    total = 0.0
    with torch.no_grad():
        for index in np.ndindex(*x.shape):
            up, down = x.clone(), x.clone()
            up[index] += step
            down[index] -= step
            slope = (net(up)[index[0]] - net(down)[index[0]]) / (2 * step)
            total += float(slope) ** 2
    real = x.clone().requires_grad_(True)
    assert r1_penalty(net(real), real).item() == pytest.approx(total / len(x), rel=1e-7)
