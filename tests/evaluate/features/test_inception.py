"""Inception against torch-fidelity's and torchmetrics' on the same pictures and weights."""

from pathlib import Path

import pytest
import torch
from cleanfid.resize import make_resizer
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from agehpc.errors import UsageError
from agehpc.evaluate.features.base import Extractor, build
from agehpc.evaluate.weights import WeightsError, identify
from tests.evaluate.features.networks import pictures

OUTPUTS = ["2048", "logits_unbiased"]


@pytest.fixture(scope="module")
def weights(inception_weights: Path) -> Path:
    return inception_weights


@pytest.fixture(scope="module")
def inception(weights: Path) -> Extractor:
    return build("inception", "cpu", weights)


@pytest.fixture(scope="module")
def peer(weights: Path) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("inception", OUTPUTS, str(weights))


@pytest.mark.parametrize("size", [(64, 64), (320, 300)], ids=["enlarged", "reduced"])
def test_equal_to_torch_fidelity(
    inception: Extractor, peer: FeatureExtractorInceptionV3, size: tuple[int, int]
):
    x = pictures(3, 3, *size)
    ours = inception(x)
    theirs = dict(zip(inception.sizes, peer(x), strict=True))
    for name, width in inception.sizes.items():
        assert ours[name].dtype == torch.float32
        assert ours[name].shape == (3, width)
        scale = theirs[name].std(0).mean()
        assert scale > 1e-2 * theirs[name].abs().mean()  # the pictures are told apart
        assert (ours[name] - theirs[name]).abs().max() < 1e-3 * scale


def test_equal_to_torchmetrics_without_its_antialiasing(inception: Extractor, weights: Path):
    from torchmetrics.image.fid import NoTrainInceptionV3

    x = pictures(2, 3, 64, 64)
    network = NoTrainInceptionV3("inception", ["2048"], str(weights), antialias=False)
    features = inception(x)["features"]
    torch.testing.assert_close(network(x), features, rtol=1e-4, atol=1e-5)


def test_clean_is_the_network_on_clean_fids_pictures(
    weights: Path, peer: FeatureExtractorInceptionV3, monkeypatch: pytest.MonkeyPatch
):
    x = pictures(2, 3, 64, 64)
    resize = make_resizer("PIL", False, "bicubic", (299, 299))
    resized = torch.stack(
        [torch.from_numpy(resize(p.permute(1, 2, 0).numpy())).permute(2, 0, 1) for p in x]
    )
    # torch-fidelity's network always resizes: put the resized pictures in the place of its own.
    monkeypatch.setattr(
        f"{FeatureExtractorInceptionV3.__module__}.interpolate_bilinear_2d_like_tensorflow1x",
        lambda *_, **__: resized,
    )
    expected = peer(x)[0]
    extractor = build("inception", "cpu", weights, resize="clean")
    features = extractor(x)["features"]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    assert extractor.fingerprint["resize"] == "clean"
    monkeypatch.undo()
    assert (peer(x)[0] - features).abs().max() > 0.1 * expected.std(0).mean()


def test_grey_is_the_same_as_three_equal_channels(inception: Extractor):
    grey = pictures(2, 1, 32, 32)
    rgb = inception(grey.repeat(1, 3, 1, 1))["features"]
    torch.testing.assert_close(inception(grey)["features"], rgb, rtol=1e-4, atol=1e-5)


def test_weights_and_defaults(inception: Extractor, weights: Path):
    assert inception.fingerprint["weights"] == identify("inception", weights)[1]
    assert inception.fingerprint["resize"] == "legacy_tensorflow"
    assert inception.fingerprint["side"] == 299
    with pytest.raises(UsageError, match="legacy_tensorflow or clean or legacy_pytorch, not by b"):
        build("inception", "cpu", weights, resize="bilinear")


def test_half_of_the_layers_is_an_error(weights: Path, tmp_path: Path):
    state = torch.load(weights, weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.startswith("fc")}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"half\.pth does not hold .* inception: .*fc\.weight"):
        build("inception", "cpu", tmp_path / "half.pth")


def test_the_input_of_the_network_is_what_torch_fidelity_gives_it(inception: Extractor):
    seen = []
    handle = next(inception.network.children()).register_forward_pre_hook(
        lambda _, x: seen.append(x[0])
    )
    x = pictures(1, 3, 40, 40)
    inception(x)
    handle.remove()
    resized = interpolate_bilinear_2d_like_tensorflow1x(
        x.float(), size=(299, 299), align_corners=False
    )
    torch.testing.assert_close(seen[0], (resized - 128) / 128)
