"""The Triton backend's own node in autograd against torch's functions."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from agehpc_kernels import backend, bn_leaky_relu, triton_plan
from agehpc_kernels.form import Order, Save
from tests.kernels.forms import ORDERS, SAVES
from tests.kernels.interpreted.cases import DEVICE, channels_last, draw, two_pass
from tests.kernels.layers import check_many_gradients, check_second_derivatives


@pytest.fixture(autouse=True)
def by() -> Iterator[None]:
    with backend("triton"):
        yield


def statistics(channels: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [f(channels, dtype=dtype, device=DEVICE) for f in (torch.zeros, torch.ones)]


def test_runs_where_nothing_speaks_against_it():
    x = draw((4, 20, 8, 8), 0).requires_grad_()
    mean, var = statistics(20)
    wide = torch.stack([mean, var], 1)

    def node(*args: object, **kwargs: object) -> str:
        return type(bn_leaky_relu(*args, **kwargs).grad_fn).__name__  # type: ignore[arg-type]

    assert node(x) == node(x, None, None, mean, var) == "_LayerBackward"
    momentum = torch.tensor(0.1, device=DEVICE)
    assert node(x, None, None, mean, var, momentum=momentum) == "ForwardBackward"
    assert node(x, None, None, mean.double(), var.double()) == "ForwardBackward"
    assert node(x, None, None, mean, var.half()) == "ForwardBackward"
    assert node(x, None, None, *wide.unbind(1)) == "ForwardBackward"
    assert node(x, None, None, mean, var, training=False) == "ForwardBackward"


@pytest.mark.parametrize(("once", "last"), [(True, True), (False, False)])
@pytest.mark.parametrize(
    ("affine", "frozen"),
    [
        *[("both", frozen) for frozen in ((), ("x",), ("weight", "bias"))],
        *[(affine, ()) for affine in ("weight", "bias", "none")],
    ],
)
def test_equals_torch(once: bool, affine: str, frozen: tuple[str, ...], last: bool):
    x, dy = (draw((4, 20, 6, 6), seed, torch.float64) for seed in (1, 2))
    x = channels_last(x * 3 + 1) if last else x * 3 + 1
    given = {"x": x}
    given |= {n: draw((20,), 3, torch.float64) for n in ("weight", "bias") if affine in (n, "both")}
    sides = []
    for dtype in (torch.float32, torch.float64):
        own = {n: t.clone().requires_grad_(n not in frozen) for n, t in given.items()}
        sides.append((own, *statistics(20, dtype)))
    (ours, *running), (theirs, *expected) = sides
    with contextlib.nullcontext() if once else two_pass():
        y = bn_leaky_relu(ours["x"], ours.get("weight"), ours.get("bias"), *running, momentum=0.3)
        if y.requires_grad:
            y.backward(dy)
    weight = theirs.get("weight")
    if affine == "bias":  # of which alone torch's derivative on a GPU fails
        weight = torch.ones(20, dtype=torch.float64, device=DEVICE)
    wanted = F.batch_norm(theirs["x"], *expected, weight, theirs.get("bias"), True, 0.3)
    wanted = F.leaky_relu(wanted, 0.2)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([r.double() for r in running], expected, rtol=3e-7, atol=1e-7)
    if y.requires_grad:
        wanted.backward(dy)
    for name, leaf in ours.items():
        assert (leaf.grad is None) == (theirs[name].grad is None)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, theirs[name].grad, rtol=1e-9, atol=1e-10)


def test_statistics_of_a_tile_that_leaves_no_registers_to_move_them():
    x = draw((32, 3, 32, 32), 0, torch.bfloat16) * 2 + 3
    running, expected = statistics(3), statistics(3, torch.float64)
    plan = triton_plan.plan(x)
    assert plan.forward_once is not None
    assert not plan.moves
    bn_leaky_relu(x, None, None, *running, momentum=0.3)
    F.batch_norm(x.double(), *expected, None, None, True, 0.3)
    torch.testing.assert_close([r.double() for r in running], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("once", [True, False])
def test_gradients_have_the_dtypes_of_their_parameters(once: bool):
    x, dy = (draw((4, 20, 6, 6), seed, torch.bfloat16) for seed in (1, 2))
    found = []
    for of_weight, of_bias in [(torch.float32,) * 2, (torch.float64, torch.bfloat16)]:
        weight, bias = draw((20,), 3, of_weight), draw((20,), 4, torch.bfloat16).to(of_bias)
        leaves = [t.requires_grad_() for t in (x.clone(), weight, bias)]
        with contextlib.nullcontext() if once else two_pass():
            found.append(torch.autograd.grad(bn_leaky_relu(*leaves), leaves, dy))
        assert [t.dtype for t in found[-1]] == [t.dtype for t in leaves]
    torch.testing.assert_close(found[0][1].double(), found[1][1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("once", [True, False])
def test_what_was_compiled_is_kept_for_tensors_of_its_kind(once: bool):
    """Anew for memory that is aligned otherwise: vectors of 128 bits would be read across."""
    memory = draw((2 + 4 * 20 * 64,), 0)
    weight, bias = draw((21,), 1), draw((21,), 2)
    for at, of_weight in [(0, 0), (1, 0), (0, 1), (2, 1), (0, 0), (1, 1)]:
        x = memory[at : at + 4 * 20 * 64].view(4, 20, 8, 8)
        affine = weight[of_weight : of_weight + 20], bias[of_weight : of_weight + 20]
        running, expected = statistics(20), statistics(20)
        with contextlib.nullcontext() if once else two_pass():
            y = bn_leaky_relu(x, *affine, *running)
        wanted = F.leaky_relu(F.batch_norm(x, *expected, *affine, True), 0.2)
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(running, expected, rtol=1e-5, atol=1e-6)


def test_a_trace_of_real_tensors_computes():
    x, other = (draw((4, 20, 8, 8), seed) for seed in (0, 1))
    trace = make_fx(lambda x: bn_leaky_relu(x))(x)
    torch.testing.assert_close(trace(other), bn_leaky_relu(other))


def test_statistics_tell_that_they_were_moved():
    mean, var = statistics(20)
    factor = torch.ones(20, requires_grad=True, device=DEVICE)
    product = factor * mean  # keeps the mean
    bn_leaky_relu(draw((4, 20, 8, 8), 0), None, None, mean, var)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("affine", ["weight", "bias", "both"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("save", SAVES)
def test_second_derivatives(affine: str, order: Order, save: Save):
    check_second_derivatives(draw, affine, order, save)


@pytest.mark.parametrize("frozen", [True, False])
def test_many_gradients_at_once(frozen: bool):
    check_many_gradients(draw, frozen)
