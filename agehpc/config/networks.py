"""Settings of the networks: one section a kind. Imports pydantic alone.

The recipe decides a network's kind; files and flags change what is under it.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agehpc.config.section import Count, Fraction, NonNegative, Section

Norm = Literal["batch", "sync_batch", "group", "instance", "none"]
Order = Literal["norm_first", "activation_first"]
Momentum = Annotated[float, Field(gt=0.0, le=1.0)]


class NetworkConfig(Section):
    """One convolutional network: width at the largest resolution and its norm."""

    kind: Literal["conv"] = "conv"
    """Strided convolutions."""
    width: Count = 32
    """Channels of the stage at the largest resolution; each stage doubles them."""
    max_width: Count = 512
    """Upper bound of a stage's channels."""
    base_width: Count | None = None
    """Channels of one more stage at the smallest resolution; none leaves it out."""
    kernel: Annotated[int, Field(ge=3, le=5)] = 4
    """Size of the convolutions that halve a dimension; those that double one have 4, or 5."""
    norm: Norm = "batch"
    """Statistics of the rank's batch, the global one, channel groups, single channels, or none."""
    order: Order = "norm_first"
    """The norm before LeakyReLU, or after it."""
    slope: NonNegative = 0.2
    """Negative slope of LeakyReLU; 0 is ReLU."""
    momentum: Momentum = 0.1
    """Weight of a new batch in the running statistics (Keras counts the other way: 1 - this)."""
    dropout: Fraction = 0.0
    """Share of activations that are zeroed in training, after each LeakyReLU and its norm."""
    spectral: bool = False
    """Divide every weight by its largest singular value (spectral normalisation)."""


class DenseConfig(Section):
    """One network of fully connected layers."""

    kind: Literal["dense"] = "dense"
    """Fully connected layers."""
    hidden: tuple[Count, ...] = (512, 256)
    """Units of each hidden layer, from the input on; none at all is one linear layer."""
    norm: Literal["batch", "sync_batch", "group", "none"] = "none"
    """Statistics of the rank's batch, of the global batch, of groups of units, or none."""
    normed: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers that have the norm, counted from 0, the output layer last; default every hidden."""
    order: Order = "norm_first"
    """The norm before the activation, or after it."""
    slope: NonNegative = 0.2
    """Negative slope of LeakyReLU; 0 is ReLU."""
    momentum: Momentum = 0.1
    """Weight of a new batch in the running statistics (Keras counts the other way: 1 - this)."""
    dropout: Fraction = 0.0
    """Share of activations that are zeroed in training, after each LeakyReLU and its norm."""
    spectral: bool = False
    """Divide every weight by its largest singular value (spectral normalisation)."""

    @property
    def normed_layers(self) -> frozenset[int]:
        """Indices of the layers that have the norm; empty where the norm is none."""
        if self.norm == "none":
            return frozenset()
        return frozenset(range(len(self.hidden)) if self.normed is None else self.normed)

    @model_validator(mode="after")
    def _normed_layers_exist(self) -> "DenseConfig":
        wrong = [index for index in self.normed or () if index > len(self.hidden)]
        if wrong:
            raise ValueError(
                f"normed names layer {wrong[0]}, but with {len(self.hidden)} hidden layers the "
                f"output layer is {len(self.hidden)}; use 0 to {len(self.hidden)}"
            )
        return self


class UnetConfig(Section):
    """U-Net from image to image or clip to clip (Isola et al. 2017)."""

    kind: Literal["unet"] = "unet"
    """U-Net: down to one pixel and up again, with skip connections."""
    width: Count = 64
    """Channels of the stage at the largest resolution; each stage doubles them."""
    max_width: Count = 512
    """Upper bound of a stage's channels."""
    norm: Norm = "batch"
    """Statistics of the rank's batch, the global one, channel groups, single channels, or none."""
    slope: NonNegative = 0.2
    """Negative slope of the encoder's LeakyReLU; the decoder has ReLU."""
    dropout: Fraction = 0.5
    """Share of activations that are zeroed in training in the three innermost decoder stages."""


class ResnetConfig(Section):
    """Residual network from image to image (Johnson et al. 2016, as Zhu et al. 2017 have it)."""

    kind: Literal["resnet"] = "resnet"
    """Two halvings, residual blocks, two doublings."""
    width: Count = 64
    """Channels at the full resolution; each halving doubles them."""
    blocks: Count = 6
    """Residual blocks; the paper has 6 up to 128 x 128 and 9 above."""
    norm: Norm = "instance"
    """Statistics of the rank's batch, the global one, channel groups, single channels, or none."""


class PatchConfig(Section):
    """Discriminator that judges patches, a logit for each (PatchGAN, Isola et al. 2017)."""

    kind: Literal["patch"] = "patch"
    """Convolutions without a fully connected end."""
    width: Count = 64
    """Channels of the first layer; each layer doubles them, up to eight times."""
    layers: Count = 3
    """Halvings of the resolution; 3 judges patches of 70 x 70 pixels."""
    norm: Norm = "batch"
    """Statistics of the rank's batch, the global one, channel groups, single channels, or none."""
    slope: NonNegative = 0.2
    """Negative slope of LeakyReLU."""
    spectral: bool = False
    """Divide every weight by its largest singular value (spectral normalisation)."""


class LatentNetworkConfig(Section):
    """The latent discriminator: a multilayer perceptron."""

    width: Count = 256
    """Units of a hidden layer."""
    layers: Count = 2
    """Hidden layers."""
    spectral: bool = False
    """Divide every weight by its largest singular value (spectral normalisation)."""


EncoderConfig = Annotated[NetworkConfig | DenseConfig, Field(discriminator="kind")]
GeneratorConfig = Annotated[NetworkConfig | DenseConfig, Field(discriminator="kind")]
DiscriminatorConfig = Annotated[
    NetworkConfig | DenseConfig | PatchConfig, Field(discriminator="kind")
]
TranslatorConfig = Annotated[UnetConfig | ResnetConfig, Field(discriminator="kind")]
