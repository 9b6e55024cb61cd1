"""Networks from a configuration, by the kind of their settings.

Every network initialises itself from torch's global generator. Shapes: B batch, C channels, S
(H, W) or (T, H, W), Z latent size, M the map of logits of a patch discriminator. Samples lie in
[-1, 1]; `bank`, blocks.DATA or blocks.PRIOR, is the stream that a norm counts in; labels are int64.
"""

from dataclasses import replace

from agehpc.config.networks import DenseConfig, NetworkConfig, PatchConfig, ResnetConfig
from agehpc.config.schema import Config
from agehpc.errors import ConfigError
from agehpc.models.dense import DenseDiscriminator, DenseEncoder, DenseGenerator
from agehpc.models.geometry import Geometry, full_geometry, geometry
from agehpc.models.networks import Discriminator, Encoder, Generator, LatentDiscriminator
from agehpc.models.patch import PatchDiscriminator
from agehpc.models.translators import Resnet, Unet

AnyEncoder = Encoder | DenseEncoder
AnyGenerator = Generator | DenseGenerator
AnyDiscriminator = Discriminator | DenseDiscriminator | PatchDiscriminator
AnyTranslator = Unet | Resnet


def class_count(config: Config) -> int | None:
    """Number of classes that the networks are conditioned on; None where they are not.

    Raises:
        ConfigError: a conditional model of shards without labels.
    """
    if not config.model.conditional:
        return None
    classes = config.data.classes
    if not classes:
        raise ConfigError(
            f"--model.conditional needs samples with classes, and --data.shards "
            f"{config.data.where} have no labels; pack them with labels, or set it to false"
        )
    return len(classes)


def _geometry(config: Config, net: NetworkConfig | DenseConfig | PatchConfig) -> Geometry:
    """Stages of a network; only convolutional ones have to end in a base of some pixels."""
    if isinstance(net, NetworkConfig):
        return geometry(config)
    assert config.data.channels is not None, "channels come from the shards' manifest"
    return full_geometry(config, config.data.channels)


def build_encoder(config: Config, outputs: int) -> AnyEncoder:
    """E: `forward(x_BCS, bank)` to [B, outputs].

    A dense one of a model with output `sigmoid` sees pixels in [0, 1].

    Args:
        config: with an encoder, and channels filled in.
        outputs: values for each sample; the latent's size, or twice that for mean and variance.

    Raises:
        ConfigError: a sample that cannot be halved evenly.
    """
    net, last = config.model.encoder, config.model.latent_activation
    assert net is not None
    geo = _geometry(config, net)
    if isinstance(net, DenseConfig):
        return DenseEncoder(net, geo, outputs, last, unit=config.model.output == "sigmoid")
    return Encoder(net, geo, outputs, last)


def build_generator(config: Config) -> AnyGenerator:
    """G: `forward(z_BZ, bank, labels_B=None)` to [B, C, S] in [-1, 1].

    `logits` of the same arguments is what its output activation is applied to. Only a dense one
    with a norm after its output activation leaves [-1, 1].

    Args:
        config: with a generator, and channels filled in.

    Raises:
        ConfigError: a sample that cannot be halved evenly; no classes to be conditioned on.
    """
    model, classes = config.model, class_count(config)
    net = model.generator
    assert net is not None
    geo = _geometry(config, net)
    if isinstance(net, DenseConfig):
        return DenseGenerator(net, geo, model.latent, output=model.output, classes=classes)
    return Generator(net, geo, model.latent, model.upsample, output=model.output, classes=classes)


def build_discriminator(
    config: Config, *, joint: bool = False, inputs: int | None = None
) -> AnyDiscriminator:
    """D: `forward(x_BCS, bank, labels_B=None, z_BZ=None)` to logits and features.

    Logits are larger for more real: [B], or [B, M] from a patch discriminator. Conditional ones
    need labels, joint ones latents.

    Args:
        config: with a discriminator, and channels filled in.
        joint: it judges pairs of sample and latent; not for patches.
        inputs: channels of what it sees; default the samples' own.

    Raises:
        ConfigError: a sample that cannot be halved evenly or often enough; no classes to be
            conditioned on.
    """
    model, classes = config.model, class_count(config)
    net = model.discriminator
    assert net is not None
    geo = _geometry(config, net)
    geo = geo if inputs is None else replace(geo, channels=inputs)
    latent = model.latent if joint else None
    if isinstance(net, PatchConfig):
        assert not joint, "a logit a patch has no place for one latent"
        return PatchDiscriminator(net, geo, classes=classes)
    if isinstance(net, DenseConfig):
        unit = model.output == "sigmoid"
        return DenseDiscriminator(net, geo, joint=latent, classes=classes, unit=unit)
    return Discriminator(net, geo, joint=latent, classes=classes)


def build_latent_discriminator(config: Config) -> LatentDiscriminator:
    """C: `forward(z_BZ)` to logits [B], larger for more like the prior."""
    net = config.model.latent_discriminator
    assert net is not None
    return LatentDiscriminator(net, config.model.latent)


def build_translator(config: Config, inputs: int, outputs: int) -> AnyTranslator:
    """Translator: `forward(x_BCS, bank)` to [B, outputs, S] in [-1, 1].

    `logits` of the same arguments is what its output activation is applied to.

    Args:
        config: with a translator.
        inputs: channels of the input.
        outputs: channels of the output.

    Raises:
        ConfigError: clips, or a size that does not divide by 4, for a residual network.
    """
    net, data = config.model.translator, config.data
    assert net is not None
    if isinstance(net, ResnetConfig):
        if data.kind != "image":
            raise ConfigError(
                f"a translator of kind resnet is for images, and --data.kind is {data.kind}; "
                "take a recipe with a unet"
            )
        if data.size % 4:
            raise ConfigError(
                f"--data.size {data.size} cannot be halved twice by a translator of kind resnet; "
                f"use {data.size // 4 * 4} or {-(-data.size // 4) * 4}"
            )
        return Resnet(net, inputs, outputs, config.model.output)
    return Unet(net, full_geometry(config, inputs), outputs, config.model.output)
