"""Blocks of every convolutional network, for images and clips alike.

Shapes: B batch, C channels, S the spatial dimensions (H, W) or (T, H, W), K banks of statistics.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from agehpc.config.networks import DenseConfig, NetworkConfig, Norm
from agehpc.models.geometry import Geometry
from agehpc_kernels import NormLeakyReLU

DATA, PRIOR = 0, 1
"""Banks of statistics: what comes from data (x, E(x), G(E(x))) and from the prior (z, G(z))."""
BANKS = 2

Output = Literal["tanh", "sigmoid"]
"""Last activations of what makes samples."""

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    bias: bool,
) -> nn.Module:
    """Convolution that divides each dimension by its stride: kernels of 3 to 5, padded for it."""
    padding = tuple((k - 1) // 2 for k in kernel)
    return _CONV[len(kernel)](inputs, outputs, kernel, stride, padding, bias=bias)  # type: ignore[arg-type]


def transposed_convolution(
    inputs: int,
    outputs: int,
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    bias: bool,
) -> nn.Module:
    """Transposed convolution that multiplies each dimension by its stride; kernels of 3 to 5."""
    padding = tuple((k - 1) // 2 for k in kernel)
    # An odd kernel at stride 2 leaves the last row out.
    extra = tuple((k - s) % 2 for k, s in zip(kernel, stride, strict=True))
    make = _CONV_TRANSPOSE[len(kernel)]
    return make(inputs, outputs, kernel, stride, padding, extra, bias=bias)  # type: ignore[arg-type]


def odd_kernel(kernel: int) -> int:
    """Size of the convolutions that keep a dimension, in a network whose others have `kernel`."""
    return 5 if kernel == 5 else 3


def network_norm(
    net: NetworkConfig | DenseConfig,
    channels: int,
    *,
    norm: Norm,
    slope: float | None = None,
    classes: int | None = None,
) -> NormLeakyReLU:
    """The norm and LeakyReLU that a network's settings ask for, or with another slope."""
    return NormLeakyReLU(
        norm,
        channels,
        slope=net.slope if slope is None else slope,
        banks=BANKS,
        momentum=net.momentum,
        order=net.order,
        classes=classes,
    )


def keeps_bias(net: NetworkConfig | DenseConfig, *, norm: Norm) -> bool:
    """Whether the layer before a norm has a bias: only where the norm does not take it away."""
    return norm == "none" or net.order == "activation_first"


class Down(nn.Module):
    """Strided convolution, norm, LeakyReLU: [B, C, S] to [B, outputs, S / stride]."""

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, ...], net: NetworkConfig, *, first: bool
    ) -> None:
        super().__init__()
        # The first layer sees pixels and keeps their mean and contrast (DCGAN): no norm.
        norm = "none" if first else net.norm
        kernel = tuple(net.kernel if s == 2 else odd_kernel(net.kernel) for s in stride)
        bias = keeps_bias(net, norm=norm)
        self.conv = convolution(inputs, outputs, kernel=kernel, stride=stride, bias=bias)
        self.norm = network_norm(net, outputs, norm=norm)
        self.dropout = nn.Dropout(net.dropout)

    def forward(self, x: Tensor, bank: int) -> Tensor:
        """Divide the resolution by the stride; `bank` names the stream for the norm."""
        return self.dropout(self.norm(self.conv(x), bank))


class Upsample(nn.Module):
    """Convolution that multiplies each dimension by its factor: [B, C, S] to [B, outputs, S * f].

    `transposed` is a transposed convolution; `resize` repeats pixels, then convolves; `subpixel`
    convolves at low resolution and shuffles channels into space (Shi et al. 2016), initialised so
    that it starts as `resize` does, without a checkerboard (Aitken et al. 2017). With `kernel` 5
    every convolution has that size; otherwise transposed ones that double have 4, others 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        factor: tuple[int, ...],
        mode: Literal["transposed", "resize", "subpixel"],
        *,
        bias: bool,
        kernel: int = 4,
    ) -> None:
        super().__init__()
        self.mode, self.factor, self.outputs = mode, factor, outputs
        odd = odd_kernel(kernel)
        if mode == "transposed":
            sizes = tuple(odd if f == 1 or kernel == 5 else 4 for f in factor)
            self.conv = transposed_convolution(
                inputs, outputs, kernel=sizes, stride=factor, bias=bias
            )
            return
        copies = math.prod(factor) if mode == "subpixel" else 1
        sizes, ones = (odd,) * len(factor), (1,) * len(factor)
        self.conv = convolution(inputs, outputs * copies, kernel=sizes, stride=ones, bias=bias)

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
    copies = math.prod(factor)
    x = x.reshape(batch, channels // copies, *factor, *space)
    order = [0, 1]
    for dim in range(ndim):
        order += [2 + ndim + dim, 2 + dim]
    x = x.permute(order)
    return x.reshape(
        batch, channels // copies, *(s * f for s, f in zip(space, factor, strict=True))
    )


def stage_widths(width: int, max_width: int, geo: Geometry) -> list[int]:
    """Channels after each stage, from the sample's resolution down: doubled up to max_width."""
    return [min(width * 2**stage, max_width) for stage in range(geo.stages)]


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


def normalise_spectrally(module: nn.Module) -> None:
    """Divide every weight of a network by its largest singular value (Miyato et al. 2018).

    Call it once, on initialised weights: the vectors that estimate the value start from them and
    from torch's global generator.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding):
            spectral_norm(layer)


def squashed(logits: Tensor, output: Output) -> Tensor:
    """Samples in [-1, 1] from what a generator says before its last activation."""
    return logits.tanh() if output == "tanh" else 2.0 * torch.sigmoid(logits) - 1.0
