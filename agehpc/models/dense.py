"""Fully connected encoder, generator and discriminator.

Weights start as Keras' do, from which the published dense networks are: Glorot uniform (Glorot,
Bengio 2010), biases zero. Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, F
features. Samples lie in [-1, 1] outside; with `unit` the layers see [0, 1].
"""

import itertools
import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.config.networks import DenseConfig, Norm
from agehpc.models.blocks import (
    Output,
    keeps_bias,
    network_norm,
    normalise_spectrally,
    squashed,
)
from agehpc.models.geometry import Geometry
from agehpc.models.heads import Joint, Projection


class Dense(nn.Module):
    """All layers of a network: [B, inputs] to [B, outputs], before the output's activation.

    `output_norm` stands beside them for whoever applies that activation: None where the settings
    leave it out.
    """

    def __init__(
        self, net: DenseConfig, inputs: int, outputs: int, *, classes: int | None = None
    ) -> None:
        super().__init__()
        widths = [inputs, *net.hidden, outputs]
        layers = range(len(widths) - 1)
        norms: list[Norm] = [net.norm if i in net.normed_layers else "none" for i in layers]
        self.linears = nn.ModuleList(
            linear(a, b, bias=keeps_bias(net, norm=norm))
            for (a, b), norm in zip(itertools.pairwise(widths), norms, strict=True)
        )
        self.norms = nn.ModuleList(
            network_norm(net, width, norm=norm, classes=None if norm == "none" else classes)
            for width, norm in zip(net.hidden, norms, strict=False)
        )
        self.dropout = nn.Dropout(net.dropout)
        last = norms[-1]
        self.output_norm = None
        if last != "none":
            self.output_norm = network_norm(net, outputs, norm=last, classes=classes, slope=1.0)
        self.output_norm_first = net.order == "norm_first"

    def hidden(self, x_BF: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """Activations of the last hidden layer."""
        for layer, norm in zip(self.linears, self.norms, strict=False):
            x_BF = self.dropout(norm(layer(x_BF), bank, labels_B))
        return x_BF

    def logits(self, x_BF: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """What the output activation is applied to."""
        y_BF = self.linears[-1](self.hidden(x_BF, bank, labels_B))
        if self.output_norm is not None and self.output_norm_first:
            return self.output_norm(y_BF, bank, labels_B)
        return y_BF

    def finished(self, y_BF: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """What follows the output activation: the norm, where it is there and comes last."""
        if self.output_norm is not None and not self.output_norm_first:
            return self.output_norm(y_BF, bank, labels_B)
        return y_BF


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Fully connected layer that starts as Keras' does."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def flattened(x_BCS: Tensor, *, unit: bool) -> Tensor:
    """Pixels [B, C * S], in [0, 1] with `unit`."""
    x_BF = x_BCS.flatten(1)
    return (x_BF + 1.0) / 2.0 if unit else x_BF


class DenseEncoder(nn.Module):
    """E: sample [B, C, S] to latent [B, outputs], unbounded, or at least 0 with `relu`."""

    def __init__(
        self,
        net: DenseConfig,
        geo: Geometry,
        outputs: int,
        activation: Literal["linear", "relu"] = "linear",
        *,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.activation, self.unit = activation, unit
        self.layers = Dense(net, geo.channels * math.prod(geo.shapes[0]), outputs)
        if net.spectral:
            normalise_spectrally(self)

    def forward(self, x_BCS: Tensor, bank: int) -> Tensor:
        """Encode."""
        z_BZ = self.layers.logits(flattened(x_BCS, unit=self.unit), bank)
        if self.activation == "relu":
            z_BZ = F.relu(z_BZ)
        return self.layers.finished(z_BZ, bank)


class DenseGenerator(nn.Module):
    """G: latent [B, Z] to sample [B, C, S] in [-1, 1]; unbounded where a norm comes last."""

    def __init__(
        self,
        net: DenseConfig,
        geo: Geometry,
        latent: int,
        *,
        output: Output = "tanh",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.output: Output = output
        self.shape = (geo.channels, *geo.shapes[0])
        self.layers = Dense(net, latent, math.prod(self.shape), classes=classes)
        if net.spectral:
            normalise_spectrally(self)

    def forward(self, z_BZ: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """Generate."""
        x_BF = squashed(self.layers.logits(z_BZ, bank, labels_B), self.output)
        return self.layers.finished(x_BF, bank, labels_B).unflatten(1, self.shape)

    def logits(self, z_BZ: Tensor, bank: int, labels_B: Tensor | None = None) -> Tensor:
        """What the output activation is applied to: [B, C, S], unbounded."""
        return self.layers.logits(z_BZ, bank, labels_B).unflatten(1, self.shape)


class DenseDiscriminator(nn.Module):
    """D: sample [B, C, S] to one logit [B], and the features of its last hidden layer.

    Args:
        net: its settings.
        geo: shape of what it sees.
        joint: size of a latent that it judges together with the sample.
        classes: number of classes it is conditioned on.
        unit: the layers see pixels in [0, 1].
    """

    def __init__(
        self,
        net: DenseConfig,
        geo: Geometry,
        *,
        joint: int | None = None,
        classes: int | None = None,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.unit = unit
        inputs = geo.channels * math.prod(geo.shapes[0])
        self.layers = Dense(net, inputs, 1)
        features = [inputs, *net.hidden][-1]
        self.joint = None if joint is None else Joint(features, joint, features, net.slope)
        self.projection = None if classes is None else Projection(classes, features)
        if net.spectral:
            normalise_spectrally(self)

    def forward(
        self,
        x_BCS: Tensor,
        bank: int,
        labels_B: Tensor | None = None,
        z_BZ: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [B], larger for more real, and features [B, F]."""
        features_BF = self.layers.hidden(flattened(x_BCS, unit=self.unit), bank)
        judged_BF = features_BF if self.joint is None else self.joint(features_BF, z_BZ)
        logits_B = self.layers.linears[-1](judged_BF).squeeze(1)
        if self.projection is not None:
            logits_B = logits_B + self.projection(features_BF, labels_B)
        return logits_B, features_BF
