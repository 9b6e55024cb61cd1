"""The published autoencoder and GANs, layer by layer, against plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agehpc.config.schema import (
    Config,
    DenseConfig,
    NetworkConfig,
)
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import (
    build_discriminator,
    build_encoder,
    build_generator,
)
from tests.models.compare import compare, count, from_latent, judge
from tests.models.configs import config


class OnPixel(nn.Module):
    """Gives a latent to a network as one pixel with Z channels."""

    def __init__(self, network: nn.Module, ndim: int) -> None:
        super().__init__()
        self.network, self.ndim = network, ndim

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z.view(*z.shape, *(1,) * self.ndim))


def dense_gan(normed: tuple[int, ...] = (0, 2)) -> Config:
    return config(
        28,
        channels=1,
        latent=100,
        generator=DenseConfig(
            hidden=(128, 256),
            norm="batch",
            normed=normed,
            order="activation_first",
            momentum=0.2,
        ),
        discriminator=DenseConfig(hidden=(512, 256)),
    )


def test_dense_gan():
    conf = dense_gan()
    generator = nn.Sequential(
        nn.Linear(100, 128),
        nn.LeakyReLU(0.2),
        nn.BatchNorm1d(128, momentum=0.2),
        nn.Linear(128, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 784),
        nn.Tanh(),
        nn.BatchNorm1d(784, momentum=0.2),
    )
    ours = build_generator(conf)
    # Dense layers with biases, scale and shift of both norms.
    assert count(ours) == 101 * 128 + 2 * 128 + 129 * 256 + 257 * 784 + 2 * 784
    compare(ours, generator, from_latent, torch.randn(6, 100), PRIOR)
    critic = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.LeakyReLU(0.2),
        nn.Linear(512, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
    )
    ours = build_discriminator(conf)
    assert count(ours) == 533_505
    compare(ours, critic, judge, torch.randn(6, 1, 28, 28), DATA)


def test_dense_gan_with_the_norm_after_both_hidden_activations():
    generator = nn.Sequential(
        nn.Linear(100, 128),
        nn.LeakyReLU(0.2),
        nn.BatchNorm1d(128, momentum=0.2),
        nn.Linear(128, 256),
        nn.LeakyReLU(0.2),
        nn.BatchNorm1d(256, momentum=0.2),
        nn.Linear(256, 784),
        nn.Tanh(),
    )
    ours = build_generator(dense_gan(normed=(0, 1)))
    compare(ours, generator, from_latent, torch.randn(6, 100), PRIOR)


def test_dense_autoencoder():
    conf = config(
        28,
        channels=1,
        latent=64,
        encoder=DenseConfig(hidden=()),
        generator=DenseConfig(hidden=()),
        output="sigmoid",
        latent_activation="relu",
    )
    encoder, generator = build_encoder(conf, 64), build_generator(conf)
    assert count(encoder) + count(generator) == 784 * 64 + 64 + 64 * 784 + 784
    published = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 784), nn.Sigmoid())
    both = nn.ModuleList([encoder, generator])

    def run(nets: Any, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as the published network has them."""
        y = nets[1](nets[0]((pixels * 2 - 1).view(-1, 1, 28, 28), DATA), DATA)
        return (y.flatten(1) + 1) / 2

    compare(both, published, run, torch.rand(5, 784), DATA)


def test_convolutional_gan_of_28_pixels():
    """TensorFlow's tutorial, whose transposed convolutions torch pads evenly."""
    conf = config(
        28,
        channels=1,
        latent=100,
        generator=NetworkConfig(width=64, base_width=256, kernel=5, slope=0.3),
        discriminator=NetworkConfig(
            width=64, max_width=128, kernel=5, norm="none", slope=0.3, dropout=0.3
        ),
    )
    generator = nn.Sequential(
        nn.Linear(100, 7 * 7 * 256, bias=False),
        nn.Unflatten(1, (256, 7, 7)),
        nn.BatchNorm2d(256),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(256, 128, 5, 1, 2, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(128, 64, 5, 2, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(64, 1, 5, 2, 2, 1),
        nn.Tanh(),
    )
    compare(build_generator(conf), generator, from_latent, torch.randn(2, 100), PRIOR)
    critic = nn.Sequential(
        nn.Conv2d(1, 64, 5, 2, 2),
        nn.LeakyReLU(0.3),
        nn.Dropout(0.3),
        nn.Conv2d(64, 128, 5, 2, 2),
        nn.LeakyReLU(0.3),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(7 * 7 * 128, 1),
    )
    ours = build_discriminator(conf)
    assert count(ours) == 212_865
    compare(ours, critic, judge, torch.randn(2, 1, 28, 28), DATA)


def dcgan(ndim: int, nz: int, width: int) -> tuple[nn.Module, nn.Module]:
    """Radford et al. 2016 at 64 x 64, and its twin for 16 frames, with the biases we keep."""
    conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    transposed: Any = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[ndim]
    norm: Any = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim]
    base = (4, 4) if ndim == 2 else (1, 4, 4)
    w = width
    generator = nn.Sequential(
        *(transposed(nz, 8 * w, base, 1, 0, bias=False), norm(8 * w), nn.ReLU()),
        *(transposed(8 * w, 4 * w, 4, 2, 1, bias=False), norm(4 * w), nn.ReLU()),
        *(transposed(4 * w, 2 * w, 4, 2, 1, bias=False), norm(2 * w), nn.ReLU()),
        *(transposed(2 * w, w, 4, 2, 1, bias=False), norm(w), nn.ReLU()),
        *(transposed(w, 3, 4, 2, 1), nn.Tanh()),
    )
    critic = nn.Sequential(
        *(conv(3, w, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(conv(w, 2 * w, 4, 2, 1, bias=False), norm(2 * w), nn.LeakyReLU(0.2)),
        *(conv(2 * w, 4 * w, 4, 2, 1, bias=False), norm(4 * w), nn.LeakyReLU(0.2)),
        *(conv(4 * w, 8 * w, 4, 2, 1, bias=False), norm(8 * w), nn.LeakyReLU(0.2)),
        conv(8 * w, 1, base, 1, 0),
    )
    return OnPixel(generator, ndim), critic


@pytest.mark.parametrize("frames", [None, 16])
def test_dcgan(frames: int | None):
    conf = config(
        64,
        frames,
        latent=10,
        generator=NetworkConfig(width=4, slope=0.0),
        discriminator=NetworkConfig(width=4),
        base_frames=1,
    )
    generator, critic = dcgan(2 if frames is None else 3, 10, 4)
    space = (64, 64) if frames is None else (frames, 64, 64)
    compare(build_generator(conf), generator, from_latent, torch.randn(2, 10), PRIOR)
    compare(build_discriminator(conf), critic, judge, torch.randn(2, 3, *space), DATA)


def test_dcgan_has_the_published_number_of_parameters():
    """Without biases; ours stay where no norm takes them away: last of G, first and last of D."""
    conf = config(
        64,
        latent=100,
        generator=NetworkConfig(width=64, slope=0.0),
        discriminator=NetworkConfig(width=64),
    )
    with torch.device("meta"):
        assert count(build_generator(conf)) == 3_576_704 + 3
        assert count(build_discriminator(conf)) == 2_765_568 + 64 + 1
