"""Resizing against clean-fid, PIL, torch-fidelity's network input and TensorFlow 1's definition."""

import cleanfid.resize
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agehpc.evaluate.resize import RESIZES, clean, legacy_pytorch, legacy_tensorflow

SIZES = [(64, 64), (32, 48), (7, 5), (299, 299), (300, 301), (340, 600)]


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Noise of black and white: what over- and undershoots most."""
    bits = torch.randint(0, 2, (1, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return (bits * 255).to(torch.uint8)


def by_cleanfid(mode: str, x_1CHW: torch.Tensor, side: int = 299) -> torch.Tensor:
    if mode == "clean":
        resize = cleanfid.resize.make_resizer("PIL", False, "bicubic", (side, side))
    else:
        resize = cleanfid.resize.make_resizer("PyTorch", False, "bilinear", (side, side))
    return torch.from_numpy(resize(x_1CHW[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_equal_to_clean_fid(mode: str, height: int, width: int):
    x = picture(height, width)
    y = RESIZES[mode](x, 299)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, by_cleanfid(mode, x), rtol=0, atol=1e-4)


def test_not_rounded_but_clipped():
    y = clean(picture(64, 64), 299)
    assert (y.min(), y.max()) == (0, 255)
    assert (y != y.round()).any()


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    side=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_clean_of_any_size(height: int, width: int, side: int, seed: int):
    x = picture(height, width, seed)
    torch.testing.assert_close(clean(x, side), by_cleanfid("clean", x, side), rtol=0, atol=1e-4)


@given(height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 40))
def test_tensorflow_by_its_definition(height: int, width: int, side: int):
    # resize_bilinear with align_corners=False: source = index * in / out, without half pixels.
    x = picture(height, width)

    def taps(size: int) -> np.ndarray:
        weights = np.zeros((side, size))
        for index in range(side):
            source = index * size / side
            low = int(np.floor(source))
            weights[index, low] += 1 - (source - low)
            weights[index, min(low + 1, size - 1)] += source - low
        return weights

    expected = np.einsum("yh,xw,bchw->bcyx", taps(height), taps(width), x.numpy().astype(float))
    y = legacy_tensorflow(x, side)
    assert y.dtype == torch.float32
    # float32's index * (in / out) may fall on either side of a pixel's border: continuous there.
    np.testing.assert_allclose(y.numpy(), expected, atol=5e-3)


@pytest.mark.parametrize("mode", RESIZES)
def test_grey_is_repeated_and_a_batch_is_its_pictures(mode: str):
    grey = torch.cat([picture(20, 30, seed)[:, :1] for seed in range(3)])
    y = RESIZES[mode](grey, 24)
    assert y.shape == (3, 3, 24, 24)
    for n in range(3):
        alone = RESIZES[mode](grey[n : n + 1].repeat(1, 3, 1, 1), 24)
        torch.testing.assert_close(y[n : n + 1], alone, rtol=0, atol=1e-5)


def test_the_ways_differ():
    x = picture(64, 64)
    ways = [clean(x, 32), legacy_pytorch(x, 32), legacy_tensorflow(x, 32)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (ways[a] - ways[b]).abs().mean() > 10
