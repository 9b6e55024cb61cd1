"""BatchNorm + LeakyReLU by this project, by torch and by other projects, ready to be timed.

A provider that is not installed, or cannot take a case, raises UnsuitedError.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from kernel_cases import Case
from torch import Tensor, nn

from agehpc_kernels import bn_leaky_relu


class UnsuitedError(Exception):
    """A provider that cannot run a case, and why."""


class Layer(NamedTuple):
    """What is timed: a function of x, and the parameters that get gradients."""

    run: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...]
    note: str = ""


def _state(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight, bias, running mean and running variance, as a new layer has them."""
    zeros, ones = (f(case.shape[1], device=device) for f in (torch.zeros, torch.ones))
    return ones.clone().requires_grad_(), zeros.clone().requires_grad_(), zeros, ones


def fused(case: Case, device: torch.device) -> Layer:
    """This project's, by whichever backend it chooses."""
    weight, bias, mean, var = _state(case, device)

    def run(x: Tensor) -> Tensor:
        return bn_leaky_relu(
            x, weight, bias, mean, var, slope=case.slope, order=case.order, save=case.save
        )

    return Layer(run, (weight, bias))


def eager(case: Case, device: torch.device) -> Layer:
    """torch's own functions: on a GPU cuDNN's or torch's kernels, as torch chooses."""
    weight, bias, mean, var = _state(case, device)

    def run(x: Tensor) -> Tensor:
        if case.order == "activation_first":
            return F.batch_norm(F.leaky_relu(x, case.slope), mean, var, weight, bias, True)
        return F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, True), case.slope)

    return Layer(run, (weight, bias))


def eager_in_place(case: Case, device: torch.device) -> Layer:
    """torch's own functions, LeakyReLU in the place of the norm's output."""
    if case.order == "activation_first":
        raise UnsuitedError("LeakyReLU would overwrite x")
    weight, bias, mean, var = _state(case, device)

    def run(x: Tensor) -> Tensor:
        return F.leaky_relu(
            F.batch_norm(x, mean, var, weight, bias, True), case.slope, inplace=True
        )

    return Layer(run, (weight, bias))


def compiled(case: Case, device: torch.device) -> Layer:
    """torch's own functions through torch.compile."""
    torch._dynamo.reset()  # compiled for more than 8 cases a function is given up
    layer = eager(case, device)
    return layer._replace(run=torch.compile(layer.run, fullgraph=True, dynamic=False))


def cudnn_channels_last(case: Case, device: torch.device) -> Layer:
    """torch's own functions in the layout that cuDNN's single-read kernels want."""
    if not case.channels_last or device.type != "cuda":
        raise UnsuitedError("for channels_last tensors on a GPU")
    if not torch.backends.cudnn.is_available():
        raise UnsuitedError("no cuDNN")
    layer = eager(case, device)

    def run(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return layer.run(x)

    return layer._replace(run=run)


def inplace_abn(case: Case, device: torch.device) -> Layer:
    """mapillary/inplace_abn."""
    _needs(device, case.order == "norm_first", "norm first", case.slope > 0, "a slope above 0")
    _needs(device, case.dtype != "bfloat16", "not bfloat16", not case.channels_last, "contiguous")
    module = _module("inplace_abn").InPlaceABN(
        case.shape[1], activation="leaky_relu", activation_param=case.slope
    )
    layer = _of(module, device)
    # It overwrites its input, which has to be there the next time.
    return layer._replace(run=lambda x: layer.run(x.clone()), note="with a copy of x")


def apex(case: Case, device: torch.device) -> Layer:
    """NVIDIA/apex's persistent NHWC kernels; they know ReLU only."""
    _needs(device, case.dtype == "float16", "float16", case.channels_last, "channels_last")
    _needs(device, len(case.shape) == 4, "4-D", case.order == "norm_first", "norm first")
    found = _module("apex.contrib.groupbn")
    layer = _of(found.BatchNorm2d_NHWC(case.shape[1], fuse_relu=True), device)
    return layer._replace(run=lambda x: layer.run(x.movedim(1, -1)).movedim(-1, 1), note="ReLU")


def attorch(case: Case, device: torch.device) -> Layer:
    """BobMcDear/attorch, Triton."""
    _needs(device, len(case.shape) in (2, 4), "2-D or 4-D", not case.channels_last, "contiguous")
    _needs(device, case.order == "norm_first", "norm first", case.dtype == "float32", "float32")
    found = _module("attorch")
    kind = found.BatchNorm2d if len(case.shape) == 4 else found.BatchNorm1d
    return _of(kind(case.shape[1], act_func=f"leaky_relu_{case.slope}"), device)


PROVIDERS: dict[str, Callable[[Case, torch.device], Layer]] = {
    "fused": fused,
    "eager": eager,
    "torch.compile": compiled,
    "cuDNN": cudnn_channels_last,
    "inplace_abn": inplace_abn,
    "apex": apex,
    "attorch": attorch,
}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsuitedError(f"cannot be imported ({error})") from error


def _needs(device: torch.device, *wanted: bool | str) -> None:
    """Refuse a case: `wanted` are truths, each followed by its name."""
    if device.type != "cuda":
        raise UnsuitedError("needs a GPU")
    for holds, name in zip(wanted[::2], wanted[1::2], strict=True):
        if not holds:
            raise UnsuitedError(f"takes only what is {name}")


def _of(module: nn.Module, device: torch.device) -> Layer:
    module.to(device).train()
    return Layer(module, tuple(module.parameters()))
