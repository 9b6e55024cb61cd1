"""Spectral normalisation: singular values, whose turn moves its vectors, one start for all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from agehpc.config.schema import (
    DenseConfig,
    LatentNetworkConfig,
    NetworkConfig,
    PatchConfig,
)
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import (
    build_discriminator,
    build_encoder,
    build_generator,
    build_latent_discriminator,
)
from agehpc_kernels import calibrating, frozen_statistics
from tests.models.configs import config

CONV = NetworkConfig(width=4, max_width=8, spectral=True)
DENSE = DenseConfig(hidden=(9, 7), spectral=True)
PATCH = PatchConfig(width=4, layers=2, spectral=True)


def critic(net: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_discriminator(config(16, discriminator=net))


def vectors(network: nn.Module) -> dict[str, Tensor]:
    found = {n: b.clone() for n, b in network.named_buffers() if n.endswith(("._u", "._v"))}
    assert found
    return found


@pytest.mark.parametrize("net", [CONV, DENSE, PATCH])
def test_every_weight_is_divided_by_its_largest_singular_value(net: Any):
    network, plain = critic(net), critic(net.model_copy(update={"spectral": False}))
    x_BCS = torch.randn(3, 3, 16, 16)
    for _ in range(60):
        network(x_BCS, DATA)
    network.eval()
    mine, other = dict(network.named_modules()), dict(plain.named_modules())
    layers = [n for n, m in other.items() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert layers
    for name in layers:
        assert is_parametrized(mine[name], "weight")
        weight = other[name].get_parameter("weight").detach()
        matrix = weight.flatten(1).double()
        wanted = weight / torch.linalg.svdvals(matrix)[0].float()
        # The weights are those that the network starts with unnormalised: spectral comes after.
        torch.testing.assert_close(mine[name].weight, wanted, rtol=1e-3, atol=1e-5)


def test_generators_encoders_and_latent_critics_have_it_too():
    conf = config(
        16,
        latent=5,
        encoder=CONV,
        generator=CONV,
        latent_discriminator=LatentNetworkConfig(spectral=True),
    )
    for network in (
        build_encoder(conf, 5),
        build_generator(conf),
        build_latent_discriminator(conf),
    ):
        layers = [
            m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)
        ]
        assert len(layers) > 2
        assert all(is_parametrized(m, "weight") for m in layers)


@pytest.mark.parametrize("net", [CONV, DENSE, PATCH])
def test_vectors_move_in_their_owners_turn_only(net: Any):
    network = critic(net)
    x_BCS = torch.randn(3, 3, 16, 16)
    before = vectors(network)
    with frozen_statistics(network):
        y = network(x_BCS, DATA)[0]
        assert torch.equal(y, network(x_BCS, DATA)[0])
        assert y.requires_grad
    after = vectors(network)
    assert all(torch.equal(after[n], before[n]) for n in before)
    network.eval()
    network(x_BCS, DATA)
    with frozen_statistics(network):
        pass
    network(x_BCS, DATA)  # a frozen block leaves evaluation mode evaluation
    assert all(torch.equal(v, before[n]) for n, v in vectors(network).items())
    network.train()
    network(x_BCS, DATA)
    assert any(not torch.equal(v, before[n]) for n, v in vectors(network).items())


def test_a_seed_decides_the_vectors():
    first, second, other = critic(CONV), critic(CONV), critic(CONV, seed=1)
    for name, v in vectors(first).items():
        assert torch.equal(v, vectors(second)[name])
        assert v.numel() == 1 or not torch.equal(v, vectors(other)[name])


def test_two_forwards_and_a_double_backward():
    """What a critic's turn with R1 does, against weights divided by hand."""
    network = critic(NetworkConfig(width=4, max_width=8, spectral=True, norm="none")).double()
    x_BCS = torch.randn(3, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    real, fake = network(x_BCS, DATA)[0], network(-x_BCS, PRIOR)[0]
    (slope,) = torch.autograd.grad(real.sum(), x_BCS, create_graph=True)
    (fake.mean() - real.mean() + slope.square().sum()).backward()
    for name, p in network.named_parameters():
        if not name.startswith("head.bias"):
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name
    network.zero_grad()
    with frozen_statistics(network):
        state = {
            n.replace("parametrizations.weight.original", "weight"): p.detach().clone()
            for n, p in network.named_parameters()
        }
        for name, module in network.named_modules():
            if is_parametrized(module):
                state[f"{name}.weight"] = module.weight.detach().clone()
        wanted = network(x_BCS, DATA)[0]
    plain = critic(NetworkConfig(width=4, max_width=8, norm="none")).double()
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x_BCS, DATA)[0], wanted)


def test_calibration_depends_on_the_weights_alone():
    """Averaged weights come without vectors: whatever was there before is forgotten."""
    net = CONV.model_copy(update={"dropout": 0.5})
    networks = [critic(net, seed) for seed in (0, 1)]
    weights = {n: p for n, p in networks[0].named_parameters()}
    networks[1].load_state_dict(weights, strict=False)
    x_BCS = torch.randn(6, 3, 16, 16)
    state = torch.random.get_rng_state()
    for network in networks:
        with calibrating(network):
            network(x_BCS, DATA)
        assert network.training
        assert all(m.training for m in network.modules())
    assert torch.equal(torch.random.get_rng_state(), state), "dropout stays off"
    first, second = (network.eval()(x_BCS, DATA)[0] for network in networks)
    assert torch.equal(first, second)
    layer = networks[0].trunk.stages[1].conv
    found = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    assert abs(found - 1) < 1e-3
