"""Networks that know the sample's class, against a loop over samples."""

from typing import Any

import pytest
import torch
from torch import nn

from agehpc.config.schema import DenseConfig, ModelConfig, NetworkConfig, PatchConfig
from agehpc.errors import ConfigError
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import build_discriminator, build_encoder, build_generator
from tests.models.configs import config

CLASSES = ("a", "b", "c")
CONV = NetworkConfig(width=4, max_width=8)
DENSE = DenseConfig(hidden=(9, 7), norm="batch")
LABELS = torch.tensor([2, 0, 1, 0, 2])


def randomised(network: nn.Module) -> Any:
    for p in network.parameters():
        p.data = torch.randn_like(p) * 0.3
    return network.double()


@pytest.mark.parametrize("net", [CONV, DENSE])
def test_a_generator_scales_and_shifts_by_class(net: Any):
    """Evaluation mode makes samples independent: a plain generator for each class."""
    torch.manual_seed(0)
    models = [
        config(16, latent=5, generator=net, classes=CLASSES, conditional=c) for c in (True, False)
    ]
    network, plain = (randomised(build_generator(model)).eval() for model in models)
    z_BZ = torch.randn(5, 5, dtype=torch.float64)
    x_BCS = network(z_BZ, PRIOR, LABELS)
    state, shapes = network.state_dict(), {k: v.shape for k, v in plain.state_dict().items()}
    tables = [key for key in state if state[key].shape != shapes[key]]
    assert len(tables) == 4  # scales and shifts of two norms
    for n, label in enumerate(LABELS):
        own = {key: value[label] if key in tables else value for key, value in state.items()}
        plain.load_state_dict(own)
        torch.testing.assert_close(x_BCS[n : n + 1], plain(z_BZ[n : n + 1], PRIOR))
    assert not torch.allclose(x_BCS, network(z_BZ, PRIOR, LABELS.flip(0) * 0))


def test_classes_start_alike():
    """Scales 1 and shifts 0, whatever the class."""
    torch.manual_seed(0)
    network = build_generator(
        config(16, latent=5, generator=CONV, classes=CLASSES, conditional=True)
    )
    z_BZ = torch.randn(5, 5)
    assert torch.equal(network(z_BZ, PRIOR, LABELS), network(z_BZ, PRIOR, LABELS * 0))


@pytest.mark.parametrize(
    ("net", "pool"),
    [(CONV, torch.sum), (DENSE, None), (PatchConfig(width=4, layers=2), torch.mean)],
)
def test_a_discriminator_projects_the_features_on_the_class(net: Any, pool: Any):
    torch.manual_seed(0)
    build = [
        build_discriminator(config(32, discriminator=net, classes=CLASSES, conditional=c))
        for c in (True, False)
    ]
    network, plain = (randomised(n) for n in build)
    table = network.projection.embedding.weight
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if "projection" not in k})
    x_BCS = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    logits, features = network(x_BCS, DATA, LABELS)
    without = plain(x_BCS, DATA)[0]
    assert logits.shape == without.shape
    for n, label in enumerate(LABELS):
        pooled = features[n] if pool is None else pool(features[n], (1, 2))
        wanted = without[n] + sum(a * b for a, b in zip(table[label], pooled, strict=True))
        torch.testing.assert_close(logits[n], wanted)


def test_every_parameter_of_a_conditional_pair_learns():
    torch.manual_seed(0)
    conf = config(
        16,
        latent=5,
        generator=CONV,
        discriminator=CONV.model_copy(update={"spectral": True}),
        encoder=CONV,
        classes=CLASSES,
        conditional=True,
    )
    generator, critic = build_generator(conf), build_discriminator(conf, joint=True)
    z_BZ = torch.randn(5, 5)
    critic(generator(z_BZ, PRIOR, LABELS), PRIOR, LABELS, z_BZ)[0].sum().backward()
    for network in (generator, critic):
        for name, p in network.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name
    assert hasattr(critic.projection.embedding, "parametrizations")  # type: ignore[union-attr]
    assert build_encoder(conf, 5)(torch.randn(2, 3, 16, 16), DATA).shape == (2, 5)


def test_what_cannot_be_conditioned_is_refused():
    none = CONV.model_copy(update={"norm": "none"})
    for net in (none, DenseConfig(), DenseConfig(hidden=(), norm="batch")):
        with pytest.raises(ValueError, match=r"come in through its norms.*generator.norm batch"):
            ModelConfig(generator=net, conditional=True)
        ModelConfig(generator=net, discriminator=none)
    ModelConfig(discriminator=none, conditional=True)
    with pytest.raises(ConfigError, match=r"--model.conditional needs samples with classes"):
        build_generator(config(16, generator=CONV, conditional=True))
    network = build_generator(config(16, latent=5, generator=CONV, classes=("a",)))
    network(torch.randn(2, 5), PRIOR, LABELS[:2])  # labels are there for who wants them
    conf = config(16, latent=5, generator=CONV, classes=("a",), conditional=True)
    with pytest.raises(AssertionError, match="needs the samples' classes"):
        build_generator(conf)(torch.randn(2, 5), PRIOR)
