"""What all extractors refuse, and the surroundings they compute in."""

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch

from agehpc.errors import DataError, UsageError
from agehpc.evaluate.features import base
from agehpc.evaluate.features.base import EXTRACTORS, build
from agehpc.evaluate.weights import WEIGHTS, WeightsError


@pytest.fixture(scope="module")
def lite0() -> base.Extractor:
    return build("lite0", "cpu")


def test_every_extractor_has_weights_of_its_name():
    assert set(EXTRACTORS) <= set(WEIGHTS)


def test_what_is_unknown_is_a_usage_error():
    with pytest.raises(UsageError, match=r"'inceptoin'; known are inception, "):
        build("inceptoin", "cpu")
    with pytest.raises(UsageError, match="lite0 resizes by bicubic, not by clean"):
        build("lite0", "cpu", resize="clean")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match=r"efficientnet_lite_pytorch.* 'agehpc\[evaluate\]'"):
        build("lite0", "cpu")


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"], ids=["empty", "page", "zip"])
def test_a_file_that_torch_did_not_write_is_one_error(tmp_path: Path, content: bytes):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path} does not hold the weights of lite0"):
        build("lite0", "cpu", path)


class Planted:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Planted()}, "weights.pth")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        build("lite0", "cpu", Path("weights.pth"))
    assert not Path("planted").exists()


def test_weights_of_another_network_are_one_error(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"does not hold the weights of lite0: .*Missing key"):
        build("lite0", "cpu", path)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(2, 3, 8, 8), "uint8 in 0..255, not torch.float32"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), "1 or 3 channels, not [2, 2, 8, 8]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "[B, C, H, W] of 1 or 3 channels, not [3, 8, 8]"),
        (torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8), "images [B, C, H, W] of"),
    ],
)
def test_samples_of_another_kind_are_refused(lite0: base.Extractor, x: torch.Tensor, said: str):
    with pytest.raises(DataError, match=re.escape(said)):
        lite0(x)


def test_training_settings_change_nothing(lite0: base.Extractor):
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = lite0(x)["features"]
    seen = []
    outputs = lite0.outputs

    def spy(x_BCS: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((torch.backends.cudnn.conv.fp32_precision, torch.is_grad_enabled()))
        return outputs(x_BCS)

    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    lite0.outputs = spy
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
            features = lite0(x)["features"]
    finally:
        del lite0.outputs
    assert torch.equal(features, expected)
    assert not features.requires_grad
    assert seen == [("ieee", False)]
    after = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert after == before
    # torch refuses to read the older setting where it and the newer ones disagree.
    assert torch.backends.cudnn.allow_tf32 in (True, False)


def test_the_fingerprint_tells_what_features_depend_on(lite0: base.Extractor):
    assert lite0.fingerprint == {
        "extractor": "lite0",
        "weights": WEIGHTS["lite0"].sha256,
        "resize": "bicubic",
        "side": 96,
        "range": "0..255",
    }


def test_other_weights_are_in_the_fingerprint(lite0: base.Extractor, tmp_path: Path):
    path = tmp_path / "mine.pth"
    torch.save(lite0.network.state_dict(), path)
    mine = build("lite0", "cpu", path)
    assert mine.fingerprint["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert mine.fingerprint["weights"] != lite0.fingerprint["weights"]
