"""Encoder, generator and discriminators: shapes, biases, geometry."""

from typing import Any

import pytest
import torch
from torch import nn

from agehpc.config.schema import (
    Config,
    DataConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PlayerConfig,
    RunConfig,
)
from agehpc.errors import ConfigError
from agehpc.models.blocks import DATA, PRIOR, Down, Upsample
from agehpc.models.geometry import geometry
from agehpc.models.networks import Discriminator, Encoder, Generator, LatentDiscriminator
from agehpc.systems.age import Autoencoder, Critics
from agehpc_kernels import NormLeakyReLU

LATENT = 5


def config(size: int = 32, frames: int | None = None, **model: Any) -> Config:
    """Images, or clips where frames are given."""
    kind, channels = "image" if frames is None else "video", model.pop("channels", 3)
    net = NetworkConfig(width=4, max_width=16, norm=model.pop("norm", "batch"))
    return Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(kind=kind, size=size, frames=frames or 1, channels=channels),
        model=ModelConfig(
            latent=LATENT,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(),
            **model,
        ),
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )


SAMPLES = [
    (28, None),
    (32, None),
    (64, None),
    (128, None),
    (28, 8),
    (32, 8),
    (32, 16),
    (64, 16),
    (64, 32),
    (128, 8),
    (64, 1),
]


@pytest.mark.parametrize("upsample", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize(("size", "frames"), SAMPLES)
def test_shapes(size: int, frames: int | None, upsample: str):
    conf = config(size, frames, upsample=upsample)
    net, geo = conf.model.encoder, geometry(conf)
    shape = (size, size) if frames is None else (frames, size, size)
    with torch.device("meta"):
        x_BCS = torch.empty(2, 3, *shape)
        z_BZ = Encoder(net, geo, LATENT)(x_BCS, DATA)
        assert z_BZ.shape == (2, LATENT)
        y_BCS = Generator(net, geo, LATENT, conf.model.upsample)(z_BZ, PRIOR)
        assert y_BCS.shape == x_BCS.shape
        logits, features = Discriminator(net, geo)(x_BCS, DATA)
        assert logits.shape == (2,)
        assert features.shape[2:] == geo.base
        assert LatentDiscriminator(conf.model.latent_discriminator, LATENT)(z_BZ).shape == (2,)


@pytest.mark.parametrize("frames", [None, 8])
@pytest.mark.parametrize("upsample", ["transposed", "resize", "subpixel"])
def test_values(frames: int | None, upsample: str):
    torch.manual_seed(0)
    conf = config(16, frames, upsample=upsample, channels=1)
    shape = (16, 16) if frames is None else (frames, 16, 16)
    autoencoder, critics = Autoencoder(conf), Critics(conf)
    x_BCS, z_BZ = torch.rand(4, 1, *shape) * 2 - 1, torch.randn(4, LATENT)
    out = autoencoder(x_BCS, z_BZ, cycle=True)
    assert {name: v.shape for name, v in out.items()} == {
        "latent": (4, LATENT),
        "cycle": (4, LATENT),
        "logits": x_BCS.shape,
        "reconstruction": x_BCS.shape,
        "generated": x_BCS.shape,
    }
    for name in ("reconstruction", "generated"):
        assert out[name].abs().max() <= 1
    logits = critics(real=x_BCS, generated=out["generated"], prior=z_BZ, latent=out["latent"])
    (sum(v.sum() for v in logits.values()) + out["cycle"].sum()).backward()
    for module in (autoencoder, critics):
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name


def test_geometry():
    assert geometry(config(64)).shapes == ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4))
    assert geometry(config(28)).shapes == ((28, 28), (14, 14), (7, 7))
    clip = geometry(config(64, 16))
    assert clip.shapes == ((16, 64, 64), (8, 32, 32), (4, 16, 16), (2, 8, 8), (2, 4, 4))
    assert [clip.strides(stage) for stage in range(clip.stages)] == [(2, 2, 2)] * 3 + [(1, 2, 2)]
    assert (clip.ndim, clip.base) == (3, (2, 4, 4))
    assert geometry(config(32, 1)).base == (1, 4, 4)


@pytest.mark.parametrize(
    ("size", "frames", "flag"),
    [(30, None, "--data.size 30"), (36, 8, "--data.size 36"), (64, 12, "--data.frames 12")],
)
def test_geometry_refuses_what_cannot_be_halved(size: int, frames: int | None, flag: str):
    with pytest.raises(ConfigError, match=f"{flag} .*is odd.*use "):
        geometry(config(size, frames))


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group", "none"])
@pytest.mark.parametrize("upsample", ["transposed", "resize", "subpixel"])
def test_no_bias_before_a_norm(norm: str, upsample: str):
    conf = config(32, 8, norm=norm, upsample=upsample)
    autoencoder, critics = Autoencoder(conf), Critics(conf)
    normed = norm != "none"
    for trunk in (autoencoder.encoder.trunk, critics.discriminator.trunk):
        first, *rest = trunk.stages
        assert first.norm.norm == "none"  # pixels keep their mean and contrast
        assert first.conv.bias is not None
        for stage in rest:
            assert stage.norm.norm == norm
            assert (stage.conv.bias is None) == normed
    generator = autoencoder.generator
    assert (generator.stem.bias is None) == normed
    *inner, last = generator.ups
    assert all((up.conv.bias is None) == normed for up in inner)
    assert last.conv.bias is not None  # nothing follows that would add one
    assert autoencoder.encoder.head.bias is not None


def test_a_bias_before_a_norm_would_do_nothing():
    """Why there is none: the norm takes it away again."""
    torch.manual_seed(0)
    norm, x = NormLeakyReLU("batch", 3), torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(norm(x + 7.0), norm(x))


def test_streams_have_their_own_statistics():
    torch.manual_seed(0)
    autoencoder = Autoencoder(config(16))
    x_BCS, z_BZ = torch.rand(4, 3, 16, 16), torch.randn(4, LATENT)
    autoencoder(x_BCS, z_BZ)
    encoder = [m for m in autoencoder.encoder.modules() if isinstance(m, NormLeakyReLU)]
    generator = [m for m in autoencoder.generator.modules() if isinstance(m, NormLeakyReLU)]
    for norm in [m for m in encoder if m.norm != "none"]:
        assert norm.batches_tracked.tolist() == [1, 0]
    for norm in generator:
        assert norm.batches_tracked.tolist() == [1, 1]
        assert not torch.equal(norm.running_var[DATA], norm.running_var[PRIOR])


def test_widths_double_up_to_the_bound():
    conf = config(64)
    stages = Encoder(conf.model.encoder, geometry(conf), LATENT).trunk.stages
    assert [s.conv.out_channels for s in stages] == [4, 8, 16, 16]
    assert all(isinstance(s, Down) for s in stages)
    ups = Generator(conf.model.generator, geometry(conf), LATENT, "transposed").ups
    assert [u.outputs for u in ups] == [16, 8, 4, 3]
    assert all(isinstance(u, Upsample) for u in ups)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_the_slope_is_the_configurations(slope: float):
    conf = config(32)
    net = conf.model.encoder.model_copy(update={"slope": slope})
    conf = conf.model_copy(update={"model": conf.model.model_copy(update={"encoder": net})})
    encoder = Autoencoder(conf).encoder
    slopes = {m.slope for m in encoder.modules() if isinstance(m, NormLeakyReLU)}
    assert slopes == {slope}
    assert not [m for m in encoder.modules() if isinstance(m, nn.LeakyReLU)]
