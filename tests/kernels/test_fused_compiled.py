"""bn_leaky_relu in torch.compile, and on tensors without memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agehpc_kernels import bn_leaky_relu
from tests.kernels.forms import ORDERS, SAVES, Case, Inputs, fused
from tests.kernels.forms import by as by


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(training: bool, backend: str):
    torch.compiler.reset()
    for order, save in zip(ORDERS, SAVES, strict=True):
        case = Case(training=training, order=order, save=save)
        inputs, eager = case.draw(torch.float32), case.draw(torch.float32)

        def f(case: Case, *arguments: Any) -> Tensor:
            return 2 * fused(case, Inputs(*arguments))

        y = torch.compile(f, fullgraph=True, backend=backend)(case, *vars(inputs).values())
        found = torch.autograd.grad(y, inputs.leaves(), inputs.dy)
        wanted = f(case, *vars(eager).values())
        right = torch.autograd.grad(wanted, eager.leaves(), eager.dy)
        torch.testing.assert_close(y, wanted)
        for a, b in zip(
            [*found, *inputs.arguments()[3:]], [*right, *eager.arguments()[3:]], strict=True
        ):
            # Those of float64 parameters, of sums over float32.
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_fake_and_meta_tensors():
    x = torch.empty(2, 3, 4, 5, device="meta", requires_grad=True)
    y = bn_leaky_relu(
        x, running_mean=torch.empty(3, device="meta"), running_var=torch.empty(3, device="meta")
    )
    y.sum().backward()
    assert (y.shape, y.device.type) == (x.shape, "meta")
    assert x.grad is not None
