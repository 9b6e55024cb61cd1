"""The registered operators, and the choice of a backend."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from agehpc_kernels import backend, bn_leaky_relu, by_aten, choice, explain
from agehpc_kernels.choice import VARIABLE
from agehpc_kernels.form import Form
from agehpc_kernels.ops import BODIES, registered
from tests.kernels.forms import forget, laid_out

CHANNELS = 3
LAYOUTS = [
    ((4, CHANNELS), "contiguous"),
    ((4, CHANNELS, 5), "strided"),
    ((2, CHANNELS, 4, 5), "channels_last"),
    ((2, CHANNELS, 4, 5), "transposed"),
    ((2, CHANNELS, 2, 4, 5), "channels_last"),
    ((2, CHANNELS, 1, 1), "channels_last"),
    ((0, CHANNELS, 4, 5), "contiguous"),
]
FORM = (0.2, "norm_first", "input")


def arguments(name: str, shape: tuple[int, ...], layout: str, affine: bool) -> tuple[Any, ...]:
    x = laid_out(torch.randn(shape), layout)
    dy = torch.randn(shape).expand(shape)
    weight, bias = (torch.randn(CHANNELS), torch.randn(CHANNELS)) if affine else (None, None)
    stats_3C = torch.stack([torch.zeros(CHANNELS), torch.zeros(CHANNELS), torch.ones(CHANNELS)])
    means_2C = torch.randn(2, CHANNELS, dtype=torch.float64)
    given = {
        "moments": (x,),
        "apply": (x, stats_3C, weight, bias),
        "forward": (x, weight, bias, 1e-5),
        "backward_apply": (dy, x, stats_3C, weight, bias, means_2C),
    }
    return *given.get(name, (dy, x, stats_3C, weight, bias)), *FORM


@pytest.mark.parametrize(
    ("name", "shape", "layout"),
    # The statistics of nothing are NaN, which opcheck takes for a difference.
    [(n, *at) for n in BODIES for at in LAYOUTS if n != "forward" or at[0][0]],
)
def test_opcheck(name: str, shape: tuple[int, ...], layout: str):
    tests = (
        "test_schema",
        "test_faketensor",
        "test_aot_dispatch_static",
        "test_autograd_registration",
    )
    operator = getattr(registered, name).default
    for affine in (True, False):
        torch.library.opcheck(operator, arguments(name, shape, layout, affine), test_utils=tests)


@pytest.mark.parametrize("name", BODIES)
def test_opcheck_with_dynamic_shapes(name: str):
    operator = getattr(registered, name).default
    given = arguments(name, (4, CHANNELS, 6, 5), "contiguous", True)
    torch.library.opcheck(operator, given, test_utils="test_aot_dispatch_dynamic")


def test_forward_on_tensors_of_a_gpu_that_is_not_there():
    """Shapes, types and devices alone: nothing may ask for a value, or leave the device."""
    with FakeTensorMode():
        x = torch.empty(4, 3, 5, 5, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        mean, var = (torch.empty(3, device="cuda") for _ in range(2))
        y = bn_leaky_relu(x, None, None, mean, var, momentum=1 / torch.ones((), device="cuda"))
        assert (y.shape, y.dtype, y.device.type) == (x.shape, torch.bfloat16, "cuda")


class Stub:
    """A backend that notes its calls, in the place of a module."""

    def __init__(self, reason: str | None) -> None:
        self.calls = 0
        self.module = SimpleNamespace(**vars(by_aten))
        self.module.refusal = lambda x, form: reason
        self.module.forward = self._forward
        # What the C++ backend has further.
        self.module.operators = lambda: SimpleNamespace(layer=SimpleNamespace(default=self._layer))

    def _forward(self, *given: Any) -> Any:
        self.calls += 1
        return by_aten.forward(*given)

    def _layer(self, x: Tensor, *rest: Any) -> Tensor:
        self.calls += 1
        return x


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Backends by name, in place of the modules; a text is why one cannot be imported."""
    forget()
    found: dict[str, Any] = {"aten": by_aten, "triton": "no triton", "cpp": "no compiler"}
    monkeypatch.setattr(choice, "_module", lambda name: found[name])
    monkeypatch.setattr(choice, "ModuleType", object)
    monkeypatch.setattr(choice, "_asked", "auto")
    yield found
    forget()


class TestChoice:
    """Which backend runs."""

    x = torch.randn(4, 3, 2)

    def ran(self, stub: Stub, x: Tensor = x) -> bool:
        before = stub.calls
        bn_leaky_relu(x)
        return stub.calls > before

    def test_the_cpu_takes_compiled_code_where_it_can(self, backends: dict[str, Any]):
        backends["cpp"] = (stub := Stub(None)).module
        assert self.ran(stub)
        assert explain(self.x).backend == "cpp"
        assert not self.ran(stub, torch.empty(0, 3))
        assert explain(torch.empty(0, 3)).backend == "aten"

    def test_and_torch_where_it_cannot(self, backends: dict[str, Any]):
        backends["cpp"] = (stub := Stub("float16 is slower there")).module
        assert not self.ran(stub)
        text = str(explain(self.x))
        assert text.splitlines() == [
            "float32 [4, 3, 2] on cpu: torch's own batch_norm and leaky_relu",
            "  cpp: refused: float16 is slower there",
            "  torch: chosen: the fastest that takes it",
            "  triton: not for tensors on cpu",
            "  aten: not needed",
        ]
        explanation = explain(self.x, save="output")
        assert explanation.backend == "aten"
        assert explanation.verdicts["torch"] == "refused: it keeps x, not y alone"

    def test_a_gpu_takes_triton(self, backends: dict[str, Any]):
        with FakeTensorMode():
            x = torch.empty(4, 3, device="cuda")
        backends["triton"] = Stub(None).module
        assert explain(x).backend == "triton"
        assert choice.chosen(x, Form(0.2)) is backends["triton"]
        backends["triton"] = "no module named 'triton'"
        explanation = explain(x)
        assert explanation.backend == "torch"
        assert explanation.verdicts["triton"] == "refused: no module named 'triton'"

    def test_forced(self, backends: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
        cpp, triton = Stub(None), Stub(None)
        backends |= {"cpp": cpp.module, "triton": triton.module}
        layer = SimpleNamespace(layer=triton._layer)
        monkeypatch.setitem(sys.modules, "agehpc_kernels.triton_layer", layer)
        with backend("triton"):
            assert self.ran(triton)
            with backend("aten"):
                assert not self.ran(triton)
            assert explain(self.x).backend == "triton"
        assert self.ran(cpp)
        monkeypatch.setattr(choice, "_asked", "aten")
        assert not self.ran(cpp)
        assert explain(self.x).verdicts["cpp"] == "not asked: aten is forced"
        with backend("auto"):
            assert self.ran(cpp)

    def test_forced_and_refused(self, backends: dict[str, Any]):
        with backend("cpp"):
            with pytest.raises(ValueError, match=r"'cpp' was forced .* no compiler; set .*auto"):
                bn_leaky_relu(self.x)
            assert explain(self.x).backend is None
            assert "nothing can run it" in str(explain(self.x))
            assert bn_leaky_relu(torch.empty(0, 3)).shape == (0, 3)

    def test_unknown_names(self, backends: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
        message = r"no backend 'cuda'; there are auto, triton, cpp"
        with pytest.raises(ValueError, match=message), backend("cuda"):  # type: ignore[arg-type]
            pass
        monkeypatch.setattr(choice, "_asked", "c++")
        with pytest.raises(ValueError, match=f"{VARIABLE}: no backend 'c[+][+]'"):
            bn_leaky_relu(self.x)


def test_a_backend_that_cannot_be_imported_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(name: str) -> None:
        raise ImportError("no module named 'triton'")

    monkeypatch.setattr(importlib, "import_module", refuse)
    choice._module.cache_clear()
    try:
        for _ in range(2):
            assert choice._module("triton") == "cannot be imported (no module named 'triton')"
    finally:
        choice._module.cache_clear()
    assert [r.getMessage() for r in caplog.records] == [
        "fused norms run without Triton kernels: no module named 'triton'"
    ]


def test_the_environment_asks():
    code = "import torch, agehpc_kernels; print(agehpc_kernels.explain(torch.ones(2, 2)).backend)"
    environment = {**os.environ, VARIABLE: "aten"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "aten"


def test_importing_imports_no_backend():
    code = """
import sys, agehpc_kernels
print([m for m in sys.modules if m.startswith("agehpc_kernels.by_") or m == "triton"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['agehpc_kernels.by_aten']"
