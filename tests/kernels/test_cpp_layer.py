"""The C++ backend's own node in autograd against torch's functions."""

import os
import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from agehpc_kernels import backend, bn_leaky_relu
from agehpc_kernels.form import Save
from tests.kernels.forms import ORDERS, SAVES
from tests.kernels.layers import check_many_gradients, check_second_derivatives
from tests.kernels.test_cpp import draw

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler"
)


@pytest.fixture(autouse=True)
def by() -> Iterator[None]:
    with backend("cpp"):
        yield


def test_runs_where_nothing_speaks_against_it():
    x = draw((4, 20, 8, 8), 0, torch.float32).requires_grad_()
    mean, var = torch.zeros(20), torch.ones(20)

    def node(*args: object, **kwargs: object) -> str:
        return type(bn_leaky_relu(*args, **kwargs).grad_fn).__name__  # type: ignore[arg-type]

    assert node(x) == node(x, None, None, mean, var) == "CppFunction"
    assert node(x, None, None, mean, var, momentum=torch.tensor(0.1)) == "ForwardBackward"
    assert node(x, None, None, mean.half(), var.half()) == "ForwardBackward"
    assert node(x, None, None, mean, var.half()) == "ForwardBackward"
    assert node(x, None, None, mean, var, training=False) == "ForwardBackward"


def test_a_trace_of_real_tensors_computes():
    """Tracing sees operators: of the node it would keep the making of y and none of its values."""
    x, other = (draw((4, 20, 8, 8), seed, torch.float32) for seed in (0, 1))
    trace = make_fx(lambda x: bn_leaky_relu(x))(x)
    torch.testing.assert_close(trace(other), bn_leaky_relu(other))


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("frozen", [(), ("x",), ("weight", "bias")])
def test_equals_torch(affine: str, frozen: tuple[str, ...]):
    x, dy = (draw((4, 20, 6, 6), seed, torch.float64) for seed in (1, 2))
    given = {"x": x}
    given |= {n: draw((20,), 3, torch.float64) for n in ("weight", "bias") if affine in (n, "both")}
    sides = []
    for _ in range(2):
        own = {n: t.clone().requires_grad_(n not in frozen) for n, t in given.items()}
        sides.append((own, torch.zeros(20).double(), torch.ones(20).double()))
    (ours, *running), (theirs, *expected) = sides
    y = bn_leaky_relu(ours["x"], ours.get("weight"), ours.get("bias"), *running, momentum=0.3)
    wanted = F.batch_norm(
        theirs["x"], *expected, theirs.get("weight"), theirs.get("bias"), True, 0.3
    )
    wanted = F.leaky_relu(wanted, 0.2)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(running, expected, rtol=1e-12, atol=1e-12)
    if y.requires_grad:
        y.backward(dy)
        wanted.backward(dy)
    for name, leaf in ours.items():
        assert (leaf.grad is None) == (theirs[name].grad is None)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, theirs[name].grad, rtol=1e-9, atol=1e-10)


def test_statistics_tell_that_they_were_moved():
    mean, var = torch.zeros(20, requires_grad=False), torch.ones(20)
    factor = torch.ones(20, requires_grad=True)
    product = factor * mean  # keeps the mean
    bn_leaky_relu(draw((4, 20, 8, 8), 0, torch.float32), None, None, mean, var)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("affine", ["weight", "bias"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("save", SAVES)
def test_second_derivatives_with_weight_or_bias_alone(affine: str, order: str, save: Save):
    check_second_derivatives(draw, affine, order, save)


@pytest.mark.parametrize("frozen", [True, False])
def test_many_gradients_at_once(frozen: bool):
    check_many_gradients(draw, frozen)
