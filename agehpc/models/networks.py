"""Convolutional encoder, generator and discriminator, for images and clips from one code.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, F flattened base features.
Samples lie in [-1, 1]. `bank`, blocks.DATA or blocks.PRIOR, is the stream that a norm counts in.
"""

import itertools
import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.config.networks import LatentNetworkConfig, NetworkConfig
from agehpc.models.blocks import (
    Down,
    Output,
    Upsample,
    initialise,
    keeps_bias,
    network_norm,
    normalise_spectrally,
    squashed,
    stage_widths,
)
from agehpc.models.geometry import Geometry
from agehpc.models.heads import Joint, Projection


class Trunk(nn.Module):
    """Strided stages from a sample to its base features: the body of encoder and discriminator."""

    def __init__(self, net: NetworkConfig, geo: Geometry) -> None:
        super().__init__()
        widths = stage_widths(net.width, net.max_width, geo)
        inputs = [geo.channels, *widths]
        self.stages = nn.ModuleList(
            Down(inputs[i], widths[i], geo.strides(i), net, first=i == 0) for i in range(geo.stages)
        )
        self.channels = widths[-1]
        if net.base_width is not None:
            ones = (1,) * geo.ndim
            self.stages.append(Down(self.channels, net.base_width, ones, net, first=False))
            self.channels = net.base_width
        self.features = self.channels * math.prod(geo.base)

    def forward(self, x_BCS: Tensor, bank: int) -> list[Tensor]:
        """The activations after each stage, the last of shape [B, C', base]."""
        activations = []
        for stage in self.stages:
            x_BCS = stage(x_BCS, bank)
            activations.append(x_BCS)
        return activations


class Encoder(nn.Module):
    """E: sample [B, C, S] to latent [B, outputs], unbounded, or at least 0 with `relu`."""

    def __init__(
        self,
        net: NetworkConfig,
        geo: Geometry,
        outputs: int,
        activation: Literal["linear", "relu"] = "linear",
    ) -> None:
        super().__init__()
        self.activation = activation
        self.trunk = Trunk(net, geo)
        self.head = nn.Linear(self.trunk.features, outputs)
        initialise(self)
        if net.spectral:
            normalise_spectrally(self)

    def forward(self, x_BCS: Tensor, bank: int) -> Tensor:
        """Encode."""
        z_BZ = self.head(self.trunk(x_BCS, bank)[-1].flatten(1))
        return F.relu(z_BZ) if self.activation == "relu" else z_BZ


class Generator(nn.Module):
    """G: latent [B, Z] to sample [B, C, S] in [-1, 1]; the decoder of the autoencoder.

    A fully connected layer to the base (the published transposed convolution of one pixel), then
    a doubling of resolution a stage (Radford et al. 2016). Classes choose the norms' scales and
    shifts.
    """

    def __init__(
        self,
        net: NetworkConfig,
        geo: Geometry,
        latent: int,
        upsample: Literal["transposed", "resize", "subpixel"],
        *,
        output: Output = "tanh",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.output: Output = output
        widths = stage_widths(net.width, net.max_width, geo)
        factors = [geo.strides(i) for i in range(geo.stages)]
        if net.base_width is not None:
            widths.append(net.base_width)
            factors.append((1,) * geo.ndim)
        outputs = [geo.channels, *widths[:-1]]
        self.base = (widths[-1], *geo.base)
        biased = keeps_bias(net, norm=net.norm)
        self.stem = nn.Linear(latent, math.prod(self.base), bias=biased)
        self.norms = nn.ModuleList(
            network_norm(net, width, norm=net.norm, classes=classes) for width in reversed(widths)
        )
        self.dropout = nn.Dropout(net.dropout)
        self.ups = nn.ModuleList(
            Upsample(
                widths[i],
                outputs[i],
                factors[i],
                upsample,
                bias=biased or i == 0,
                kernel=net.kernel,
            )
            for i in reversed(range(len(widths)))
        )
        initialise(self)
        if net.spectral:
            normalise_spectrally(self)

    def forward(self, z_BZ: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """Generate."""
        return squashed(self.logits(z_BZ, bank, labels_B), self.output)

    def logits(self, z_BZ: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """What the output activation is applied to: [B, C, S], unbounded."""
        x_BCS = self.stem(z_BZ).unflatten(1, self.base)
        for norm, up in zip(self.norms, self.ups, strict=True):
            x_BCS = up(self.dropout(norm(x_BCS, bank, labels_B)))
        return x_BCS


class Discriminator(nn.Module):
    """D: sample [B, C, S] to one logit [B], and the features of its last stage.

    Args:
        net: its settings.
        geo: stages, and the channels of what it sees.
        joint: size of a latent that it judges together with the sample.
        classes: number of classes it is conditioned on.
    """

    def __init__(
        self,
        net: NetworkConfig,
        geo: Geometry,
        *,
        joint: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(net, geo)
        features, channels = self.trunk.features, self.trunk.channels
        self.joint = None if joint is None else Joint(features, joint, channels, net.slope)
        self.head = nn.Linear(features if joint is None else channels, 1)
        self.projection = None if classes is None else Projection(classes, channels)
        initialise(self)
        if net.spectral:
            normalise_spectrally(self)

    def forward(
        self,
        x_BCS: Tensor,
        bank: int,
        labels_B: Tensor | None = None,
        z_BZ: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [B], larger for more real, and features [B, C', base]."""
        features = self.trunk(x_BCS, bank)[-1]
        flat_BF = features.flatten(1)
        if self.joint is not None:
            flat_BF = self.joint(flat_BF, z_BZ)
        logits_B = self.head(flat_BF).squeeze(1)
        if self.projection is not None:
            logits_B = logits_B + self.projection(features.flatten(2).sum(2), labels_B)
        return logits_B, features


class LatentDiscriminator(nn.Module):
    """C: latent [B, Z] to one logit [B], larger for more like the prior."""

    def __init__(self, net: LatentNetworkConfig, latent: int, slope: float = 0.2) -> None:
        super().__init__()
        widths = [latent] + [net.width] * net.layers
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(slope)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        if net.spectral:
            normalise_spectrally(self)

    def forward(self, z_BZ: Tensor) -> Tensor:
        """Logits [B]."""
        return self.layers(z_BZ).squeeze(1)
