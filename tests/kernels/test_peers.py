"""Behaviours of other fused norms that break their users, one test each: not so here.

What needs ranks is in test_fused_ranks.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agehpc_kernels import (
    BatchNormLeakyReLU2d,
    BatchNormLeakyReLU3d,
    backend,
    bn_leaky_relu,
)
from tests.kernels.forms import laid_out

SAVES: list[Any] = ["input", "output"]


@pytest.fixture(autouse=True, scope="module", params=["aten", "auto"])
def by(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernels' formulas, and what is chosen."""
    with backend(request.param):
        yield


@pytest.mark.parametrize("save", SAVES)
def test_inplace_abn_checkpoints_with_negative_scale(save: Any):
    """It scales by |weight| + eps: networks trained with torch's BatchNorm score at random."""
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    assert (plain.weight < 0).any()
    plain(torch.randn(8, 4, 3, 3))
    module = BatchNormLeakyReLU2d(4, slope=0.01, save=save)
    module.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(8, 4, 3, 3)
    for training in (True, False):
        wanted = F.leaky_relu(plain.train(training)(x), 0.01)
        torch.testing.assert_close(module.train(training)(x), wanted)


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("training", [True, False])
def test_inplace_abn_wrong_gradient_through_sum(training: bool, save: Any):
    """Its backward overwrites dy, which is one number with stride 0 behind a sum."""
    x = torch.randn(4, 3, 5, requires_grad=True)
    ours, theirs = x.detach().clone().requires_grad_(True), x
    weight, bias, mean, var = torch.randn(3), torch.randn(3), torch.randn(3), torch.rand(3) + 1
    y = bn_leaky_relu(ours, weight, bias, mean.clone(), var.clone(), training=training, save=save)
    wanted = F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, training), 0.2)
    y.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("save", SAVES)
def test_inplace_abn_overwrites_its_input(save: Any):
    """x and dy stay as they are, and y may be changed where x is kept."""
    x, dy = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    leaf, gradient = x.clone().requires_grad_(True), dy.clone()
    inner = leaf * 1
    y = bn_leaky_relu(inner, save=save)
    y.backward(gradient)
    assert torch.equal(inner, x)
    assert torch.equal(gradient, dy)
    if save == "input":
        bn_leaky_relu(leaf * 1).mul_(2).sum().backward()


def test_inplace_abn_slope_of_zero():
    """It divides by the slope: NaN. Here an error where x is to be rebuilt, else ReLU."""
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match="slope above 0"):
        bn_leaky_relu(x, slope=0.0, save="output")
    bn_leaky_relu(x, slope=0.0).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_inplace_abn_and_apex_lack_a_second_derivative():
    """Theirs are differentiable once: R1 and WGAN-GP are impossible."""
    x = torch.randn(4, 3, 5, requires_grad=True)
    (g,) = torch.autograd.grad(bn_leaky_relu(x, save="output").square().sum(), x, create_graph=True)
    assert g.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attorch_fails_on_five_dimensions(dtype: torch.dtype):
    x = torch.randn(2, 3, 4, 5, 6).to(dtype)
    y = BatchNormLeakyReLU3d(3)(x)
    wanted = F.leaky_relu(nn.BatchNorm3d(3)(x.float()), 0.2)
    torch.testing.assert_close(y, wanted.to(dtype))


def test_attorch_lacks_cumulative_averages():
    module, plain = BatchNormLeakyReLU2d(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 3, 2, 2)
        module(x)
        plain(x)
    torch.testing.assert_close(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("channels", [3, 65, 100])
def test_apex_statistics_of_odd_channel_counts_channels_last(channels: int):
    """Wrong there where C is not a power of two (apex#1768)."""
    x = laid_out(torch.randn(2, channels, 40, 40) * 3 + 1, "channels_last")
    mean, var = torch.zeros(channels), torch.ones(channels)
    bn_leaky_relu(x, None, None, mean, var, momentum=1.0)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float())
    torch.testing.assert_close(var, x.double().var((0, 2, 3)).float())


def test_torch_rounds_statistics_of_a_bfloat16_module():
    """After `.bfloat16()` its running statistics lose what momentum 0.001 adds."""
    module = BatchNormLeakyReLU2d(2, momentum=0.001).bfloat16()
    x = torch.randn(8, 2, 4, 4).bfloat16() + 300
    for _ in range(3):
        module(x)
    assert module.running_mean is not None
    wanted = x.float().mean((0, 2, 3)) * (1 - 0.999**3)
    torch.testing.assert_close(module.running_mean, wanted)


def gradients(x: Tensor, dy: Tensor, run: Any) -> Tensor:
    leaf = x.detach().requires_grad_(True)
    return torch.autograd.grad(run(leaf), leaf, dy)[0]


def test_torch_wrong_gradient_of_one_transposed_sample():
    """torch 2.14 on the CPU reads dy in another order than x, where a sample is alone."""
    torch.manual_seed(0)
    x, dy = (torch.randn(1, 4, 1, 2, dtype=torch.float64) for _ in range(2))
    other = x.transpose(0, -1).contiguous().transpose(0, -1)
    right = gradients(x, dy, lambda x: F.batch_norm(x, None, None, None, None, True))
    found = gradients(other, dy, lambda x: bn_leaky_relu(x, slope=1.0))
    torch.testing.assert_close(found, right)
