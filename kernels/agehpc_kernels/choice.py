"""Which backend runs the fused operation on a tensor, and why."""

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agehpc_kernels.form import Form, Order, Save

Backend = Literal["auto", "triton", "cpp", "torch", "aten"]
Way = Literal["torch", "cpp", "triton", "operators"]
"""F.batch_norm and F.leaky_relu, a backend's own layer, or the registered operators."""
VARIABLE = "AGEHPC_KERNELS_BACKEND"

_TITLES = {
    "triton": "Triton kernels",
    "cpp": "compiled C++",
    "torch": "torch's own batch_norm and leaky_relu",
    "aten": "the kernels' formulas in plain torch",
}
_WAYS: dict[str, Way] = {"torch": "torch", "cpp": "cpp", "triton": "triton"}
# The fastest first. Triton's interpreter runs on the CPU too, but only where it is forced.
_CANDIDATES = {"cuda": ("triton", "torch", "aten"), "cpu": ("cpp", "torch", "aten")}
_log = logging.getLogger(__name__)
# Not a context variable: backward runs in autograd's own threads on CUDA.
_forced: list[Backend] = []
# What the environment asks for; looking it up at every call would show in a small layer's time.
_asked = os.environ.get(VARIABLE, "auto")
_MOST_KNOWN = 4096
_known: dict[tuple[Any, ...], Way] = {}


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Run every fused operation of the process by one backend inside the block.

    It outweighs the environment variable AGEHPC_KERNELS_BACKEND, which is read at import. Backward
    passes go by what holds when they run. Not for use by several threads at once.

    Args:
        name: `auto` chooses by tensor; another one raises ValueError on what it cannot take.
            `torch` is F.batch_norm and F.leaky_relu, which keep two activations for backward;
            `aten` the formulas of the kernels, slow: the rest of what `torch` cannot do.
    """
    _forced.append(_checked(name, "backend"))
    try:
        yield
    finally:
        _forced.pop()


@dataclass(frozen=True)
class Explanation:
    """The backend of a tensor; `print` it."""

    subject: str
    backend: str | None
    """None where a forced backend refuses the tensor: the operation would raise."""
    verdicts: dict[str, str]
    """Why, for each backend that was considered."""

    @property
    def title(self) -> str:
        """What runs it, in words."""
        return "nothing can run it" if self.backend is None else _TITLES[self.backend]

    def __str__(self) -> str:
        """Tell it in lines: the tensor and what runs, then each backend's reason."""
        lines = [f"{self.subject}: {self.title}"]
        return "\n".join(lines + [f"  {name}: {why}" for name, why in self.verdicts.items()])


def explain(
    x: Tensor, *, slope: float = 0.2, order: Order = "norm_first", save: Save = "input"
) -> Explanation:
    """Say which backend would run `bn_leaky_relu` on a tensor and why; runs nothing.

    Args:
        x: [N, C, *], any floating dtype and layout.
        slope: as in `bn_leaky_relu`, like the rest.
        order: whether the norm or LeakyReLU comes first.
        save: what backward keeps.
    """
    form = Form(slope, order, save)
    subject = f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"
    if not x.numel():
        return Explanation(subject, "aten", {"aten": "chosen: the tensor is empty"})
    name = _checked(_wanted(), VARIABLE)
    verdicts = {}
    if name == "auto":
        found = _fastest(x, form)
        reasons = {n: _refusal(n, x, form, forced=False) for n in _candidates(x)}
        verdict = "chosen: the fastest that takes it"
    else:
        reasons = {name: _refusal(name, x, form, forced=True)}
        found = None if reasons[name] else name
        verdict = "chosen: forced"
    for candidate, why in reasons.items():
        if candidate == found:
            verdicts[candidate] = verdict
        elif why:
            verdicts[candidate] = f"refused: {why}"
    for other in _TITLES:
        verdicts.setdefault(other, _passed_over(other, x, name))
    return Explanation(subject, found, verdicts)


def way(x: Tensor, slope: float, order: Order, save: Save) -> Way:
    """Return what runs a tensor's operation; ValueError if a backend is forced in vain.

    Small layers cost what the calls around them cost, so the answer is kept for each kind of
    tensor.
    """
    if not x.numel():
        return "operators"  # running statistics of nothing must stay as they are
    if torch.compiler.is_compiling():
        # What compiles for the CPU fuses torch's functions, and cannot look into compiled C++.
        name = "torch" if _wanted() == "auto" and x.device.type == "cpu" else _wanted()
        return "torch" if name == "torch" and save == "input" else "operators"
    key = (_wanted(), x.device, x.dtype, x.shape, x.stride(), slope, order, save)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        name = _choose(x, Form(slope, order, save))
        found = _known[key] = _WAYS.get(name, "operators")
    return found


@functools.cache
def layer(way: Way) -> Callable[..., Tensor]:
    """Return a backend's layer of its own node in autograd, for training."""
    if way == "triton":
        return importlib.import_module("agehpc_kernels.triton_layer").layer
    module = _module("cpp")
    assert isinstance(module, ModuleType)
    return module.operators().layer.default


def chosen(x: Tensor, form: Form) -> ModuleType:
    """Return the module of the seam for a tensor; ValueError where a forced one refuses it."""
    name = _choose(x, form) if x.numel() else "aten"
    if name == "torch":  # which has no such functions: a kernel, though torch itself is faster
        name = _able(x, form) if _wanted() == "auto" else "aten"
    module = _module(name)
    assert isinstance(module, ModuleType)
    return module


def _fastest(x: Tensor, form: Form) -> str:
    for name in _candidates(x):
        if name != "aten" and _refusal(name, x, form, forced=False) is None:
            return name
    return _able(x, form)


def _able(x: Tensor, form: Form) -> str:
    """Return the fastest with the functions of the seam, be torch's own faster or not."""
    names = (name for name in _candidates(x) if name != "torch")
    return next(name for name in names if _refusal(name, x, form, forced=True) is None)


def _choose(x: Tensor, form: Form) -> str:
    name = _checked(_wanted(), VARIABLE)
    if name == "auto":
        return _fastest(x, form)
    if why := _refusal(name, x, form, forced=True):
        raise ValueError(
            f"the backend {name!r} was forced and cannot run this: {why}; set "
            f"{VARIABLE}=auto (or leave the `backend` block) to let another one run it"
        )
    return name


def _wanted() -> str:
    return _forced[-1] if _forced else _asked


def _checked(name: str, source: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"{source}: no backend {name!r}; there are {', '.join(get_args(Backend))}")
    return name  # type: ignore[return-value]


def _candidates(x: Tensor) -> tuple[str, ...]:
    return _CANDIDATES.get(x.device.type, ("torch", "aten"))


def _passed_over(name: str, x: Tensor, wanted: Backend) -> str:
    if wanted != "auto":
        return f"not asked: {wanted} is forced"
    return "not needed" if name in _candidates(x) else f"not for tensors on {x.device.type}"


def _refusal(name: str, x: Tensor, form: Form, *, forced: bool) -> str | None:
    if name == "torch":
        return "it keeps x, not y alone" if form.save == "output" else None
    module = _module(name)
    if isinstance(module, str):
        return module
    # What is merely slower runs where it is forced; asked first, for a refusal may cost a build.
    return (None if forced else module.slower(x, form)) or module.refusal(x, form)


@functools.cache
def _module(name: str) -> ModuleType | str:
    """Import a backend on first use; the reason where that fails."""
    try:
        return importlib.import_module(f"agehpc_kernels.by_{name}")
    except ImportError as error:
        _log.warning("fused norms run without %s: %s", _TITLES[name], error)
        return f"cannot be imported ({error})"
