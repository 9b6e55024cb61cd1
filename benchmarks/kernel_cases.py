"""Tensors that the benchmarks of the kernels run on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agehpc_kernels.form import Form, Order, Save

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMED = ((16, 64, 32, 32), (4, 64, 16, 32, 32))
"""The shapes that speed is promised for."""
LAYOUTS = ("contiguous", "channels_last")
ORDERS: tuple[Order, ...] = ("norm_first", "activation_first")
SAVES: tuple[Save, ...] = ("input", "output")


@dataclass(frozen=True)
class Case:
    """One tensor [N, C, *] and what is done with it."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    channels_last: bool = False
    order: Order = "norm_first"
    save: Save = "input"
    slope: float = 0.2

    @property
    def form(self) -> Form:
        """The operation."""
        return Form(self.slope, self.order, self.save)

    @property
    def columns(self) -> dict[str, object]:
        """The case in words, as rows name it."""
        return {
            "shape": "x".join(map(str, self.shape)),
            "layout": "channels_last" if self.channels_last else "contiguous",
            "dtype": self.dtype,
            "order": self.order,
            "save": self.save,
        }

    @property
    def bytes(self) -> int:
        """Size of the tensor: one pass over it."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize

    def tensor(self, device: str | torch.device, random: bool = True) -> Tensor:
        """Return x, of normal values or not filled."""
        make = torch.randn if random else torch.empty
        x = make(self.shape, device=device).to(DTYPES[self.dtype])
        return x.movedim(1, -1).contiguous().movedim(-1, 1) if self.channels_last else x


def parse_shape(text: str) -> tuple[int, ...]:
    """Return 16x64x32x32 as a tuple."""
    return tuple(int(word) for word in text.split("x"))
