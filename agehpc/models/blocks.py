"""Blocks of every convolutional network, for images and clips alike.

Shapes: B batch, C channels, S the spatial dimensions (H, W) or (T, H, W), K banks of statistics.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.config.schema import NetworkConfig
from agehpc.models.geometry import Geometry
from agehpc_kernels import NormLeakyReLU

DATA, PRIOR = 0, 1
"""Banks of statistics: what comes from data (x, E(x), G(E(x))) and from the prior (z, G(z))."""
BANKS = 2

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def convolution(
    inputs: int, outputs: int, *, kernel: tuple[int, ...], stride: tuple[int, ...], bias: bool
) -> nn.Module:
    """Convolution that divides each dimension by its stride, with padding 1."""
    return _CONV[len(kernel)](inputs, outputs, kernel, stride, padding=1, bias=bias)  # type: ignore[arg-type]


class Down(nn.Module):
    """Strided convolution, norm, LeakyReLU: [B, C, S] to [B, outputs, S / stride]."""

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, ...], net: NetworkConfig, *, first: bool
    ) -> None:
        super().__init__()
        # The first layer sees pixels and keeps their mean and contrast (DCGAN): no norm.
        norm = "none" if first else net.norm
        kernel = tuple(net.kernel if s == 2 else 3 for s in stride)
        self.conv = convolution(inputs, outputs, kernel=kernel, stride=stride, bias=norm == "none")
        self.norm = NormLeakyReLU(norm, outputs, slope=net.slope, banks=BANKS)

    def forward(self, x: Tensor, bank: int) -> Tensor:
        """Halve the resolution; `bank` names the stream for the norm."""
        return self.norm(self.conv(x), bank)


class Upsample(nn.Module):
    """Convolution that multiplies each dimension by its factor: [B, C, S] to [B, outputs, S * f].

    `transposed` is a transposed convolution; `resize` repeats pixels, then convolves; `subpixel`
    convolves at low resolution and shuffles channels into space (Shi et al. 2016), initialised so
    that it starts as `resize` does, without a checkerboard (Aitken et al. 2017).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        factor: tuple[int, ...],
        mode: Literal["transposed", "resize", "subpixel"],
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.mode, self.factor, self.outputs = mode, factor, outputs
        ones, threes = (1,) * len(factor), (3,) * len(factor)
        if mode == "transposed":
            kernel = tuple(4 if f == 2 else 3 for f in factor)
            self.conv = _CONV_TRANSPOSE[len(factor)](
                inputs,
                outputs,
                kernel,
                factor,
                padding=1,
                bias=bias,  # type: ignore[arg-type]
            )
            return
        copies = 1
        if mode == "subpixel":
            for f in factor:
                copies *= f
        self.conv = convolution(inputs, outputs * copies, kernel=threes, stride=ones, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample."""
        if self.mode == "transposed":
            return self.conv(x)
        if self.mode == "resize":
            scale = tuple(float(f) for f in self.factor)
            return self.conv(F.interpolate(x, scale_factor=scale, mode="nearest"))  # type: ignore[arg-type]
        return shuffle_channels(self.conv(x), self.factor)


def shuffle_channels(x: Tensor, factor: tuple[int, ...]) -> Tensor:
    """Move channels into space: [B, C * prod(factor), S] to [B, C, S * factor].

    In two dimensions with factor (2, 2) it is torch's pixel_shuffle.
    """
    batch, channels, *space = x.shape
    ndim = len(factor)
    copies = 1
    for f in factor:
        copies *= f
    x = x.reshape(batch, channels // copies, *factor, *space)
    order = [0, 1]
    for dim in range(ndim):
        order += [2 + ndim + dim, 2 + dim]
    x = x.permute(order)
    return x.reshape(
        batch, channels // copies, *(s * f for s, f in zip(space, factor, strict=True))
    )


def stage_widths(net: NetworkConfig, geo: Geometry) -> list[int]:
    """Channels after each stage, from the sample's resolution down: doubled up to max_width."""
    return [min(net.width * 2**stage, net.max_width) for stage in range(geo.stages)]


def initialise(module: nn.Module) -> None:
    """DCGAN's initialisation (Radford et al. 2016): convolutions N(0, 0.02), biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, Upsample) and layer.mode == "subpixel":
            weight = layer.conv.get_parameter("weight").data
            copies = len(weight) // layer.outputs
            weight.copy_(weight[::copies].clone().repeat_interleave(copies, dim=0))
