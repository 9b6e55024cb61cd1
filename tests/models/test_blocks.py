"""Upsampling and initialisation."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agehpc.models.blocks import Upsample, initialise, shuffle_channels

FACTORS = [(2, 2), (2, 2, 2), (1, 2, 2)]


def test_shuffle_is_torchs_in_two_dimensions():
    x = torch.randn(2, 12, 3, 5)
    assert torch.equal(shuffle_channels(x, (2, 2)), F.pixel_shuffle(x, 2))


@pytest.mark.parametrize("factor", FACTORS[1:])
def test_shuffle_in_three_dimensions(factor: tuple[int, int, int]):
    a, b, c = factor
    copies = a * b * c
    x = torch.randn(2, 3 * copies, 2, 3, 4)
    y = shuffle_channels(x, factor)
    assert y.shape == (2, 3, 2 * a, 3 * b, 4 * c)
    for n, ch, t, i, j in itertools.product(*map(range, y.shape)):
        copy = (t % a) * b * c + (i % b) * c + (j % c)
        assert y[n, ch, t, i, j] == x[n, ch * copies + copy, t // a, i // b, j // c]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("mode", ["transposed", "resize", "subpixel"])
def test_multiplies_each_dimension_by_its_factor(mode: str, factor: tuple[int, ...]):
    up = Upsample(6, 3, factor, mode, bias=True)  # type: ignore[arg-type]
    space = (4, 3, 5)[: len(factor)]
    y = up(torch.randn(2, 6, *space))
    assert y.shape == (2, 3, *(s * f for s, f in zip(space, factor, strict=True)))


@pytest.mark.parametrize("factor", FACTORS)
def test_subpixel_starts_as_a_nearest_resize(factor: tuple[int, ...]):
    """ICNR: the convolution at low resolution, each of its pixels repeated."""
    torch.manual_seed(0)
    up = Upsample(6, 3, factor, "subpixel", bias=True)
    initialise(up)
    copies = up.conv.out_channels // 3
    x = torch.randn(2, 6, *(4, 3, 5)[: len(factor)])
    conv = F.conv2d if len(factor) == 2 else F.conv3d
    low = conv(x, up.conv.weight[::copies], padding=1)
    scale = tuple(float(f) for f in factor)
    wanted = F.interpolate(low, scale_factor=scale, mode="nearest")  # type: ignore[arg-type]
    torch.testing.assert_close(up(x), wanted)
    assert low.std() > 0


@pytest.mark.parametrize("factor", FACTORS)
def test_resize_convolves_repeated_pixels(factor: tuple[int, ...]):
    up = Upsample(2, 3, factor, "resize", bias=False)
    x = torch.randn(1, 2, *(2, 3, 4)[: len(factor)])
    repeated = x
    for dim, f in enumerate(factor):
        repeated = repeated.repeat_interleave(f, 2 + dim)
    torch.testing.assert_close(up(x), up.conv(repeated))


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_initialisation(conv: type[nn.Module]):
    torch.manual_seed(0)
    layer = nn.Sequential(conv(32, 64, 4))
    initialise(layer)
    weight, bias = layer[0].weight, layer[0].bias
    assert isinstance(weight, nn.Parameter)
    assert not bias.any()
    error = 4 * 0.02 / weight.numel() ** 0.5
    assert abs(weight.mean().item()) < error
    assert abs(weight.std().item() - 0.02) < error
