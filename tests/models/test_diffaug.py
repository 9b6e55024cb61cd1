"""Differentiable augmentation against a loop over samples, and its values and derivatives."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agehpc.models.diffaug import Policy, augment, draws

SHAPES = [(4, 3, 16, 16), (4, 1, 12, 20), (3, 2, 5, 7, 9), (2, 3, 4, 16, 16)]
NAMES = get_args(Policy)


def batch(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def uniforms(count: int, policies: list[Policy], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, draws(policies), generator=generator)


def colour(x: np.ndarray, u: list[float]) -> np.ndarray:
    """One sample [C, ...]: brightness, saturation, contrast as published."""
    x = x + u[0] - 0.5
    grey = x.mean(0)
    x = np.stack([(channel - grey) * u[1] * 2 + grey for channel in x])
    return (x - x.mean()) * (u[2] + 0.5) + x.mean()


def translation(x: np.ndarray, u: list[float]) -> np.ndarray:
    """Copy pixel after pixel to its new place."""
    out = np.zeros_like(x)
    height, width = x.shape[-2:]
    limits = [int(np.floor(size / 8 + 0.5)) for size in (height, width)]
    down, right = (int(np.floor(v * (2 * m + 1))) - m for v, m in zip(u, limits, strict=True))
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i + down < height and 0 <= j + right < width:
            out[..., i + down, j + right] = x[..., i, j]
    return out


def cutout(x: np.ndarray, u: list[float]) -> np.ndarray:
    """Cut a slice whose ends are clipped to the sample."""
    x = x.copy()
    slices = []
    for size, v in zip(x.shape[-2:], u, strict=True):
        side = int(np.floor(size / 2 + 0.5))
        centre = int(np.floor(v * (size + (1 if side % 2 == 0 else 0))))
        first = centre - side // 2
        slices.append(slice(max(0, first), min(size, first + side)))
    x[..., slices[0], slices[1]] = 0
    return x


ONE = {"colour": (3, colour), "translation": (2, translation), "cutout": (2, cutout)}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None)
@given(policies=st.lists(st.sampled_from(NAMES), max_size=4), seed=st.integers(0, 99))
def test_equals_a_loop_over_samples(shape: tuple[int, ...], policies: list[Policy], seed: int):
    x, u = batch(shape, seed), uniforms(shape[0], policies, seed + 1)
    got = augment(x, policies, u)
    for sample, numbers, found in zip(x.numpy(), u.tolist(), got, strict=True):
        for name in policies:
            count, apply = ONE[name]
            sample, numbers = apply(sample, numbers[:count]), numbers[count:]
        assert not numbers
        np.testing.assert_allclose(found.numpy(), sample, rtol=1e-12, atol=1e-12)


def test_colour_at_known_values():
    x = batch((1, 3, 8, 8))
    middle = torch.tensor([[0.5, 0.5, 0.5]])
    torch.testing.assert_close(augment(x, ["colour"], middle), x)
    brighter = augment(x, ["colour"], torch.tensor([[0.75, 0.5, 0.5]]))
    torch.testing.assert_close(brighter, x + 0.25)
    grey = augment(x, ["colour"], torch.tensor([[0.5, 0.0, 0.5]]))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = augment(x, ["colour"], torch.tensor([[0.5, 0.5, 0.25]]))
    torch.testing.assert_close(flat.std(), 0.75 * x.std())
    torch.testing.assert_close(flat.mean(), x.mean())
    single = batch((2, 1, 8, 8))  # saturation leaves one channel as it is
    pair = [augment(single, ["colour"], torch.tensor([[0.3, s, 0.6]] * 2)) for s in (0.0, 0.9)]
    assert torch.equal(*pair)
    assert not torch.equal(pair[0], single)


def test_translation_reaches_every_place_equally_often():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 8, 8] = 1
    count = 50
    steps = (torch.arange(count) / count + 0.5 / count).float()
    grid_K2 = torch.cartesian_prod(steps, steps)
    moved = augment(x.expand(len(grid_K2), 1, 16, 16), ["translation"], grid_K2)
    hits = moved.sum((0, 1))
    assert hits[6:11, 6:11].min() == hits[6:11, 6:11].max() == len(grid_K2) / 25
    assert hits.sum() == len(grid_K2)
    corner = augment(x, ["translation"], torch.tensor([[0.0, 0.999]]))
    assert corner[0, 0, 6, 10] == 1  # two up, two to the right


def test_translation_fills_with_zeros():
    x = torch.ones(1, 1, 16, 16)
    moved = augment(x, ["translation"], torch.tensor([[0.999, 0.0]]))[0, 0]
    assert moved[2:, :14].min() == 1
    assert moved[:2].abs().max() == 0
    assert moved[:, 14:].abs().max() == 0


def test_cutout_takes_half_the_size_around_its_centre():
    x = torch.ones(3, 1, 16, 8)
    cut = augment(x, ["cutout"], torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.999, 0.999]]))[:, 0] == 0
    wanted = torch.zeros(3, 16, 8, dtype=torch.bool)
    wanted[0, 4:12, 2:6] = True
    wanted[1, :4, :2] = True  # half of the box hangs over either edge
    wanted[2, 12:, 6:] = True
    assert torch.equal(cut, wanted)


def test_the_largest_uniform_stays_inside():
    largest = float(np.nextafter(np.float32(1), np.float32(0)))
    for size in range(8, 300):
        x = torch.ones(1, 1, size, size)
        u = torch.full((1, 2), largest)
        shift = int(size / 8 + 0.5)
        assert augment(x, ["translation"], u).sum() == (size - shift) ** 2
        assert augment(x, ["cutout"], u)[0, 0, -1, -1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_all_frames_are_treated_alike(name: Policy):
    frame = batch((4, 3, 1, 16, 16))
    clip = augment(frame.expand(4, 3, 6, 16, 16), [name], uniforms(4, [name]))
    torch.testing.assert_close(clip, clip[:, :, :1].expand_as(clip), rtol=0, atol=1e-15)
    image = augment(frame[:, :, 0], [name], uniforms(4, [name]))
    torch.testing.assert_close(clip[:, :, 0], image)


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_see_each_other(name: Policy):
    x, u = batch(SHAPES[0]), uniforms(4, [name])
    whole = augment(x, [name], u)
    torch.testing.assert_close(torch.cat([augment(x[2:], [name], u[2:])]), whole[2:])
    assert not torch.equal(whole, augment(x, [name], u.flip(0)))


@pytest.mark.parametrize("shape", [(2, 2, 8, 5), (2, 1, 2, 5, 8)])
@pytest.mark.parametrize("policies", [[name] for name in NAMES] + [list(NAMES)])
def test_derivatives(policies: list[Policy], shape: tuple[int, ...]):
    x = batch(shape).requires_grad_(True)
    u = uniforms(2, policies)
    assert torch.autograd.gradcheck(lambda x: augment(x, policies, u), (x,))
    # Squared, so that the second derivative is not zero.
    assert torch.autograd.gradgradcheck(lambda x: augment(x, policies, u).square(), (x,))
    augment(x, policies, u).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_dtype(dtype: torch.dtype):
    x, u = batch(SHAPES[0]).to(dtype), uniforms(4, list(NAMES))
    y = augment(x, NAMES, u)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(y.double(), augment(x.double(), NAMES, u), rtol=0, atol=tolerance)


def test_wrong_number_of_uniforms_is_refused():
    with pytest.raises(AssertionError):
        augment(batch(SHAPES[0]), ["colour"], uniforms(4, ["colour", "cutout"]))
    assert torch.equal(augment(batch(SHAPES[0]), [], torch.zeros(4, 0)), batch(SHAPES[0]))
