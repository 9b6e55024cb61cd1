"""What the tests of the fused operation share: the reference, inputs, and a watch on the host."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from agehpc_kernels import backend, bn_leaky_relu, by_cpp, choice, ops

EPS = 1e-3
ORDERS = ["norm_first", "activation_first"]
SAVES = ["input", "output"]
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture(autouse=True, scope="module", params=["aten", "cpp"])
def by(request: pytest.FixtureRequest) -> Iterator[None]:
    """By the formulas of the kernels, and by compiled ones."""
    if request.param == "aten":
        with backend("aten"):
            yield
        return
    if shutil.which("g++") is None:
        pytest.skip("compiled C++ needs g++")
    with pytest.MonkeyPatch.context() as patch:
        # Wherever it can, also where it is slower.
        patch.setattr(by_cpp, "_FEWEST_VALUES", 0)
        patch.setattr(choice, "_CANDIDATES", {"cpu": ("cpp", "aten"), "meta": ("aten",)})
        forget()
        yield
    forget()


def forget() -> None:
    """Let everything be chosen anew."""
    choice._known.clear()
    choice.layer.cache_clear()


@dataclass(frozen=True)
class Case:
    """One call of the fused operation."""

    shape: tuple[int, ...] = (3, 4, 5, 2)
    layout: str = "contiguous"
    order: str = "norm_first"
    save: str = "input"
    slope: float = 0.2
    affine: bool = True
    training: bool = True
    running: bool = True
    momentum: float = 0.3
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """What both the reference and bn_leaky_relu take by name."""
        return {
            "training": self.training,
            "momentum": self.momentum,
            "eps": EPS,
            "slope": self.slope,
            "order": self.order,
        }

    def draw(self, dtype: torch.dtype = torch.float64) -> "Inputs":
        """Numbers that tell channels, elements and gradients apart."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        channels = self.shape[1]
        x = normal(*self.shape) * 2 + 3 * normal(1, channels, *[1] * (len(self.shape) - 2))
        sign = torch.where(normal(channels) > 0, 1.0, -1.0)
        return Inputs(
            laid_out(x.to(dtype), self.layout).requires_grad_(True),
            (sign * (0.5 + normal(channels).abs())).requires_grad_(True) if self.affine else None,
            normal(channels).requires_grad_(True) if self.affine else None,
            normal(channels) if self.running else None,
            0.5 + normal(channels).square() if self.running else None,
            normal(*self.shape).to(dtype),
        )


@dataclass
class Inputs:
    """Tensors of one call, and the gradient of its output."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    dy: Tensor

    def arguments(self) -> list[Any]:
        """The tensors in the order of the call."""
        return [self.x, self.weight, self.bias, self.running_mean, self.running_var]

    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [t for t in (self.x, self.weight, self.bias) if t is not None]


@st.composite
def cases(draw: Any, **fixed: Any) -> Case:
    """Forms, shapes and layouts that do not contradict one another."""
    space = draw(st.lists(st.sampled_from([1, 2, 3, 7]), max_size=3))
    shape = (draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 6, 13])), *space)
    save = draw(st.sampled_from(["input", "output"]))
    running = draw(st.booleans())
    enough = shape[0] * torch.Size(space).numel() > 1
    case = Case(
        shape=shape,
        layout=draw(st.sampled_from(["contiguous", "channels_last", "transposed", "strided"])),
        order=draw(st.sampled_from(["norm_first", "activation_first"])),
        save=save,
        slope=draw(st.sampled_from([0.2, 1.0, 0.01, 1.5] + ([0.0, -0.5] * (save == "input")))),
        affine=draw(st.booleans()),
        running=running or not enough,
        training=enough and (not running or draw(st.booleans())),
        seed=draw(st.integers(0, 99)),
    )
    return replace(case, **fixed)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last" and x.dim() in FORMATS:
        return x.clone(memory_format=FORMATS[x.dim()])
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        return wide[..., ::2].detach()
    return x.clone()


def reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    slope: float,
    order: str,
) -> Tensor:
    """F.batch_norm and F.leaky_relu."""
    if order == "activation_first":
        x = F.leaky_relu(x, slope)
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return y if order == "activation_first" else F.leaky_relu(y, slope)


def fused(case: Case, inputs: Inputs, **more: Any) -> Tensor:
    """The call under test."""
    return bn_leaky_relu(*inputs.arguments(), save=case.save, **case.options(), **more)  # type: ignore[arg-type]


def expected(case: Case, inputs: Inputs) -> Tensor:
    """The reference of the same call."""
    return reference(*inputs.arguments(), **case.options())


class NoHost(TorchDispatchMode):
    """Fails where a value is read on the host, also inside the registered operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        assert "_local_scalar_dense" not in name, "a value was copied to the host"
        assert name not in ("aten::nonzero", "aten::equal"), f"{name} waits for the device"
        if func.namespace == "agehpc_kernels":
            with self:  # a mode is off inside its handler: what the operator does would go unseen
                return ops.BODIES[name.split("::")[1]](*args, **kwargs or {})
        return func(*args, **kwargs or {})
