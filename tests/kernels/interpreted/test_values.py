"""by_triton against torch's own batch_norm, leaky_relu and autograd, and against by_aten."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from agehpc_kernels import by_aten, by_triton
from agehpc_kernels.form import Form, statistics, wide
from tests.kernels.interpreted.cases import (
    DTYPES,
    EPS,
    FORMS,
    affine,
    channels_last,
    draw,
    near,
    torchs,
    two_pass,
)

# Rounding of the largest output that a test sees, about 8, to the dtype.
ATOL = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@st.composite
def shapes(drawn) -> tuple[int, ...]:
    """2-D to 5-D with at least two values a channel, any number of channels, odd sizes, 1s."""
    space = drawn(st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16]), max_size=3))
    while math.prod(space) > 256:
        space.pop()
    n = drawn(st.integers(1, 5 if space else 70))
    if n * math.prod(space) < 4:
        n += 4
    most = 5000 // (n * math.prod(space))
    return (n, drawn(st.integers(1, min(70, most))), *space)


@settings(max_examples=20)
@given(
    shape=shapes(),
    form=st.builds(
        Form,
        st.sampled_from([0.2, 0.01, 0.0, 1.0, 1.5]),
        st.sampled_from(["norm_first", "activation_first"]),
    ),
    dtype=st.sampled_from(DTYPES),
    of_weight=st.sampled_from([None, torch.float32, torch.bfloat16, torch.float64]),
    last=st.booleans(),
    once=st.booleans(),
    seed=st.integers(0, 99),
)
def test_training_is_as_exact_as_torch(
    shape: tuple[int, ...],
    form: Form,
    dtype: torch.dtype,
    of_weight: torch.dtype | None,
    last: bool,
    once: bool,
    seed: int,
):
    x, dy = (draw(shape, seed + i, dtype) for i in range(2))
    x = x * 2 + 1
    weight, bias = (None, None) if of_weight is None else affine(shape[1], seed + 2, of_weight)
    if last:
        x, dy = channels_last(x), channels_last(dy)
    if once:
        y, moments, stats = by_triton.forward(x, weight, bias, EPS, form)
        dx, sums = by_triton.backward(dy, x, stats, weight, bias, form)
    else:
        with two_pass():
            y, moments, stats = by_triton.forward(x, weight, bias, EPS, form)
            dx, sums = by_triton.backward(dy, x, stats, weight, bias, form)
    assert y.dtype == dx.dtype == dtype
    assert y.stride() == dx.stride() == x.stride()
    assert moments.dtype == sums.dtype == torch.float64
    assert stats.dtype == wide(dtype)

    (a, theirs), (b, exact) = (torchs(x, weight, bias, form, d) for d in (dtype, torch.float64))
    near(y, theirs, exact, ATOL[dtype])
    theirs.backward(dy)
    exact.backward(dy.double())
    assert a.grad is not None
    assert b.grad is not None
    size = float(b.grad.abs().max())
    near(dx, a.grad, b.grad, ATOL[dtype] * max(1.0, size))

    wanted = by_aten.moments(x.double(), form)
    assert torch.equal(moments[0], wanted[0])
    torch.testing.assert_close(moments, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats, statistics(moments, EPS, wide(dtype)), rtol=2e-7, atol=1e-30)
    exact_stats = statistics(wanted, EPS, torch.float64)
    wanted = by_aten.backward_sums(dy.double(), x.double(), exact_stats, weight, bias, form)
    scale = float(dy.double().abs().sum() / shape[1]) * (1 + 1e-6)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(sums, wanted, rtol=tolerance, atol=10 * tolerance * scale)


@settings(max_examples=20)
@given(
    shape=shapes(),
    form=st.sampled_from(FORMS),
    dtype=st.sampled_from(DTYPES),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_given_statistics_equal_aten(
    shape: tuple[int, ...], form: Form, dtype: torch.dtype, last: bool, seed: int
):
    """apply, backward_sums, backward_apply and backward_fixed, of the same kept tensor."""
    x, dy = (draw(shape, seed + i, dtype) for i in range(2))
    if last:
        x, dy = channels_last(x), channels_last(dy)
    weight, bias = affine(shape[1], seed + 2)
    mean, var = draw((shape[1],), seed + 3), draw((shape[1],), seed + 4).abs() + 0.5
    stats = torch.stack([mean, mean * 1e-8, var.rsqrt()]).to(wide(dtype))
    y = by_triton.apply(x, stats, weight, bias, form)
    rounding = ATOL[dtype] * (1 if dtype != torch.float32 else 2)
    torch.testing.assert_close(
        y, by_aten.apply(x, stats, weight, bias, form), rtol=rounding, atol=rounding
    )
    kept = x if form.save == "input" else y
    # Where u of the kept y is as good as 0, its sign is any.
    u = (kept - bias.view(shape_of(x))) / weight.view(shape_of(x)) / stats[2].view(shape_of(x))
    sure = (u + mean.view(shape_of(x))).abs() > 1e-4 if form == FORMS[3] else x == x
    dy = dy * sure
    arguments = (dy, kept, stats, weight, bias)
    sums = by_triton.backward_sums(*arguments, form)
    scale = float(dy.double().abs().sum() / shape[1]) * 10 + 1
    close = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        sums, by_aten.backward_sums(*arguments, form), rtol=close, atol=close * scale
    )
    means = draw((2, shape[1]), seed + 5, torch.float64)
    dx = by_triton.backward_apply(*arguments, means, form)
    wanted = by_aten.backward_apply(*arguments, means, form)
    assert dx.stride() == x.stride()
    torch.testing.assert_close(dx * sure, wanted * sure, rtol=rounding, atol=rounding * 10)
    dx, fixed = by_triton.backward_fixed(*arguments, form)
    assert torch.equal(fixed, sums)
    wanted = by_aten.backward_fixed(*arguments, form)[0]
    torch.testing.assert_close(dx, wanted, rtol=rounding, atol=rounding)


def shape_of(x: Tensor) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.dim() - 2)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("form", FORMS[:4])
def test_both_ways_agree(form: Form, last: bool):
    """Single-read and two-pass kernels; parts, tiles and channels that do not come out even."""
    x, dy = draw((5, 11, 9, 13), 0) * 3 + 2, draw((5, 11, 9, 13), 1)
    if last:
        x, dy = channels_last(x), channels_last(dy)
    weight, bias = affine(11, 2)
    assert by_triton.plan(x).forward == ("forward_once",)
    results = {}
    for once in (True, False):
        with two_pass() if not once else pytest.MonkeyPatch.context():
            plan = by_triton.plan(x)
            y, moments, stats = by_triton.forward(x, weight, bias, EPS, form)
            kept = x if form.save == "input" else y
            dx, sums = by_triton.backward(dy, kept, stats, weight, bias, form)
        results[once] = (y, moments, stats, dx, sums)
    assert plan.backward == ("sums", "add_up", "apply_backward")
    assert plan.parts > 1
    for one, two in zip(results[True], results[False], strict=True):
        torch.testing.assert_close(one, two, rtol=2e-5, atol=2e-4 if one.dim() == 2 else 2e-6)


@pytest.mark.parametrize("save", ["input", "output"])
@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
def test_the_gradient_from_the_output_is_that_from_the_input(order, save):
    form = Form(0.2, order, save)
    x, dy = draw((4, 5, 6, 7), 0, torch.float64), draw((4, 5, 6, 7), 1, torch.float64)
    weight, bias = affine(5, 2, torch.float64)
    y, _, stats = by_triton.forward(x, weight, bias, EPS, form)
    dx, _ = by_triton.backward(dy, x if save == "input" else y, stats, weight, bias, form)
    leaf, exact = torchs(x, weight, bias, form, torch.float64)
    exact.backward(dy)
    torch.testing.assert_close(dx, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("mean", "deviation"), [(1e6, 1.0), (1e4, 0.01), (-1e6, 1.0)])
def test_a_large_mean_costs_no_precision(mean: float, deviation: float, last: bool, once: bool):
    """Relative error at most 5e-7 in float32; torch on the CPU has 8e-3 in y at mean 1e6."""
    x, dy = draw((6, 2, 17, 19), 0) * deviation + mean, draw((6, 2, 17, 19), 1)
    x = channels_last(x) if last else x
    form = Form(1.0)
    with pytest.MonkeyPatch.context() if once else two_pass():
        y, _, stats = by_triton.forward(x, None, None, EPS, form)
        dx, _ = by_triton.backward(dy, x, stats, None, None, form)
    leaf, exact = torchs(x, None, None, form, torch.float64)
    exact.backward(dy.double())
    assert (y - exact).abs().max() <= 5e-7 * exact.abs().max()
    assert leaf.grad is not None
    assert (dx - leaf.grad).abs().max() <= 5e-7 * leaf.grad.abs().max()
