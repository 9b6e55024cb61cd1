"""torch's own functions, where no kernel takes a tensor: as fast as without this package."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings

from agehpc_kernels import BatchNormLeakyReLU1d, backend, bn_leaky_relu
from tests.kernels.forms import Case, NoHost, cases, expected, fused


@pytest.fixture(autouse=True, scope="module")
def by() -> Iterator[None]:
    """Not what is chosen, which a compiler on the machine decides."""
    with backend("torch"):
        yield


# By these strides torch's own gradient is wrong.
@example(Case((1, 2, 1, 1, 2), "transposed", "activation_first", affine=False, running=False))
@given(cases(save="input"))
@settings(max_examples=50)
def test_equals_torch_in_float64(case: Case):
    ours, theirs = case.draw(), replace(case, layout="contiguous").draw()
    y, wanted = fused(case, ours), expected(case, theirs)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(y, ours.leaves(), ours.dy)
    for a, b in zip(found, torch.autograd.grad(wanted, theirs.leaves(), ours.dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    for a, b in zip(ours.arguments()[3:], theirs.arguments()[3:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("running", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_dtypes_that_torch_does_not_mix(
    dtype: torch.dtype, running: torch.dtype, parameters: torch.dtype, training: bool
):
    case = Case(training=training)
    exact, low = case.draw(), case.draw(dtype)
    for name in ("weight", "bias"):
        leaf = getattr(low, name).detach().to(parameters).requires_grad_(True)
        setattr(low, name, leaf)
    for name in ("running_mean", "running_var"):
        setattr(low, name, getattr(low, name).to(running))
    y = fused(case, low)
    y.backward(low.dy)
    assert y.dtype == dtype
    assert low.weight is not None
    assert low.weight.grad is not None
    assert low.weight.grad.dtype == parameters
    torch.testing.assert_close(y.double(), expected(case, exact), rtol=0.05, atol=0.05)
    for a, b in zip(low.arguments()[3:], exact.arguments()[3:], strict=True):
        assert a.dtype == running
        torch.testing.assert_close(a.double(), b, rtol=0.01, atol=0.01)


def test_cumulative_averages_copy_nothing_to_the_host():
    module = BatchNormLeakyReLU1d(3, momentum=None)
    with NoHost():
        for _ in range(2):
            x = torch.randn(8, 3, requires_grad=True)
            module(x).sum().backward()
    plain = torch.nn.BatchNorm1d(3, momentum=None)
    other = BatchNormLeakyReLU1d(3, momentum=None)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(8, 3)
        other(x)
        plain(x)
    torch.testing.assert_close(other.state_dict(), plain.state_dict())


def test_a_gradient_penalty():
    case = Case(running=False)
    inputs = case.draw()

    def f(*leaves: torch.Tensor) -> torch.Tensor:
        return fused(case, replace(inputs, x=leaves[0], weight=leaves[1], bias=leaves[2]))

    assert torch.autograd.gradgradcheck(f, inputs.leaves(), fast_mode=True)


def test_what_it_cannot_do():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"'torch' was forced .* it keeps x, not y alone"):
        bn_leaky_relu(x, save="output")


@pytest.mark.parametrize("compiled", [False, True])
def test_an_empty_batch_leaves_statistics_alone(compiled: bool):
    torch.compiler.reset()
    module = BatchNormLeakyReLU1d(3)
    run = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
    assert run(torch.empty(0, 3)).shape == (0, 3)
    assert module.state_dict()["running_mean"].tolist() == [0, 0, 0]
    assert module.state_dict()["running_var"].tolist() == [1, 1, 1]
