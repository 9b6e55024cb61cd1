"""Corruptions against numpy and Pillow, and that their noise is keyed by sample."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import Tensor

from agehpc.data.keyed import philox
from agehpc.models.corrupt import Corruption, box_mask, corrupt, downscale, noise, upscale

KINDS = get_args(Corruption)
LEVELS = {"gaussian": 0.2, "salt_and_pepper": 0.3, "masking": 0.5, "lowres": 2}
SHAPES = [(3, 16, 16), (1, 28, 28), (3, 4, 16, 16)]


def keyed(count: int, first: int = 0) -> list[np.random.Generator]:
    return [philox(5, "corruption", n) for n in range(first, first + count)]


def batch(count: int, shape: tuple[int, ...]) -> Tensor:
    """Smooth samples that fill most of the range."""
    ramp = torch.linspace(-1, 1, shape[-1]) * torch.linspace(1, -0.5, shape[-2])[:, None]
    return ramp.expand(count, *shape).contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_depends_on_its_own_generator_alone(kind: Corruption, shape: tuple[int, ...]):
    whole = noise(kind, keyed(6), shape)
    if kind == "lowres":
        assert whole is None
        return
    assert whole is not None
    assert whole.dtype == torch.float32
    wanted = {"gaussian": shape, "salt_and_pepper": (1, *shape[1:]), "masking": (2,)}[kind]
    assert whole.shape == (6, *wanted)
    parts = [noise(kind, keyed(2, first), shape) for first in (0, 2, 4)]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), whole)
    assert len(whole.unique()) > 0.99 * whole.numel()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_keeps_shape_dtype_and_range(kind: Corruption, shape: tuple[int, ...]):
    x, draws = batch(4, shape), noise(kind, keyed(4), shape)
    before = x.clone()
    for dtype in (torch.float32, torch.float64):
        y = corrupt(kind, x.to(dtype), LEVELS[kind], draws)
        assert (y.dtype, y.shape) == (dtype, x.shape)
        assert y.abs().max() <= 1
        assert not torch.equal(y, x.to(dtype))
    assert torch.equal(x, before)
    if kind != "lowres":
        assert torch.equal(corrupt(kind, x, 0.0, draws), x)


def test_gaussian_level_is_in_units_of_pixels_from_0_to_1():
    shape, level = (1, 100, 100), 0.1
    draws = noise("gaussian", keyed(8), shape)
    assert draws is not None
    assert stats.kstest(draws.flatten().numpy(), stats.norm().cdf).pvalue > 1e-3
    x01 = np.full((8, *shape), 0.5)
    y01 = (corrupt("gaussian", torch.from_numpy(2 * x01 - 1), level, draws).numpy() + 1) / 2
    wanted = np.clip(x01 + level * draws.numpy(), 0, 1)
    np.testing.assert_allclose(y01, wanted, rtol=0, atol=1e-7)
    assert (y01 - x01).std() == pytest.approx(level, rel=0.02)


@given(level=st.floats(0, 1), u=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=4))
def test_salt_and_pepper_by_its_uniforms(level: float, u: list[float]):
    draws = torch.tensor(u).view(1, 1, 1, -1)
    x = torch.full((1, 3, 1, len(u)), 0.25)
    y = corrupt("salt_and_pepper", x, level, draws)
    level32 = np.float32(level)
    for n, value in enumerate(u):
        wanted = 0.25 if value >= level32 else (-1.0 if value < np.float32(level / 2) else 1.0)
        assert (y[0, :, 0, n] == wanted).all()


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 8, 32, 32)])
def test_salt_and_pepper_shares(shape: tuple[int, ...]):
    x = torch.full((4, *shape), 0.25)
    y = corrupt("salt_and_pepper", x, 0.3, noise("salt_and_pepper", keyed(4), shape))
    assert torch.equal(y, y[:, :1].expand_as(y))  # all channels alike
    black, white = ((y[:, 0] == value).double() for value in (-1, 1))
    slack = 5 * (0.15 * 0.85 / black.numel()) ** 0.5
    assert black.mean().item() == pytest.approx(0.15, abs=slack)
    assert white.mean().item() == pytest.approx(0.15, abs=slack)
    assert (y[:, 0] == 0.25).double().mean().item() == pytest.approx(0.7, abs=2 * slack)
    if len(shape) == 4:
        assert not torch.equal(black[:, 0], black[:, 1])  # every frame has its own


@pytest.mark.parametrize("shape", [(2, 12, 12), (2, 3, 12, 12)])
@settings(deadline=None)
@given(level=st.floats(0, 1), u=st.tuples(*[st.floats(0, 1, exclude_max=True, width=32)] * 2))
def test_masking_sets_one_box(shape: tuple[int, ...], level: float, u: tuple[float, float]):
    x = torch.full((1, *shape), 0.5)
    draws = torch.tensor([u])
    wanted = x.numpy().copy()
    side = int(np.floor(level * 12 + 0.5))
    top, left = (int(np.floor(np.float32(v) * np.float32(12 - side + 1))) for v in u)
    wanted[..., top : top + side, left : left + side] = 0
    y = corrupt("masking", x, level, draws)
    np.testing.assert_array_equal(y.numpy(), wanted)
    assert (y == 0).sum() == side**2 * x[0].numel() // 144  # wholly inside, in all frames
    mask = box_mask(x, level, draws)
    assert mask.shape == (1, *(1,) * (len(shape) - 2), 12, 12)
    assert torch.equal(x.masked_fill(mask, 0), y)


def test_boxes_lie_everywhere():
    draws = noise("masking", keyed(2000), (1, 16, 16))
    assert draws is not None
    hits = box_mask(torch.zeros(2000, 1, 16, 16), 0.5, draws).double().mean((0, 1))
    assert hits[7, 7] > 0.7  # 8 of 9 places in each direction cover it
    corners = hits[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners - 1 / 81).abs().max() < 5 * (1 / 81 / 2000) ** 0.5


def pillow(x_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(x_HW.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 28, 28), (2, 3, 16, 16)])
def test_lowres_equals_pillow(shape: tuple[int, ...], factor: int):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *shape, generator=generator) * 2 - 1
    height, width = shape[-2:]
    small, y = downscale(x, factor), corrupt("lowres", x, factor, None)
    assert small.shape == (*x.shape[:-2], height // factor, width // factor)
    for frame, found_small, found in zip(
        x.flatten(0, -3).numpy(), small.flatten(0, -3), y.flatten(0, -3), strict=True
    ):
        wanted = pillow(frame, height // factor, width // factor)
        np.testing.assert_allclose(found_small.numpy(), wanted, rtol=0, atol=1e-5)
        wanted = np.clip(pillow(wanted, height, width), -1, 1)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5)


def test_lowres_can_be_differentiated():
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: upscale(downscale(x, 2), 2), (x,))
    assert torch.autograd.gradgradcheck(lambda x: downscale(x, 2).square(), (x,))


@pytest.mark.parametrize(
    ("kind", "level", "size"), [("lowres", 3, 12), ("lowres", 4, 18), ("masking", 1.5, 12)]
)
def test_impossible_levels_are_refused(kind: Corruption, level: float, size: int):
    with pytest.raises(AssertionError):
        corrupt(kind, torch.zeros(1, 1, size, size), level, torch.zeros(1, 2))
