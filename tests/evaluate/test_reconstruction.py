"""PSNR and SSIM against their formulas in float64."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from agehpc.evaluate.reconstruction import psnr, ssim


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    x = gaussian_filter(draws.uniform(0, 255, shape), (0, 0, *[2] * (len(shape) - 2)))
    x = (x - x.min()) / np.ptp(x) * 255
    y = x + draws.normal(0, 20, shape)
    return y.clip(0, 255).round().astype(np.uint8), x.round().astype(np.uint8)


def ssim_HW(y: np.ndarray, x: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, with mirrored edges."""
    y, x = y.astype(np.float64), x.astype(np.float64)

    def mean(a):
        return gaussian_filter(a, 1.5, radius=5, mode="mirror")

    my, mx = mean(y), mean(x)
    vy, vx, c = mean(y * y) - my**2, mean(x * x) - mx**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * c + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(index.mean())


@pytest.mark.parametrize("shape", [(3, 1, 24, 30), (2, 3, 16, 16), (2, 3, 4, 16, 20)])
def test_ssim_is_that_of_the_paper(shape):
    y, x = pair(*shape)
    values = ssim(y, x)
    assert values.dtype == np.float64
    for n in range(len(x)):
        planes = zip(y[n].reshape(-1, *shape[-2:]), x[n].reshape(-1, *shape[-2:]), strict=True)
        assert values[n] == pytest.approx(np.mean([ssim_HW(*p) for p in planes]), abs=1e-6)
    np.testing.assert_allclose(ssim(x, x), 1)


def test_psnr_of_known_errors():
    x = np.full((2, 1, 4, 4), 100, np.uint8)
    y = x.copy()
    y[1, 0, 0, 0] += 16
    assert psnr(y, x)[0] == np.inf
    assert psnr(y, x)[1] == pytest.approx(10 * np.log10(255**2 / 16))
