"""I3D's calling convention, on a small TorchScript network that keeps it."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agehpc.errors import DataError
from agehpc.evaluate.features.base import Extractor, build
from agehpc.evaluate.weights import WeightsError


class Small(nn.Module):
    """The published network's interface, with one layer; steps are told apart by the values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 2 * 2, 400)

    def forward(
        self,
        x: Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> Tensor:
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            size = [x.shape[2], 2, 2]
            x = nn.functional.interpolate(x, size=size, mode="trilinear", align_corners=False)
        logits = self.layer(x.mean(2).flatten(1))
        return logits if return_features else logits.softmax(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(Small()), path)
    return path


@pytest.fixture(scope="module")
def i3d(weights: Path) -> Extractor:
    return build("i3d", "cpu", weights)


def clips(channels: int) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, channels, 16, 8, 8), generator=draws, dtype=torch.uint8)


def test_features_are_the_logits_of_rescaled_and_resized_clips(i3d: Extractor):
    x = clips(3)
    features = i3d(x)["features"]
    assert features.dtype == torch.float32
    assert features.shape == (2, i3d.sizes["features"])
    torch.manual_seed(0)
    with torch.no_grad():
        frames = (x.float() / 127.5 - 1).transpose(1, 2).flatten(0, 1)
        small = nn.functional.interpolate(frames, size=(2, 2), mode="bilinear")
        expected = Small().layer(small.reshape(2, 16, 3, 2, 2).mean(1).flatten(1))
    torch.testing.assert_close(features, expected)


def test_grey_is_the_same_as_three_equal_channels(i3d: Extractor):
    grey = clips(1)
    rgb = i3d(grey.repeat(1, 3, 1, 1, 1))["features"]
    torch.testing.assert_close(i3d(grey)["features"], rgb)


def test_pictures_are_refused(i3d: Extractor):
    assert i3d.takes == "clip"
    with pytest.raises(DataError, match=r"takes clips \[B, C, T, H, W\] of 1 or 3 channels"):
        i3d(clips(3)[:, :, 0])
    with pytest.raises(DataError, match=r"not \[2, 16, 3, 8, 8\]"):
        i3d(clips(3).transpose(1, 2))


def test_a_file_of_another_kind_is_one_error(tmp_path: Path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="does not hold the weights of i3d"):
        build("i3d", "cpu", path)
