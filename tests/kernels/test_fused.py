"""bn_leaky_relu against F.batch_norm, F.leaky_relu and autograd, in every form."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from agehpc_kernels import bn_leaky_relu
from tests.kernels.forms import (
    EPS,
    FORMATS,
    ORDERS,
    SAVES,
    Case,
    Inputs,
    NoHost,
    cases,
    expected,
    fused,
    reference,
)
from tests.kernels.forms import by as by


@given(cases())
@settings(max_examples=150)
def test_equals_torch_in_float64(case: Case):
    ours, theirs = case.draw(), replace(case, layout="contiguous").draw()
    y, wanted = fused(case, ours), expected(case, theirs)
    torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-11)
    found = torch.autograd.grad(y, ours.leaves(), ours.dy)
    for a, b in zip(found, torch.autograd.grad(wanted, theirs.leaves(), ours.dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    for a, b in zip(ours.arguments()[3:], theirs.arguments()[3:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(cases(save="input"))
@example(Case((1, 1, 7, 7, 7), running=False, seed=1))  # where torch's sum is right by luck
@settings(max_examples=30)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_are_at_most_twice_those_of_torch(dtype: torch.dtype, case: Case):
    results = []
    # torch 2.14's own backward is wrong for some layouts of one sample: it gets contiguous inputs.
    plain = replace(case, layout="contiguous")
    for run, of, exact in ((fused, case, False), (expected, plain, False), (expected, plain, True)):
        inputs = low_precision(of, dtype, exact)
        y = run(case, inputs)
        gradients = torch.autograd.grad(y, inputs.leaves(), inputs.dy)
        running = [t for t in inputs.arguments()[3:] if t is not None]
        results.append([y.detach(), *gradients, *running])
    terms = results[0][0].numel() // case.shape[1]
    for i, (mine, torchs, right) in enumerate(zip(*results, strict=True)):
        assert mine.dtype == torchs.dtype
        # A parameter's gradient is a sum whose terms may cancel, and whose errors do not.
        summed = case.affine and i in (2, 3)
        least = max(float(right.abs().max()), terms**0.5 if summed else 1.0)
        atol = 4 * torch.finfo(mine.dtype).eps * least
        error = (mine.double() - right).abs().max()
        assert error <= 2 * (torchs.double() - right).abs().max() + atol


def low_precision(case: Case, dtype: torch.dtype, exact: bool) -> Inputs:
    """x and dy in `dtype`, the rest in float32; or the same values in float64."""
    tensors = {}
    for name, t in vars(case.draw(dtype)).items():
        rounded = t if t is None or name in ("x", "dy") else t.float()
        kept = rounded if rounded is None or not exact else rounded.double()
        tensors[name] = None if kept is None else kept.detach()
    inputs = Inputs(**tensors)
    for leaf in inputs.leaves():
        leaf.requires_grad_(True)
    return inputs


FORMS = [
    Case((3, 2, 2), "contiguous", order, save, slope, affine, training, not training)
    for order, save, slope, affine, training in itertools.product(
        ORDERS, SAVES, [0.0, 0.2, 1.0], [True, False], [True, False]
    )
    if slope > 0 or save == "input"
]


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_first_and_second_derivatives(case: Case):
    inputs = case.draw()

    def f(*leaves: Tensor) -> Tensor:
        x, weight, bias = leaves if case.affine else (*leaves, None, None)
        return fused(case, replace(inputs, x=x, weight=weight, bias=bias))

    assert torch.autograd.gradcheck(f, inputs.leaves())
    assert torch.autograd.gradgradcheck(f, inputs.leaves())


def by_elements(case: Case, inputs: Inputs) -> Tensor:
    """torch's batch_norm has no third derivative; sums and products have."""
    u = F.leaky_relu(inputs.x, case.slope) if case.order == "activation_first" else inputs.x
    dims, shape = [0, *range(2, u.dim())], (1, -1, *[1] * (u.dim() - 2))
    var = u.var(dims, correction=0, keepdim=True)
    z = (u - u.mean(dims, keepdim=True)) / (var + EPS).sqrt()
    assert inputs.weight is not None
    assert inputs.bias is not None
    z = z * inputs.weight.view(shape) + inputs.bias.view(shape)
    return z if case.order == "activation_first" else F.leaky_relu(z, case.slope)


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("order", ORDERS)
def test_third_derivatives(order: str, save: str):
    case = Case(order=order, save=save, running=False)
    results = []
    for run in (fused, by_elements):
        inputs = case.draw()
        found: Any = run(case, inputs)
        for _ in range(3):
            loss = (inputs.dy * (found + found.square())).sum()
            found = torch.autograd.grad(loss, inputs.x, create_graph=True)[0]
        results.append(torch.autograd.grad((inputs.dy * found).sum(), inputs.leaves()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("save", SAVES)
def test_gradient_penalty_in_low_precision(save: str, dtype: torch.dtype):
    case = Case((16, 4, 6, 6), save=save, running=False)

    def penalty(run: Any, dtype: torch.dtype) -> Tensor:
        inputs = case.draw(dtype)
        y = run(case, inputs)
        (g,) = torch.autograd.grad((y**3).sum(), inputs.x, create_graph=True)
        return torch.autograd.grad(g.double().square().sum(), inputs.x)[0].double()

    wanted = penalty(expected, torch.float64)
    error = (penalty(fused, dtype) - wanted).norm() / wanted.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.2)


class TestSaved:
    """What stays in memory between forward and backward."""

    @pytest.mark.parametrize(
        "case",
        [Case((4, 8, 16, 16), layout, order, save) for layout in ("contiguous", "strided")
         for order in ORDERS for save in SAVES],
        ids=str,
    )  # fmt: skip
    def test_one_activation(self, case: Case):
        inputs = case.draw()
        packed: list[Tensor] = []

        def pack(t: Tensor) -> Tensor:
            packed.append(t)
            return t

        with saved_tensors_hooks(pack, lambda t: t):
            y = fused(case, inputs)
        big = [t for t in packed if t.numel() >= y.numel()]
        assert len(big) == 1
        assert big[0].is_contiguous()  # also where x is not: no backward pass copies it again
        assert sum(t.numel() for t in packed) < y.numel() + 10 * y.shape[1]
        if case.save == "output":
            assert big[0].data_ptr() == y.data_ptr()
        elif case.layout == "contiguous":
            assert big[0].data_ptr() == inputs.x.data_ptr()

    @pytest.mark.parametrize("save", SAVES)
    def test_parameters_may_be_freed_and_gathered_in_between(self, save: str):
        """As ZeRO-3 does, through `.data`: a saved alias would hold on to the freed memory."""
        case = Case(save=save, running=False)
        inputs, wanted = case.draw(), case.draw()
        y = fused(case, inputs)
        assert inputs.weight is not None
        assert inputs.bias is not None
        whole = [p.data.clone() for p in (inputs.weight, inputs.bias)]
        for p in (inputs.weight, inputs.bias):
            p.data.fill_(float("nan"))
            p.data = torch.empty(0, dtype=p.dtype)
        for p, data in zip((inputs.weight, inputs.bias), whole, strict=True):
            p.data = data
        found = torch.autograd.grad(y, inputs.leaves(), inputs.dy)
        right = torch.autograd.grad(expected(case, wanted), wanted.leaves(), inputs.dy)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b)


class TestStatistics:
    """Running statistics."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_are_float32_and_unbiased(self, dtype: torch.dtype):
        x = (torch.randn(2, 5, 3) * 2 + 1).to(dtype)
        mean, var = torch.zeros(5), torch.ones(5)
        bn_leaky_relu(x, None, None, mean, var, momentum=0.25)
        right = x.double()
        torch.testing.assert_close(mean, (0.25 * right.mean((0, 2))).float())
        torch.testing.assert_close(var, (0.75 + 0.25 * right.var((0, 2))).float())

    def test_cumulative_average_by_a_tensor(self):
        x = torch.randn(4, 2, 6, 3)
        mean, var = torch.zeros(2), torch.ones(2)
        for count, batch in enumerate(x.split(1), start=1):
            bn_leaky_relu(batch, None, None, mean, var, momentum=1.0 / torch.tensor(count))
        torch.testing.assert_close(mean, x.mean((0, 2, 3)))
        torch.testing.assert_close(var, torch.stack([b.var((0, 2, 3)) for b in x.split(1)]).mean(0))

    def test_evaluation_leaves_them_alone(self):
        mean, var = torch.ones(2), torch.full((2,), 4.0)
        y = bn_leaky_relu(torch.full((1, 2), 5.0), None, None, mean, var, training=False, eps=0.0)
        assert y.tolist() == [[2.0, 2.0]]
        assert (mean.tolist(), var.tolist()) == ([1, 1], [4, 4])

    @pytest.mark.parametrize("mean", [1e4, 1e6])
    def test_a_large_mean_costs_no_precision(self, mean: float):
        x = (torch.randn(8, 3, 10, 10, dtype=torch.float64) + mean).float()
        y = bn_leaky_relu(x, slope=1.0)
        wanted = reference(
            x.double(),
            *[None] * 4,
            training=True,
            momentum=0.1,
            eps=1e-5,
            slope=1.0,
            order=ORDERS[0],
        )
        assert (y - wanted).abs().max() / wanted.abs().max() < 5e-7


class TestOddInputs:
    """Inputs and gradients that break kernels."""

    @pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0, 4), (0, 3, 2, 2, 2)])
    @pytest.mark.parametrize("training", [True, False])
    def test_empty(self, shape: tuple[int, ...], training: bool):
        x = torch.randn(shape, requires_grad=True)
        weight, bias = (torch.ones(shape[1], requires_grad=True) for _ in range(2))
        mean, var = torch.full((shape[1],), 2.0), torch.full((shape[1],), 3.0)
        y = bn_leaky_relu(x, weight, bias, mean, var, training=training)
        assert y.shape == shape
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape
        assert weight.grad is not None
        assert not weight.grad.any()
        assert (mean == 2).all()
        assert (var == 3).all()

    @pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
    def test_one_value_per_channel_is_an_error_in_training(self, shape: tuple[int, ...]):
        x = torch.randn(shape)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            bn_leaky_relu(x)
        bn_leaky_relu(x, None, None, torch.zeros(3), torch.ones(3), training=False)

    @pytest.mark.parametrize("save", SAVES)
    def test_nan_stays_in_its_channel(self, save: str):
        x = torch.randn(4, 3, 5)
        x[1, 1, 2] = float("nan")
        x.requires_grad_(True)
        y = bn_leaky_relu(x, save=save)  # type: ignore[arg-type]
        y.square().sum().backward()
        assert x.grad is not None
        for found in (y, x.grad):
            assert found[:, 1].isnan().all()
            assert found[:, [0, 2]].isfinite().all()

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 2, 4, 5), (2, 3, 1, 1), (2, 1, 4, 4)])
    def test_memory_format_is_kept(self, shape: tuple[int, ...], layout: str):
        case = Case(shape, layout)
        inputs = case.draw()
        y = fused(case, inputs)
        y.backward(inputs.dy)
        assert inputs.x.grad is not None
        for found in (y, inputs.x.grad):
            if layout == "contiguous":
                assert found.is_contiguous()
            else:
                assert found.is_contiguous(memory_format=FORMATS[len(shape)])

    @pytest.mark.parametrize("one", ["weight", "bias"])
    def test_weight_or_bias_alone(self, one: str):
        case = Case()
        inputs, theirs = case.draw(), case.draw()
        for these in (inputs, theirs):
            setattr(these, one, None)
        y, wanted = fused(case, inputs), expected(case, theirs)
        torch.testing.assert_close(y, wanted)
        found = torch.autograd.grad(y, inputs.leaves(), inputs.dy)
        for a, b in zip(
            found, torch.autograd.grad(wanted, theirs.leaves(), inputs.dy), strict=True
        ):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("training", [True, False])
    def test_gradients_of_parameters_alone(self, training: bool):
        case = Case(training=training)
        inputs, theirs = case.draw(), case.draw()
        for these in (inputs, theirs):
            these.x.requires_grad_(False)
        found = torch.autograd.grad(fused(case, inputs), inputs.leaves()[1:], inputs.dy)
        wanted = torch.autograd.grad(expected(case, theirs), theirs.leaves()[1:], inputs.dy)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"save": "output", "slope": 0.0}, "slope above 0"),
            ({"save": "output", "slope": -0.1, "order": "activation_first"}, "slope above 0"),
            ({"save": "both"}, "save must be"),
            ({"order": "bn_act"}, "order must be"),
            ({"training": False}, "evaluation needs"),
            ({"running_mean": torch.zeros(3)}, "go together"),
            ({"weight": torch.ones(4)}, r"weight must be \[3\]"),
            ({"x": torch.ones(3)}, r"must be a floating \[N, C, \*\]"),
            ({"x": torch.ones(4, 3, dtype=torch.long)}, "must be a floating"),
        ],
    )
    def test_errors(self, options: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            bn_leaky_relu(**({"x": torch.randn(4, 3)} | options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(64, 8, 4, 4)])
@pytest.mark.parametrize("ratio", [1.0, 10.0])
def test_keeping_the_output_loses_what_is_documented(
    ratio: float, shape: tuple[int, ...], dtype: torch.dtype
):
    """Rounding of y comes back multiplied by about |bias / weight|."""
    case = Case(shape, running=False)
    grads = []
    for save in SAVES:
        inputs = case.draw(dtype)
        assert inputs.weight is not None
        inputs.bias = (ratio * inputs.weight.detach()).requires_grad_(True)
        y = fused(replace(case, save=save), inputs)
        grads.append(torch.autograd.grad(y, inputs.x, inputs.dy)[0])
    error = float((grads[0] - grads[1]).norm() / grads[0].norm())
    assert error < 4 * ratio * torch.finfo(dtype).eps


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("training", [True, False])
def test_no_path_copies_to_the_host(training: bool, save: str):
    case = Case(training=training, save=save)
    inputs = case.draw(torch.float32)
    with pytest.raises(AssertionError, match="copied to the host"), NoHost():
        inputs.x.sum().item()
    with NoHost():
        y = fused(case, inputs)
        (g,) = torch.autograd.grad(y.pow(2).sum(), inputs.x, create_graph=True)
        g.square().sum().backward()
