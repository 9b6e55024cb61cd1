"""Penalties against torch.func, finite differences and closed forms, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agehpc.losses import finite_difference_penalty, gradient_penalty, r1_penalty
from tests.losses.bodies import Curved, samples

Parameters = dict[str, Tensor]


@pytest.fixture(params=[False, True], ids=["logits", "maps"])
def net(request: pytest.FixtureRequest) -> Curved:
    return Curved(maps=request.param).double()


def by_func(
    net: nn.Module, parameters: Parameters, x: Tensor, value: Callable[[Tensor], Tensor]
) -> Tensor:
    """Gradient of each sample's own verdict, by torch.func: [B, C, S]."""

    def verdict(sample: Tensor) -> Tensor:
        return value(torch.func.functional_call(net, parameters, (sample[None],))[0])

    return torch.func.vmap(torch.func.grad(verdict))(x)


def r1_by_func(net: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    return by_func(net, parameters, x, torch.sum).square().sum((1, 2, 3)).mean()


def check_parameters(
    net: nn.Module, wanted: Callable[[Parameters], Tensor], rtol: float = 1e-10
) -> None:
    """Compare the gradients of the parameters with those of `wanted`."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    expected = torch.func.grad(wanted)(parameters)
    for name, p in net.named_parameters():
        got = torch.zeros_like(p) if p.grad is None else p.grad
        atol = 1e-14 if rtol < 1e-9 else 1e-8
        torch.testing.assert_close(got, expected[name], rtol=rtol, atol=atol)
    assert any(gradient.abs().max() > 1e-6 for gradient in expected.values())


def test_r1_equals_torch_func(net: Curved):
    real = samples().requires_grad_(True)
    penalty = r1_penalty(net(real), real)
    wanted = r1_by_func(net, dict(net.named_parameters()), samples())
    torch.testing.assert_close(penalty, wanted, rtol=1e-12, atol=0)
    penalty.backward()
    check_parameters(net, lambda p: r1_by_func(net, p, samples()))


def test_r1_equals_finite_differences(net: Curved):
    x, step, total = samples(), 1e-5, 0.0
    with torch.no_grad():
        for index in np.ndindex(*x.shape):
            up, down = x.clone(), x.clone()
            up[index] += step
            down[index] -= step
            slope = (net(up) - net(down))[index[0]].sum() / (2 * step)
            total += float(slope) ** 2
    real = x.clone().requires_grad_(True)
    assert r1_penalty(net(real), real).item() == pytest.approx(total / len(x), rel=1e-7)


def axes(shape: torch.Size) -> list[Tensor]:
    """Disturbances whose outer products average to I, as those of N(0, I): +-sqrt(d) e_i."""
    size = int(np.prod(shape[1:]))
    units = (size**0.5 * torch.eye(size, dtype=torch.float64)).view(size, 1, *shape[1:])
    return [*units.expand(size, *shape), *-units.expand(size, *shape)]


def over_axes(net: nn.Module, x: Tensor, sigma: float) -> Tensor:
    penalties = [
        finite_difference_penalty(net(x), net(x + sigma * n), sigma) for n in axes(x.shape)
    ]
    return torch.stack(penalties).mean()


@pytest.mark.parametrize("sigma", [0.01, 3.0])
def test_finite_differences_are_exact_for_a_linear_discriminator(sigma: float):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0)).double()
    penalty = over_axes(net, samples(), sigma)
    weight = net[1].weight
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-9)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach(), rtol=1e-9, atol=1e-10)


def test_finite_differences_converge_to_r1(net: Curved):
    x = samples()
    wanted = r1_by_func(net, dict(net.named_parameters()), x).item()
    errors = [abs(over_axes(net, x, sigma).item() - wanted) for sigma in (0.04, 0.02, 0.01)]
    assert errors[0] > 3.5 * errors[1] > 12 * errors[2]  # O(sigma^2)
    over_axes(net, x, 1e-4).backward()
    check_parameters(net, lambda p: r1_by_func(net, p, x), rtol=1e-5)


def test_finite_differences_of_gaussian_noise_estimate_r1(net: Curved):
    x, sigma, count = samples(), 1e-3, 4000
    generator = torch.Generator().manual_seed(2)
    found = torch.empty(count, dtype=torch.float64)
    with torch.no_grad():
        logits = net(x)
        for i in range(count):
            n = torch.randn(x.shape, dtype=torch.float64, generator=generator)
            found[i] = finite_difference_penalty(logits, net(x + sigma * n), sigma)
    wanted = r1_by_func(net, dict(net.named_parameters()), x).item()
    assert found.mean().item() == pytest.approx(wanted, abs=4 * found.std().item() / count**0.5)
    assert found.std() / count**0.5 < 0.03 * wanted


def gradient_penalty_by_func(
    net: nn.Module, parameters: Parameters, real: Tensor, fake: Tensor, mix: list[float]
) -> Tensor:
    between = torch.stack([m * r + (1 - m) * f for m, r, f in zip(mix, real, fake, strict=True)])
    gradient = by_func(net, parameters, between, torch.mean)
    return ((gradient**2).sum((1, 2, 3)) ** 0.5 - 1).pow(2).mean()


def test_gradient_penalty_equals_torch_func(net: Curved):
    real, fake, mix = samples(1).requires_grad_(True), samples(2).requires_grad_(True), [0, 0.25, 1]
    penalty = gradient_penalty(net, real, fake, torch.tensor(mix, dtype=torch.float64))

    def wanted(parameters: Parameters) -> Tensor:
        return gradient_penalty_by_func(net, parameters, samples(1), samples(2), mix)

    torch.testing.assert_close(penalty, wanted(dict(net.named_parameters())), rtol=1e-12, atol=0)
    penalty.backward()
    check_parameters(net, wanted)
    assert real.grad is None
    assert fake.grad is None


@pytest.mark.parametrize("shape", [(4, 1, 3, 5), (4, 2, 3, 2, 2)])
def test_gradient_penalty_of_a_linear_critic(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(shape[1:], generator=generator, requires_grad=True)
    real, fake = (torch.rand(shape, generator=generator) for _ in range(2))
    mix_B = torch.rand(shape[0], generator=generator)
    penalty = gradient_penalty(lambda x: (x * weight).flatten(1).sum(1), real, fake, mix_B)
    norm = weight.detach().double().square().sum().sqrt()
    assert penalty.item() == pytest.approx(float((norm - 1) ** 2), rel=1e-5)
    penalty.backward()
    slope = 2 * (norm - 1) / norm * weight.detach()
    torch.testing.assert_close(weight.grad, slope.float(), rtol=1e-5, atol=1e-7)


def test_a_flat_critic_has_a_finite_penalty():
    weight = torch.zeros(2, requires_grad=True)
    x = torch.rand(3, 2)
    penalty = gradient_penalty(lambda x: (x * weight).sum(1), x, -x, torch.rand(3))
    assert penalty.item() == 1
    penalty.backward()
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
