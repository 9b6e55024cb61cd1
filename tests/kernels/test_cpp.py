"""The C++ operators against torch in float64, and against the plain torch they stand for."""

import os
import shutil
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from agehpc_kernels import by_aten, by_cpp
from agehpc_kernels.extension import Unavailable
from agehpc_kernels.form import Form, statistics, wide

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler"
)

EPS = 1e-5
FORM = Form(0.2)
FORMS = [
    Form(slope, order, save)
    for slope, order, save in product(
        (0.2, 1.0, 0.0), ("norm_first", "activation_first"), ("input", "output")
    )
    if slope > 0 or save == "input"
]
# What every dtype may err beyond torch's own errors, of the largest value.
ATOL = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed"]


def layout(x: Tensor, kind: str) -> Tensor:
    """The values of x, laid out otherwise."""
    if kind == "channels_last" and x.dim() in (4, 5):
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=form)
    if kind == "sliced":
        return torch.stack([x, x + 1], dim=-1)[..., 0]
    if kind == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x.contiguous()


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype, kind: str = "") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.5
    return layout(x.to(dtype), kind)


@st.composite
def shapes(draw_from: st.DrawFn) -> tuple[int, ...]:
    space = draw_from(st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 13]), max_size=3))
    samples = draw_from(st.sampled_from([1, 2, 3, 5, 70] if len(space) < 2 else [1, 2, 3]))
    shape = (samples, draw_from(st.integers(1, 70)), *space)
    # Of two values a channel the gradient is all cancellation, and its rounding a matter of luck.
    assume(samples * torch.Size(space).numel() > 2)
    return shape


def in_vectors(x: Tensor) -> bool:
    """Whether the operators can take x, also where they are not the better choice."""
    return (x.is_contiguous() and x[0].numel() >= 16) or x.shape[1] >= 16


def torchs(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> list[Tensor]:
    """y, dx and the gradients of weight and bias by torch's operators, in the dtype of x.

    Of packed copies: torch 2.14's gradient is wrong for some strides of dimensions of size 1, as
    (1, 1, 1, C) of x [1, C, 1, 2].
    """
    leaves = [t.contiguous().clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    x, *affine = leaves
    first = form.order == "activation_first"
    u = F.leaky_relu(x, form.slope) if first else x
    z = F.batch_norm(u, None, None, *(affine or (None, None)), training=True, eps=EPS)
    y = z if first else F.leaky_relu(z, form.slope)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.contiguous())]


def ours(
    x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> list[Tensor]:
    y, _, stats_3C = by_cpp.forward(x, weight, bias, EPS, form)
    dx, sums_2C = by_cpp.backward(dy, x, stats_3C, weight, bias, form)
    return [y, dx] if weight is None else [y, dx, sums_2C[1], sums_2C[0]]


def assert_close(
    found: Tensor, exact: Tensor, plain: Tensor, dtype: torch.dtype, scale: float = 1
) -> None:
    """Err at most twice as much as plain torch does, and a little.

    `scale` is that of the terms of a sum, which may cancel.
    """
    assert found.shape == exact.shape
    if not exact.numel():
        return
    error, allowed = ((t.double() - exact).abs().max() for t in (found, plain))
    assert error <= 2 * allowed + ATOL[dtype] * exact.abs().max().clamp(min=scale)


CASES = {
    "shape": shapes(),
    "dtype": st.sampled_from(list(ATOL)),
    "kind": st.sampled_from(LAYOUTS),
    "affine": st.booleans(),
    "seed": st.integers(0, 2**20),
}


@settings(max_examples=150)
@given(form=st.sampled_from([f for f in FORMS if f.save == "input"]), **CASES)
def test_errs_no_more_than_torch(
    form: Form, shape: tuple[int, ...], dtype: torch.dtype, kind: str, affine: bool, seed: int
) -> None:
    x, dy = draw(shape, seed, dtype, kind), draw(shape, seed + 1, dtype)
    assume(in_vectors(x))
    pair = [draw(shape[1:2], seed + i, wide(dtype)) if affine else None for i in (2, 3)]
    doubles = [None if t is None else t.double() for t in (x, dy, *pair)]
    exact = torchs(*doubles, form)
    terms = float(dy.double().abs().sum()) / shape[1]
    scales = [1, 1, max(terms, 1), max(terms, 1)][: len(exact)]
    plain = torchs(x, dy, *pair, form)
    for a, b, c, scale in zip(ours(x, dy, *pair, form), exact, plain, scales, strict=True):
        assert_close(a, b, c, dtype, scale)


@settings(max_examples=150)
@given(form=st.sampled_from(FORMS), **CASES)
def test_every_function_equals_plain_torch(
    form: Form, shape: tuple[int, ...], dtype: torch.dtype, kind: str, affine: bool, seed: int
) -> None:
    x, dy = draw(shape, seed, dtype, kind), draw(shape, seed + 1, dtype)
    assume(in_vectors(x))
    weight = draw(shape[1:2], seed + 2, torch.float32).abs() + 0.1 if affine else None
    bias = draw(shape[1:2], seed + 3, torch.bfloat16) if affine else None
    means_2C = draw((2, shape[1]), seed + 4, torch.float64)
    found = by_aten.moments(x.double(), form)
    stats_3C = statistics(found, EPS, wide(dtype))
    y = by_aten.apply(x, stats_3C, weight, bias, form)
    kept = x if form.save == "input" else y

    def results(module, work: torch.dtype) -> list[Tensor]:
        dy_, kept_, x_ = dy.to(work), kept.to(work), x.to(work)
        given = (stats_3C.to(wide(work)), weight, bias)
        return [
            module.moments(x_, form),
            module.apply(x_, *given, form),
            *module.forward(x_, weight, bias, EPS, form),
            module.backward_sums(dy_, kept_, *given, form),
            module.backward_apply(dy_, kept_, *given, means_2C, form),
            *module.backward(dy_, kept_, *given, form),
            *module.backward_fixed(dy_, kept_, *given, form),
        ]

    plain = results(by_aten, dtype)
    for a, b, c in zip(results(by_cpp, dtype), results(by_aten, torch.float64), plain, strict=True):
        assert a.dtype == c.dtype
        assert_close(a, b.double(), c, dtype)


@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", list(ATOL))
def test_keeps_dtype_and_memory_format(kind: str, dtype: torch.dtype) -> None:
    x, dy = draw((2, 17, 6, 7), 0, dtype, kind), draw((2, 17, 6, 7), 1, dtype)
    y, found, stats_3C = by_cpp.forward(x, None, None, EPS, FORM)
    dx, sums_2C = by_cpp.backward(dy, x, stats_3C, None, None, FORM)
    assert (y.dtype, y.stride()) == (dx.dtype, dx.stride()) == (dtype, x.stride())
    assert (found.dtype, sums_2C.dtype) == (torch.float64, torch.float64)
    assert stats_3C.dtype == wide(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
def test_half_precision_is_float32_rounded_once(dtype: torch.dtype, kind: str) -> None:
    x = draw((3, 17, 9, 9), 0, dtype, kind)
    x[0, 3] = torch.tensor(0x7FFF, dtype=torch.int16).view(dtype)  # the NaN with all bits set
    stats_3C = torch.stack([torch.zeros(17), torch.zeros(17), torch.linspace(0.5, 3, 17)])
    y = by_cpp.apply(x, stats_3C, None, None, FORM)
    exact = by_cpp.apply(x.float(), stats_3C, None, None, FORM).to(dtype)
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y.nan_to_num(), exact.nan_to_num())


@pytest.mark.parametrize("shape", [(8, 20, 24, 24), (1500, 20), (40, 20, 4, 4)])
@pytest.mark.parametrize("mean", [0.0, 1e4, 1e6])
def test_a_large_mean_costs_no_precision(shape: tuple[int, ...], mean: float) -> None:
    x = (draw(shape, 0, torch.float64) + mean).float()
    exact = torchs(x.double(), x.double(), None, None, FORM)[0]
    y, found, stats_3C = by_cpp.forward(x, None, None, EPS, FORM)
    assert (y - exact).abs().max() <= 5e-7 * exact.abs().max()
    dims = [0, *range(2, x.dim())]
    torch.testing.assert_close(found[1], x.double().mean(dims), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        found[2] / found[0], x.double().var(dims, correction=0), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(stats_3C, statistics(found, EPS, torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(8, 20, 24, 24), (1500, 20), (40, 20, 4, 4)])
@pytest.mark.parametrize("first", ["value", "sample", "samples"])
def test_first_values_far_from_the_others_cost_no_precision(
    shape: tuple[int, ...], first: str
) -> None:
    x = draw(shape, 0, torch.float32)
    far = {"value": x.view(*shape[:2], -1)[0, :, 0], "sample": x[0], "samples": x[:5]}[first]
    far.fill_(1e5)
    found = by_cpp.moments(x, FORM)
    variance = x.double().var([0, *range(2, x.dim())], correction=0)
    torch.testing.assert_close(found[2] / found[0], variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
@pytest.mark.parametrize("space", [(23, 29), (3, 5)])
def test_a_constant_channel_has_variance_zero(kind: str, space: tuple[int, ...]) -> None:
    values_C = draw((37,), 5, torch.float32) * 1e3
    x = layout(values_C.view(1, -1, 1, 1).expand(130, -1, *space), kind)
    count, mean, squares = by_cpp.moments(x, FORM)
    assert (count == 130 * space[0] * space[1]).all()
    assert torch.equal(mean, values_C.double())
    assert (squares == 0).all()


@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("space", [(9, 11), (2, 3)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_channel(
    kind: str, order: str, space: tuple[int, ...], value: float
) -> None:
    form = replace(FORM, order=order)
    clean, dy = (draw((3, 21, *space), i, torch.float32, kind) for i in (0, 1))
    x = clean.clone()
    x[1, 20, 0, 0] = value
    broken = torch.arange(21) == 20
    affine = torch.ones(2, 21)
    for dirty, pure in zip(ours(x, dy, *affine, form), ours(clean, dy, *affine, form), strict=True):
        dirty, pure = (t if t.dim() == 1 else t.transpose(0, 1) for t in (dirty, pure))
        assert torch.equal(dirty[~broken], pure[~broken])
    y, dx, d_weight, _ = ours(x, dy, *affine, form)
    assert y[:, 20].isnan().any()
    assert dx[:, 20].isnan().all()
    assert d_weight[20].isnan()


@pytest.mark.parametrize("shape", [(3, 20, 8, 8), (6, 20)])
def test_derivative_at_zero_is_the_slope(shape: tuple[int, ...]) -> None:
    x, dy = draw(shape, 0, torch.float32).relu(), draw(shape, 1, torch.float32)
    zeros, ones = x.new_zeros(shape[1]), x.new_ones(shape[1])
    for form, affine in [
        (Form(0.2, "activation_first"), (ones, zeros)),
        (Form(0.2, "norm_first"), (zeros, zeros)),
        (Form(0.0, "norm_first"), (zeros, zeros)),
    ]:
        for a, b in zip(ours(x, dy, *affine, form), torchs(x, dy, *affine, form), strict=True):
            torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
@pytest.mark.parametrize("space", [(9, 11), (2, 3)])
def test_gradients_of_any_stride(kind: str, space: tuple[int, ...]) -> None:
    x = draw((3, 21, *space), 0, torch.float32, kind)
    stats_3C = by_cpp.forward(x, None, None, EPS, FORM)[2]
    one = torch.ones(())
    for dy in (one.expand(x.shape), draw(x.shape, 1, torch.float32, "transposed")):
        for function in (by_cpp.backward, by_cpp.backward_fixed):
            dx, sums_2C = function(dy, x, stats_3C, None, None, FORM)
            same = function(
                dy.clone(memory_format=torch.contiguous_format), x, stats_3C, None, None, FORM
            )
            assert torch.equal(dx, same[0])
            assert torch.equal(sums_2C, same[1])
    assert one == 1


@pytest.mark.parametrize("kind", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "shape", [(6, 40, 37, 41), (150, 700), (70, 100, 4, 5), (4, 33, 5, 40, 41)]
)
def test_same_bits_on_any_number_of_threads(kind: str, shape: tuple[int, ...]) -> None:
    x, dy = (draw(shape, i, torch.float32, kind) for i in (0, 1))
    affine = draw((2, shape[1]), 2, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append([*ours(x, dy, *affine, FORM), by_cpp.moments(x, FORM)])
    finally:
        torch.set_num_threads(before)
    for single, *others in zip(*results, strict=True):
        assert all(torch.equal(single, other) for other in others)


def test_says_what_it_does_not_take() -> None:
    def reason(x: Tensor) -> str:
        return by_cpp.refusal(x, FORM) or ""

    assert "on the CPU; x is on meta" in reason(torch.empty(64, 64, 8, 8, device="meta"))
    assert "x is torch.int32" in reason(torch.empty(64, 64, 8, 8, dtype=torch.int32))
    assert "values are fewer than" in (by_cpp.slower(torch.empty(64, 128), FORM) or "")
    assert "rows of 3 values" in reason(layout(torch.empty(8, 3, 64, 64), "channels_last"))
    assert by_cpp.refusal(torch.empty(16, 64, 32, 32), FORM) is None


def test_empty_batches_pass(  # refused, since there is nothing to gain, but right all the same
) -> None:
    for shape in [(0, 20), (0, 20, 8, 8), (2, 20, 0, 4)]:
        x = torch.empty(shape)
        y, found, stats_3C = by_cpp.forward(x, None, None, EPS, FORM)
        dx, sums_2C = by_cpp.backward(x, x, stats_3C, None, None, FORM)
        assert y.shape == dx.shape == x.shape
        assert not found.any()
        assert not sums_2C.any()


def test_a_missing_library_is_a_reason_and_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def load(*args: object) -> None:
        tries.append(args)
        raise Unavailable("no compiler")

    monkeypatch.setattr(by_cpp, "load", load)
    by_cpp._load.cache_clear()
    try:
        for _ in range(3):
            reason = by_cpp.refusal(torch.empty(16, 64, 32, 32), FORM)
            assert reason == "the C++ operators are missing: no compiler"
    finally:
        by_cpp._load.cache_clear()
    assert len(tries) == 1
    assert len(caplog.records) == 1
