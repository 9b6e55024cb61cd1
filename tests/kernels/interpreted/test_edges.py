"""by_triton at the edges: memory around tensors, NaN, constants, empty and strided tensors."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agehpc_kernels import by_aten, by_triton, triton_plan
from agehpc_kernels.form import Form
from tests.kernels.interpreted.cases import (
    DEVICE,
    EPS,
    FORMS,
    affine,
    channels_last,
    draw,
    two_pass,
)

FORM = Form(0.2)
GUARD = 4096


def guarded(x: Tensor, guard: float) -> tuple[Tensor, Tensor]:
    """x with its strides inside of a larger memory, and that memory."""
    memory = torch.full((x.numel() + 2 * GUARD,), guard, dtype=x.dtype, device=x.device)
    inside = memory.as_strided(x.shape, x.stride(), GUARD)
    return inside.copy_(x), memory


@contextlib.contextmanager
def guarded_outputs() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Everything that by_triton allocates lies in a memory of 777."""
    made: list[tuple[Tensor, Tensor]] = []
    empty_like = torch.empty_like

    def guard(x: Tensor) -> Tensor:
        made.append(guarded(x.zero_(), 777))
        return made[-1][0]

    with pytest.MonkeyPatch.context() as patch:
        new_empty = Tensor.new_empty
        patch.setattr(torch, "empty_like", lambda x, **more: guard(empty_like(x, **more)))
        patch.setattr(
            Tensor,
            "new_empty",
            # The interpreter calls it too, with a device.
            lambda x, shape, dtype=None, **more: (
                new_empty(x, shape, **more) if more else guard(new_empty(x, shape, dtype=dtype))
            ),
        )
        yield made


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (9, 37, 1), (2, 3, 600)])
@pytest.mark.parametrize("form", [FORMS[0], FORMS[3]])
def test_memory_around_is_neither_read_nor_written(
    form: Form, shape: tuple[int, ...], last: bool, once: bool
):
    x, dy = draw(shape, 0), draw(shape, 1)
    if last:
        x, dy = channels_last(x), channels_last(dy)
    weight, bias = affine(shape[1], 2)
    inputs = [guarded(t, float("nan")) for t in (x, dy, weight, bias)]
    (x, dy, weight, bias), _ = zip(*inputs, strict=True)
    with guarded_outputs() as outputs, contextlib.nullcontext() if once else two_pass():
        y, _, stats = by_triton.forward(x, weight, bias, EPS, form)
        kept = x if form.save == "input" else y
        by_triton.backward(dy, kept, stats, weight, bias, form)
        by_triton.backward_fixed(dy, kept, stats, weight, bias, form)
        by_triton.moments(x, form)
    assert len(outputs) >= 8
    for _, memory in inputs:
        assert int(memory.isnan().sum()) == 2 * GUARD
    # What is read outside of the inputs is NaN, and writes it where neither NaN nor zero is.
    for tensor, memory in outputs:
        assert not tensor.isnan().any()
        assert (memory[:GUARD] == 777).all()
        assert (memory[-GUARD:] == 777).all()


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, of inf - inf
def test_nan_stays_in_its_channel(value: float, last: bool, once: bool):
    x, dy = draw((5, 6, 7, 9), 0), draw((5, 6, 7, 9), 1)
    if last:
        x, dy = channels_last(x), channels_last(dy)
    with contextlib.nullcontext() if once else two_pass():
        clean = results(x, dy)
        x[3, 4, 6, 8] = value
        dirty = results(x, dy)
    for name, one, two in zip(("y", "moments", "stats", "dx", "sums"), clean, dirty, strict=True):
        others = [0, 1, 2, 3, 5]
        assert torch.equal(one[:, others], two[:, others]), name
        assert two[-1, 4].isnan().any() or name == "sums", name


def results(x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    y, moments, stats = by_triton.forward(x, None, None, EPS, FORM)
    return y, moments, stats, *by_triton.backward(dy, x, stats, None, None, FORM)


@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("save", ["input", "output"])
def test_the_slope_holds_at_zero_and_nan(order, save):
    """As torch: the derivative at exactly 0, and at NaN, is the slope."""
    x = torch.tensor([[0.0, -1.0, 2.0, float("nan")]], device=DEVICE)
    stats = torch.tensor([[0.0], [0.0], [1.0]], device=DEVICE).expand(3, 4)
    form, one = Form(0.25, order, save), torch.ones(4, device=DEVICE)
    y = by_triton.apply(x, stats, one, 0 * one, form)
    torch.testing.assert_close(y[0, :3].cpu(), torch.tensor([0.0, -0.25, 2.0]), rtol=0, atol=0)
    assert y[0, 3].isnan()
    kept = x if save == "input" else y
    dx, _ = by_triton.backward_fixed(torch.ones_like(x), kept, stats, one, 0 * one, form)
    assert dx.flatten().tolist() == [0.25, 0.25, 1.0, 0.25]


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.3, -3e-5])
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("form", [Form(0.2), Form(0.2, "activation_first")])
def test_a_constant_channel_has_no_variance(form: Form, last: bool, once: bool, value: float):
    x = (value * torch.linspace(0.3, 3, 9, device=DEVICE))[:, None, None].repeat(7, 1, 9, 13)
    x = channels_last(x) if last else x
    weight, bias = affine(9, 0)
    with contextlib.nullcontext() if once else two_pass():
        y, (n, mean, squares), _ = by_triton.forward(x, weight, bias, EPS, form)
    assert n.tolist() == [819] * 9
    assert squares.tolist() == [0] * 9
    assert torch.equal(mean.float(), leaky_relu(x, form)[0, :, 0, 0])
    wanted = by_aten.apply(torch.zeros_like(x), stats_of_zeros(9), weight, bias, form)
    assert torch.equal(y, wanted)


def leaky_relu(x: Tensor, form: Form) -> Tensor:
    return F.leaky_relu(x, form.slope) if form.order == "activation_first" else x


def stats_of_zeros(channels: int) -> Tensor:
    return torch.tensor([[0.0], [0.0], [1.0]], device=DEVICE).expand(3, channels).contiguous()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)])
@pytest.mark.parametrize("form", FORMS)
def test_empty_tensors(shape: tuple[int, ...], form: Form):
    x, (weight, bias) = draw(shape, 0), affine(shape[1], 1)
    y, moments, stats = by_triton.forward(x, weight, bias, EPS, form)
    assert torch.equal(by_triton.moments(x, form), moments)
    assert not moments.any()
    assert moments.shape == stats.shape == (3, shape[1])
    assert by_triton.apply(x, stats, weight, bias, form).shape == shape
    for backward in (by_triton.backward, by_triton.backward_fixed):
        dx, sums = backward(y, x, stats, weight, bias, form)
        assert dx.shape == y.shape == shape
        assert sums.shape == (2, shape[1])
        assert not sums.any()
    assert by_triton.backward_apply(y, x, stats, weight, bias, sums, form).shape == shape


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("once", [True, False])
def test_gradients_come_in_any_strides(once: bool, last: bool):
    """Of a sum (stride 0), of a transposed and of a cut tensor: each as its contiguous copy."""
    x = draw((4, 5, 6, 8), 0)
    x = channels_last(x) if last else x
    weight, bias = affine(5, 1)
    gradients = [
        torch.ones((), device=DEVICE).expand(x.shape),
        draw((5, 4, 8, 6), 2).transpose(0, 1).transpose(2, 3),
        draw((4, 9, 6, 16), 3)[:, 2:7, :, ::2],
        channels_last(draw((4, 5, 6, 8), 4)),
        draw((4, 5, 1, 1), 5).expand(x.shape),
    ]
    with contextlib.nullcontext() if once else two_pass():
        _, _, stats = by_triton.forward(x, weight, bias, EPS, FORM)
        for dy in gradients:
            for backward in (by_triton.backward, by_triton.backward_fixed):
                found = backward(dy, x, stats, weight, bias, FORM)
                wanted = backward(dy.contiguous(), x, stats, weight, bias, FORM)
                assert torch.equal(found[0], wanted[0])
                assert torch.equal(found[1], wanted[1])
                assert found[0].stride() == x.stride()


def test_strided_inputs_are_taken_to_the_nearest_layout():
    cut = draw((4, 9, 6, 16), 0)[:, 2:7, :, ::2]
    cut_last = channels_last(draw((4, 5, 6, 16), 0))[..., ::2]
    sequence = draw((4, 7, 5), 0).transpose(1, 2)
    for x, last in ((cut, False), (cut_last, True), (sequence, True)):
        wanted = by_triton.forward(x.contiguous(), None, None, EPS, FORM)
        found = by_triton.forward(x, None, None, EPS, FORM)
        assert found[0].is_contiguous() != last
        assert found[0].movedim(1, -1).is_contiguous() == last
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("once", [True, False])
def test_64_bit_offsets_change_nothing(once: bool, last: bool, monkeypatch: pytest.MonkeyPatch):
    x, dy = draw((5, 6, 7, 9), 0), draw((5, 6, 7, 9), 1)
    if last:
        x, dy = channels_last(x), channels_last(dy)
    with contextlib.nullcontext() if once else two_pass():
        wanted = results(x, dy)
        monkeypatch.setattr(triton_plan, "needs_64_bits", lambda x: True)
        triton_plan.forget()
        assert by_triton.plan(x).big
        for one, two in zip(results(x, dy), wanted, strict=True):
            assert torch.equal(one, two)
    triton_plan.forget()


def test_results_do_not_vary():
    x, dy = draw((5, 6, 7, 9), 0), draw((5, 6, 7, 9), 1)
    with two_pass():
        for one, two in zip(results(x, dy), results(x, dy), strict=True):
            assert torch.equal(one, two)


def test_a_slope_of_0_cannot_be_inverted():
    x, stats = draw((4, 3), 0), stats_of_zeros(3)
    with pytest.raises(AssertionError, match="cannot be found again"):
        by_triton.backward(x, x, stats, None, None, Form(0.0, save="output"))


def test_refusal():
    assert by_triton.refusal(draw((2, 3), 0), FORM) is None
