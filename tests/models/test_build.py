"""Factories: shapes of every kind, and that each setting changes the network that it should."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agehpc.config.schema import (
    Config,
    DenseConfig,
    LatentNetworkConfig,
    NetworkConfig,
    PatchConfig,
    ResnetConfig,
    UnetConfig,
)
from agehpc.errors import ConfigError
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import (
    build_discriminator,
    build_encoder,
    build_generator,
    build_latent_discriminator,
    build_translator,
)
from agehpc.models.dense import DenseDiscriminator
from tests.models.configs import config

Z = 6
SAMPLES = [(28, None), (32, None), (64, None), (128, None), (32, 8), (64, 16), (32, 32), (28, 8)]
CONV = NetworkConfig(width=4, max_width=8)
BASED = NetworkConfig(width=4, max_width=8, base_width=12, kernel=5)
DENSE = DenseConfig(hidden=(9, 7), norm="batch")
UNET, RESNET = UnetConfig(width=4, max_width=8), ResnetConfig(width=4, blocks=1)
PATCH = PatchConfig(width=4, layers=2)
LATENT = LatentNetworkConfig(width=8)


def shape(size: int, frames: int | None) -> tuple[int, ...]:
    return (size, size) if frames is None else (frames, size, size)


@pytest.mark.parametrize("net", [CONV, BASED, DENSE, DenseConfig(hidden=())])
@pytest.mark.parametrize(("size", "frames"), SAMPLES)
def test_shapes(size: int, frames: int | None, net: Any):
    conf = config(size, frames, latent=Z, encoder=net, generator=net, discriminator=net)
    space = shape(size, frames)
    with torch.device("meta"):
        x_BCS, z_BZ = torch.empty(2, 3, *space), torch.empty(2, Z)
        assert build_encoder(conf, 2 * Z)(x_BCS, DATA).shape == (2, 2 * Z)
        generator = build_generator(conf)
        assert generator(z_BZ, PRIOR).shape == x_BCS.shape
        assert generator.logits(z_BZ, PRIOR).shape == x_BCS.shape
        pair = torch.cat([x_BCS, x_BCS[:, :1]], 1)
        assert build_discriminator(conf, inputs=4)(pair, DATA)[0].shape == (2,)
        joint = build_discriminator(conf, joint=True)
        assert joint(x_BCS, DATA, z_BZ=z_BZ)[0].shape == (2,)


@pytest.mark.parametrize("upsample", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("frames", [None, 8])
def test_every_kernel_and_upsampling_fits(frames: int | None, kernel: int, upsample: str):
    net = BASED.model_copy(update={"kernel": kernel})
    conf = config(
        32,
        frames,
        latent=Z,
        encoder=net,
        generator=net,
        base_frames=1,
        upsample=upsample,
    )
    with torch.device("meta"):
        x_BCS = build_generator(conf)(torch.empty(2, Z), PRIOR)
        assert x_BCS.shape == (2, 3, *shape(32, frames))
        assert build_encoder(conf, Z)(x_BCS, DATA).shape == (2, Z)


@pytest.mark.parametrize(("size", "frames"), SAMPLES)
def test_shapes_of_translators_and_patches(size: int, frames: int | None):
    conf = config(size, frames, translator=UNET, discriminator=PATCH)
    x_BCS = torch.empty(2, 1, *shape(size, frames), device="meta")
    with torch.device("meta"):
        y_BCS = build_translator(conf, 1, 3)(x_BCS, DATA)
        assert y_BCS.shape == (2, 3, *shape(size, frames))
        logits, features = build_discriminator(conf)(y_BCS, DATA)
        assert features.shape[-1] == size // 4 - 1
        assert logits.shape[-2:] == (size // 4 - 2,) * 2
        if frames is None:
            assert logits.dim() == 3
            conf = config(size, translator=RESNET)
            assert build_translator(conf, 1, 3)(x_BCS, DATA).shape == (2, 3, size, size)
        else:
            assert logits.shape[:2] == (2, frames // 4)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ConfigError, match=r"kind resnet is for images, and --data.kind is video"):
        build_translator(config(32, 8, translator=RESNET), 3, 3)
    with pytest.raises(ConfigError, match=r"--data.size 30 .* use 28 or 32"):
        build_translator(config(30, translator=RESNET), 3, 3)
    with pytest.raises(ConfigError, match="layers 4 leaves less than 3 of 32 pixels; use 3 or"):
        build_discriminator(config(32, discriminator=PatchConfig(layers=4)))
    build_discriminator(config(32, discriminator=PatchConfig(layers=3)))


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_sigmoid_is_stretched_and_dense_networks_see_it_unstretched(kind: str):
    torch.manual_seed(0)
    net = CONV if kind == "conv" else DenseConfig(hidden=())
    conf = config(32, latent=Z, generator=net, encoder=net, discriminator=net, output="sigmoid")
    generator, z_BZ = build_generator(conf), torch.randn(4, Z) * 3
    torch.manual_seed(1)
    x_BCS = generator(z_BZ, PRIOR)
    assert torch.allclose((x_BCS + 1) / 2, torch.sigmoid(generator.logits(z_BZ, PRIOR)))
    assert x_BCS.min() < 0
    plain = conf.model_copy(update={"model": conf.model.model_copy(update={"output": "tanh"})})
    for build in (lambda c: build_encoder(c, Z), build_discriminator):
        networks = [build(conf), build(plain)]
        networks[1].load_state_dict(networks[0].state_dict())
        networks = [network.eval() for network in networks]
        seen = x_BCS if kind == "conv" else (x_BCS + 1) / 2
        found, wanted = networks[0](x_BCS, DATA), networks[1](seen, DATA)
        if isinstance(found, tuple):
            found, wanted = found[0], wanted[0]
        torch.testing.assert_close(found, wanted)


def fingerprint(conf: Config, build: Any) -> list[Any]:
    """What a network is: its layers, its weights from a seed, and what it makes of an input."""
    torch.manual_seed(0)
    network = build(conf).train()
    seen: list[Any] = [str(network)]
    torch.manual_seed(1)
    frames = conf.data.frames if conf.data.kind == "video" else None
    x_BCS = torch.randn(4, 3, *shape(conf.data.size, frames))
    z_BZ = torch.randn(4, conf.model.latent)
    if build is build_generator:
        out = network(z_BZ, PRIOR)
    elif build is build_latent_discriminator:
        out = network(z_BZ)
    else:
        out = network(x_BCS, DATA)
    seen.append([t.detach().flatten() for t in (out if isinstance(out, tuple) else (out,))])
    seen.append({name: t.clone() for name, t in network.state_dict().items()})
    return seen


def differ(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.shape != b.shape or not torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differ(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) != len(b) or any(differ(x, y) for x, y in zip(a, b, strict=True))
    return a != b


CONV_CHANGES = [
    {"width": 5},
    {"max_width": 7},
    {"base_width": 6},
    {"kernel": 3},
    {"kernel": 5},
    {"norm": "instance"},
    {"norm": "group"},
    {"norm": "none"},
    {"order": "activation_first"},
    {"slope": 0.1},
    {"momentum": 0.3},
    {"dropout": 0.5},
    {"spectral": True},
]
DENSE_CHANGES = [
    {"hidden": (9,)},
    {"norm": "group"},
    {"normed": (1,)},
    {"order": "activation_first"},
    {"slope": 0.1},
    {"momentum": 0.3},
    {"dropout": 0.5},
    {"spectral": True},
]
BUILDERS: dict[str, Any] = {
    "encoder": lambda c: build_encoder(c, Z),
    "generator": build_generator,
    "discriminator": build_discriminator,
    "translator": lambda c: build_translator(c, 3, 3),
    "latent_discriminator": build_latent_discriminator,
}
PARTS: list[tuple[str, Any, dict[str, Any]]] = [
    *((part, CONV, change) for part in list(BUILDERS)[:3] for change in CONV_CHANGES),
    *((part, DENSE, change) for part in list(BUILDERS)[:3] for change in DENSE_CHANGES),
    *(
        ("translator", UNET, change)
        for change in (
            {"width": 5},
            {"max_width": 9},
            {"norm": "group"},
            {"slope": 0.1},
            {"dropout": 0.0},
        )
    ),
    *(("translator", RESNET, change) for change in ({"width": 5}, {"blocks": 2}, {"norm": "none"})),
    *(
        ("discriminator", PATCH, change)
        for change in ({"width": 5}, {"layers": 1}, {"norm": "none"}, {"slope": 0.1})
    ),
    ("discriminator", PATCH, {"spectral": True}),
    *(
        ("latent_discriminator", LATENT, change)
        for change in ({"width": 9}, {"layers": 1}, {"spectral": True})
    ),
]


@pytest.mark.parametrize(
    ("part", "net", "change"), PARTS, ids=[f"{p}-{type(n).__name__}-{c}" for p, n, c in PARTS]
)
def test_every_setting_changes_its_network(part: str, net: Any, change: dict[str, Any]):
    # The generator's kernel is 4 unless it is 5: 3 is the other networks' alone.
    same = part == "generator" and change == {"kernel": 3}
    made = [
        fingerprint(config(32, latent=Z, **{part: n}), BUILDERS[part])
        for n in (net, net, type(net).model_validate({**net.model_dump(), **change}))
    ]
    assert not differ(made[0], made[1]), "a seed decides all of a network"
    assert differ(made[0], made[2]) != same


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("encoder", {"latent_activation": "relu"}),
        ("encoder", {"base_frames": 4}),
        ("generator", {"base_frames": 4}),
        ("generator", {"output": "sigmoid"}),
        ("generator", {"upsample": "resize"}),
        ("generator", {"latent": 5}),
        ("translator", {"output": "sigmoid"}),
    ],
)
def test_every_setting_of_the_model_changes_its_network(part: str, change: dict[str, Any]):
    net = UNET if part == "translator" else CONV
    made = [
        fingerprint(config(32, 16, **{part: net, "latent": Z, **extra}), BUILDERS[part])
        for extra in ({}, change)
    ]
    assert differ(*made)


@pytest.mark.parametrize("net", [CONV, DENSE])
def test_a_joint_discriminator_judges_pairs(net: Any):
    torch.manual_seed(0)
    network = build_discriminator(config(32, latent=Z, discriminator=net), joint=True).double()
    x_BCS = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    z_BZ = torch.randn(4, Z, dtype=torch.float64, requires_grad=True)
    logits = network(x_BCS, DATA, z_BZ=z_BZ)[0]
    (g_BZ,) = torch.autograd.grad(logits.sum(), z_BZ, create_graph=True)
    assert (g_BZ.abs() > 0).all()
    assert not torch.allclose(logits, network(x_BCS, DATA, z_BZ=z_BZ.flip(0))[0])
    # By hand: the latent's own layers, then both through one more.
    joint, slope = network.joint, net.slope
    assert joint is not None
    act = nn.LeakyReLU(slope)
    h = act(joint.second(act(joint.first(z_BZ))))
    features = network(x_BCS, DATA, z_BZ=z_BZ)[1].flatten(1)
    h = act(joint.both(torch.cat([features, h], 1)))
    head = network.layers.linears[-1] if isinstance(network, DenseDiscriminator) else network.head
    torch.testing.assert_close(head(h).squeeze(1), logits)
    with pytest.raises(AssertionError, match="needs the samples' latents"):
        network(x_BCS, DATA)


@pytest.mark.parametrize("net", [CONV, DENSE])
@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
def test_no_bias_directly_before_a_norm(net: Any, order: str):
    net = net.model_copy(update={"order": order})
    conf = config(32, latent=Z, encoder=net, generator=net, discriminator=net)
    for build in (BUILDERS["encoder"], build_generator, build_discriminator):
        network = build(conf)
        layers = [
            m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)
        ]
        without = [layer.bias is None for layer in layers]
        assert any(without) == (order == "norm_first")
        assert not without[-1], "what makes the output keeps its bias"


def test_dense_layers_start_as_keras_does():
    torch.manual_seed(0)
    conf = config(32, latent=100, generator=DenseConfig(hidden=(300, 200)))
    linears: list[Any] = list(build_generator(conf).layers.linears)  # type: ignore[union-attr]
    for linear, (a, b) in zip(linears, pairwise((100, 300, 200, 3072)), strict=True):
        bound = (6 / (a + b)) ** 0.5
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert abs(linear.weight.std() / bound - 3**-0.5) < 0.01
        assert not linear.bias.any()
