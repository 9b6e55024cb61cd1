"""Translators from sample to sample: U-Net and residual network.

Shapes: B batch, C channels, S (H, W) or (T, H, W). Samples lie in [-1, 1]. Convolutions before a
norm have no bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.config.networks import Norm, ResnetConfig, UnetConfig
from agehpc.models.blocks import (
    BANKS,
    Output,
    convolution,
    initialise,
    squashed,
    stage_widths,
    transposed_convolution,
)
from agehpc.models.geometry import Geometry
from agehpc_kernels import NormLeakyReLU


class Unet(nn.Module):
    """U-Net: convolutions of stride 2 down to one pixel, and up with skips (Isola et al. 2017).

    Encoder C64-C128-C256-C512-..., LeakyReLU; decoder with ReLU and dropout in its three innermost
    stages, each seeing the encoder's features of its own resolution beside the stage below. The
    first stage and the innermost, which is one pixel, have no norm. Sizes other than powers of two
    end where halving does. In clips time is halved with space while it is even.

    Args:
        net: its settings.
        geo: halvings of the input, with its channels.
        outputs: channels of the output.
        output: the last activation.
    """

    def __init__(
        self, net: UnetConfig, geo: Geometry, outputs: int, output: Output = "tanh"
    ) -> None:
        super().__init__()
        self.output: Output = output
        self.dropped = range(max(0, geo.stages - 3), geo.stages)
        self.dropout = nn.Dropout(net.dropout)
        widths = stage_widths(net.width, net.max_width, geo)
        inputs = [geo.channels, *widths]
        self.downs, self.down_norms = nn.ModuleList(), nn.ModuleList()
        self.ups, self.up_norms = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            innermost = i == geo.stages - 1
            strides = geo.strides(i)
            kernel = tuple(4 if s == 2 else 3 for s in strides)
            norm: Norm = "none" if i == 0 or innermost else net.norm
            self.downs.append(
                convolution(inputs[i], width, kernel=kernel, stride=strides, bias=norm == "none")
            )
            self.down_norms.append(NormLeakyReLU(norm, width, slope=net.slope, banks=BANKS))
            above, below = (outputs if i == 0 else widths[i - 1]), width * (1 if innermost else 2)
            bias = i == 0 or net.norm == "none"
            self.ups.append(
                transposed_convolution(below, above, kernel=kernel, stride=strides, bias=bias)
            )
            if i > 0:
                self.up_norms.append(NormLeakyReLU(net.norm, above, slope=0.0, banks=BANKS))
        initialise(self)

    def forward(self, x_BCS: Tensor, bank: int) -> Tensor:
        """Translate."""
        return squashed(self.logits(x_BCS, bank), self.output)

    def logits(self, x_BCS: Tensor, bank: int) -> Tensor:
        """What the output activation is applied to: [B, outputs, S], unbounded."""
        skips = []
        for down, norm in zip(self.downs, self.down_norms, strict=True):
            x_BCS = norm(down(x_BCS), bank)
            skips.append(F.relu(x_BCS))  # ReLU(LeakyReLU(x)) is the ReLU(x) that the decoder sees
        x_BCS = skips.pop()
        for i in reversed(range(1, len(self.ups))):
            x_BCS = self.up_norms[i - 1](self.ups[i](x_BCS), bank)
            if i in self.dropped:
                x_BCS = self.dropout(x_BCS)
            x_BCS = torch.cat([skips.pop(), x_BCS], 1)
        return self.ups[0](x_BCS)


class Residual(nn.Module):
    """R256: two convolutions with norms, ReLU between them, added to the input: [B, C, H, W]."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.first = nn.Conv2d(channels, channels, 3, bias=bias)
        self.second = nn.Conv2d(channels, channels, 3, bias=bias)
        self.first_norm = NormLeakyReLU(norm, channels, slope=0.0, banks=BANKS)
        self.second_norm = NormLeakyReLU(norm, channels, slope=1.0, banks=BANKS)

    def forward(self, x_BCHW: Tensor, bank: int) -> Tensor:
        """Add the residual."""
        h_BCHW = self.first_norm(self.first(_reflected(x_BCHW, 1)), bank)
        return x_BCHW + self.second_norm(self.second(_reflected(h_BCHW, 1)), bank)


class Resnet(nn.Module):
    """c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-C (Zhu et al. 2017): [B, C, H, W].

    Padding by reflection, ReLU throughout. Height and width divide by 4.

    Args:
        net: its settings.
        inputs: channels of the input.
        outputs: channels of the output.
        output: the last activation.
    """

    def __init__(
        self, net: ResnetConfig, inputs: int, outputs: int, output: Output = "tanh"
    ) -> None:
        super().__init__()
        self.output: Output = output
        w, bias = net.width, net.norm == "none"
        around = {"kernel": (3, 3), "stride": (2, 2), "bias": bias}
        self.first = nn.Conv2d(inputs, w, 7, bias=bias)
        self.changes = nn.ModuleList(
            [
                convolution(w, 2 * w, **around),
                convolution(2 * w, 4 * w, **around),
                transposed_convolution(4 * w, 2 * w, **around),
                transposed_convolution(2 * w, w, **around),
            ]
        )
        self.norms = nn.ModuleList(
            NormLeakyReLU(net.norm, channels, slope=0.0, banks=BANKS)
            for channels in (w, 2 * w, 4 * w, 2 * w, w)
        )
        self.blocks = nn.ModuleList(Residual(4 * w, net.norm) for _ in range(net.blocks))
        self.last = nn.Conv2d(w, outputs, 7)
        initialise(self)

    def forward(self, x_BCHW: Tensor, bank: int) -> Tensor:
        """Translate."""
        return squashed(self.logits(x_BCHW, bank), self.output)

    def logits(self, x_BCHW: Tensor, bank: int) -> Tensor:
        """What the output activation is applied to: [B, outputs, H, W], unbounded."""
        x_BCHW = self.norms[0](self.first(_reflected(x_BCHW, 3)), bank)
        for i in (0, 1):
            x_BCHW = self.norms[i + 1](self.changes[i](x_BCHW), bank)
        for block in self.blocks:
            x_BCHW = block(x_BCHW, bank)
        for i in (2, 3):
            x_BCHW = self.norms[i + 1](self.changes[i](x_BCHW), bank)
        return self.last(_reflected(x_BCHW, 3))


def _reflected(x_BCHW: Tensor, pixels: int) -> Tensor:
    return F.pad(x_BCHW, (pixels,) * 4, "reflect")
