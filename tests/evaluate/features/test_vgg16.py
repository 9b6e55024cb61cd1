"""VGG16 against torch-fidelity's on the same pictures and weights."""

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from agehpc.evaluate.features.base import Extractor, build
from tests.evaluate.features.networks import pictures


@pytest.fixture(scope="module")
def vgg16(vgg16_weights: Path) -> Extractor:
    return build("vgg16", "cpu", vgg16_weights)


def test_equal_to_torch_fidelity(vgg16: Extractor, vgg16_weights: Path):
    peer = FeatureExtractorVGG16("vgg16", ["fc2_relu"], str(vgg16_weights))
    x = pictures(2, 3, 64, 80)
    features = vgg16(x)["features"]
    (expected,) = peer(x)
    assert features.dtype == torch.float32
    assert features.shape == (2, vgg16.sizes["features"])
    scale = expected.std(0).mean()
    assert scale > 1e-2 * expected.mean()  # the pictures are told apart
    assert (features - expected).abs().max() < 1e-3 * scale


def test_grey_is_the_same_as_three_equal_channels(vgg16: Extractor):
    grey = pictures(1, 1, 32, 32)
    rgb = vgg16(grey.repeat(1, 3, 1, 1))["features"]
    torch.testing.assert_close(vgg16(grey)["features"], rgb, rtol=1e-4, atol=1e-5)
