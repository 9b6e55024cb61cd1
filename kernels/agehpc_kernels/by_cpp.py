"""The fused operation on the CPU: operators in C++, with the functions of by_aten.

Vectors of the CPU it is built on, float32 arithmetic (float64 for float64), tiles put together in
float64. A channel's slice is read a second time while it is in the cache. Results have the same
bits on any number of threads.
"""

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agehpc_kernels.extension import Unavailable, load
from agehpc_kernels.form import Form

_FOLDER = Path(__file__).parent
_SOURCES = [_FOLDER / "by_cpp.cpp", *sorted(_FOLDER.glob("by_cpp_*.h"))]
# No -ffast-math: NaN has to survive, and it would switch off denormals in the whole process.
# Without the first of these the choice by sign is not vectorised.
_FLAGS = ("-fno-trapping-math", "-fno-signed-zeros", "-fno-math-errno")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FEWEST_VALUES = 2**15
_FEWEST_COLUMNS = 16  # of the widest vectors
_lock = threading.Lock()
_logger = logging.getLogger(__name__)


def refusal(x: Tensor, form: Form) -> str | None:
    """Return why `x` cannot be worked on here, None where it can.

    The first call for a suitable tensor builds the operators, which takes half a minute.
    """
    if x.device.type != "cpu":
        return f"the C++ operators run on the CPU; x is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"the C++ operators take {', '.join(map(str, _DTYPES))}; x is {x.dtype}"
    return _too_narrow(x) or _missing()


def slower(x: Tensor, form: Form) -> str | None:
    """Return why torch's own operators are the better choice for the size of `x`.

    Below, what stands around the operators costs more than they save: at 32,768 values forward and
    backward are 1.03 to 1.6 times as fast as F.batch_norm + F.leaky_relu, on two cores of an EPYC
    with AVX-512 (benchmarks/kernels.py).
    """
    if x.numel() < _FEWEST_VALUES:
        fewest = f"{x.numel()} values are fewer than {_FEWEST_VALUES}"
        return f"{fewest}: calls cost more than they save"
    return None


def _too_narrow(x: Tensor) -> str | None:
    columns = x.shape[1] if not x.is_contiguous() else x.numel() // max(x.shape[0], 1)
    if columns < _FEWEST_COLUMNS:
        return f"rows of {columns} values do not fill a vector of {_FEWEST_COLUMNS}"
    return None


def _missing() -> str | None:
    """Return why there are no operators. Found out once in a process."""
    with _lock:
        return _load()


@functools.cache
def _load() -> str | None:
    try:
        load("agehpc_cpp", _SOURCES, _FLAGS)
    except Unavailable as reason:
        _logger.warning("no C++ operators on the CPU, plain torch is used: %s", reason)
        return f"the C++ operators are missing: {reason}"
    return None


def operators() -> Any:
    """Return torch.ops.agehpc_cpp, for tensors that are not refused."""
    missing = _missing()
    assert missing is None, missing
    return torch.ops.agehpc_cpp


def _first(form: Form) -> bool:
    return form.order == "activation_first"


def moments(x: Tensor, form: Form) -> Tensor:
    """Return float64 [3, C], as by_aten.moments."""
    return operators().moments.default(x, form.slope, _first(form))


def apply(
    x: Tensor, stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> Tensor:
    """Return y, as by_aten.apply."""
    return operators().apply.default(x, stats_3C, weight, bias, form.slope, _first(form))


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the moments and the statistics, as by_aten.forward."""
    return operators().forward.default(x, weight, bias, eps, form.slope, _first(form))


def _backward(name: str) -> Callable[..., Any]:
    """Return one of the backward functions, whose arguments differ before the form alone."""

    def run(*arguments: Any) -> Any:
        *tensors, form = arguments
        operator = getattr(operators(), name).default
        return operator(*tensors, form.slope, _first(form), form.save == "output")

    run.__doc__ = f"Return what by_aten.{name} does."
    return run


backward_sums = _backward("backward_sums")
backward_apply = _backward("backward_apply")
backward = _backward("backward")
backward_fixed = _backward("backward_fixed")
