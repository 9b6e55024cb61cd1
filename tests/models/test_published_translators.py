"""The published U-Net, residual network and PatchGAN, layer by layer, against plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agehpc.config.schema import PatchConfig, ResnetConfig, UnetConfig
from agehpc.models.blocks import DATA
from agehpc.models.build import build_discriminator, build_translator
from tests.models.compare import compare, count, judge, translate
from tests.models.configs import config


class PlainUnet(nn.Module):
    """Isola et al. 2017 as a recursion from the outside in."""

    def __init__(self, size: int, width: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stages = size.bit_length() - 1
        widths = [width * min(8, 2**i) for i in range(self.stages)]
        last = self.stages - 1
        self.down, self.down_norm = nn.ModuleList(), nn.ModuleList()
        for i, w in enumerate(widths):
            plain = i in (0, last)
            self.down.append(nn.Conv2d([inputs, *widths][i], w, 4, 2, 1, bias=plain))
            self.down_norm.append(nn.Identity() if plain else nn.BatchNorm2d(w))
        self.up, self.up_norm = nn.ModuleList(), nn.ModuleList()
        for i in reversed(range(self.stages)):
            below = widths[i] * (1 if i == last else 2)
            above = widths[i - 1] if i else outputs
            self.up.append(nn.ConvTranspose2d(below, above, 4, 2, 1, bias=i == 0))
            self.up_norm.append(nn.BatchNorm2d(above) if i else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.stage(x, 0))

    def stage(self, x: Tensor, i: int) -> Tensor:
        """What the stage hands outwards, before its skip is joined to it."""
        h = self.down_norm[i](self.down[i](x if i == 0 else nn.functional.leaky_relu(x, 0.2)))
        if i < self.stages - 1:
            h = torch.cat([h, self.stage(h, i + 1)], 1)
        at = self.stages - 1 - i
        y = self.up_norm[at](self.up[at](torch.relu(h)))
        return nn.functional.dropout(y, 0.5, self.training) if at < 3 and i else y


@pytest.mark.parametrize("size", [16, 64])
def test_unet(size: int):
    ours = build_translator(config(size, translator=UnetConfig(width=4, max_width=32)), 2, 3)
    compare(ours, PlainUnet(size, 4, 2, 3), translate, torch.randn(2, 2, size, size), DATA)


def test_unet_has_the_published_number_of_parameters():
    """54.414 million, and the biases of the first and the innermost convolution."""
    with torch.device("meta"):
        ours = build_translator(config(256, translator=UnetConfig()), 3, 3)
    assert count(ours) == 54_413_955 + 64 + 512


class Block(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(w, w, 3, bias=False),
            nn.InstanceNorm2d(w, affine=True),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(w, w, 3, bias=False),
            nn.InstanceNorm2d(w, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def test_resnet():
    def normed(w: int) -> tuple[nn.Module, nn.Module]:
        return nn.InstanceNorm2d(w, affine=True), nn.ReLU()

    published = nn.Sequential(
        *(nn.ReflectionPad2d(3), nn.Conv2d(2, 4, 7, bias=False), *normed(4)),
        *(nn.Conv2d(4, 8, 3, 2, 1, bias=False), *normed(8)),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), *normed(16)),
        *(Block(16), Block(16)),
        *(nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, bias=False), *normed(8)),
        *(nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, bias=False), *normed(4)),
        *(nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh()),
    )
    ours = build_translator(config(28, translator=ResnetConfig(width=4, blocks=2)), 2, 3)
    compare(ours, published, translate, torch.randn(2, 2, 28, 28), DATA)


def test_patch_discriminator():
    published = nn.Sequential(
        *(nn.Conv2d(5, 4, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(16, 32, 4, 1, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2)),
        nn.Conv2d(32, 1, 4, 1, 1),
    )
    ours = build_discriminator(config(64, discriminator=PatchConfig(width=4)), inputs=5)
    compare(ours, published, judge, torch.randn(2, 5, 64, 64), DATA)


def test_a_patch_is_of_70_pixels_and_the_count_is_the_published_one():
    conf = config(256, discriminator=PatchConfig(norm="none", width=2))
    ours: Any = build_discriminator(conf).double()
    x = torch.randn(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = ours(x, DATA)[0]
    assert logits.shape == (1, 30, 30)
    logits[0, 15, 15].backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]
    with torch.device("meta"):
        d = build_discriminator(config(256, discriminator=PatchConfig()), inputs=6)
    assert count(d) == 2_768_705
