"""Encoder, generator and discriminators of the A.G.E., for images and clips from one code.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, F flattened base features.
Samples lie in [-1, 1]. `bank`, blocks.DATA or blocks.PRIOR, is the stream that a norm counts in.
"""

import itertools
import math
from typing import Literal

from torch import Tensor, nn

from agehpc.config.schema import LatentNetworkConfig, NetworkConfig
from agehpc.models.blocks import BANKS, Down, Upsample, stage_widths
from agehpc.models.geometry import Geometry
from agehpc_kernels import NormLeakyReLU


class Trunk(nn.Module):
    """Strided stages from a sample to its base features: the body of encoder and discriminator."""

    def __init__(self, net: NetworkConfig, geo: Geometry) -> None:
        super().__init__()
        widths = stage_widths(net, geo)
        inputs = [geo.channels, *widths]
        self.stages = nn.ModuleList(
            Down(inputs[i], widths[i], geo.strides(i), net, first=i == 0) for i in range(geo.stages)
        )
        self.features = widths[-1] * math.prod(geo.base)

    def forward(self, x_BCS: Tensor, bank: int) -> list[Tensor]:
        """The activations after each stage, the last of shape [B, C', base]."""
        activations = []
        for stage in self.stages:
            x_BCS = stage(x_BCS, bank)
            activations.append(x_BCS)
        return activations


class Encoder(nn.Module):
    """E: sample [B, C, S] to latent [B, Z], unbounded."""

    def __init__(self, net: NetworkConfig, geo: Geometry, latent: int) -> None:
        super().__init__()
        self.trunk = Trunk(net, geo)
        self.head = nn.Linear(self.trunk.features, latent)

    def forward(self, x_BCS: Tensor, bank: int) -> Tensor:
        """Encode."""
        return self.head(self.trunk(x_BCS, bank)[-1].flatten(1))


class Generator(nn.Module):
    """G: latent [B, Z] to sample [B, C, S] in [-1, 1]; the decoder of the autoencoder."""

    def __init__(
        self,
        net: NetworkConfig,
        geo: Geometry,
        latent: int,
        upsample: Literal["transposed", "resize", "subpixel"],
    ) -> None:
        super().__init__()
        widths = stage_widths(net, geo)
        self.base = (widths[-1], *geo.base)
        biased = net.norm == "none"
        self.stem = nn.Linear(latent, math.prod(self.base), bias=biased)
        self.norms = nn.ModuleList(
            NormLeakyReLU(net.norm, width, slope=net.slope, banks=BANKS)
            for width in reversed(widths)
        )
        outputs = [geo.channels, *widths[:-1]]
        self.ups = nn.ModuleList(
            Upsample(widths[i], outputs[i], geo.strides(i), upsample, bias=biased or i == 0)
            for i in reversed(range(geo.stages))
        )

    def forward(self, z_BZ: Tensor, bank: int) -> Tensor:
        """Generate."""
        x_BCS = self.stem(z_BZ).unflatten(1, self.base)
        for norm, up in zip(self.norms, self.ups, strict=True):
            x_BCS = up(norm(x_BCS, bank))
        return x_BCS.tanh()


class Discriminator(nn.Module):
    """D: sample [B, C, S] to one logit [B], and the features of its last stage."""

    def __init__(self, net: NetworkConfig, geo: Geometry) -> None:
        super().__init__()
        self.trunk = Trunk(net, geo)
        self.head = nn.Linear(self.trunk.features, 1)

    def forward(self, x_BCS: Tensor, bank: int) -> tuple[Tensor, Tensor]:
        """Logits [B], larger for more real, and features [B, C', base]."""
        features = self.trunk(x_BCS, bank)[-1]
        return self.head(features.flatten(1)).squeeze(1), features


class LatentDiscriminator(nn.Module):
    """C: latent [B, Z] to one logit [B], larger for more like the prior."""

    def __init__(self, net: LatentNetworkConfig, latent: int, slope: float = 0.2) -> None:
        super().__init__()
        widths = [latent] + [net.width] * net.layers
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(slope)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, z_BZ: Tensor) -> Tensor:
        """Logits [B]."""
        return self.layers(z_BZ).squeeze(1)
