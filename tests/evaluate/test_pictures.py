"""MS-SSIM against a float64 writing, LPIPS against the authors' package on the same weights."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from agehpc.errors import DataError
from agehpc.evaluate.pictures import WEIGHTS, Lpips, ms_ssim, scales_of
from agehpc.evaluate.weights import WeightsError


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    x = gaussian_filter(draws.uniform(0, 255, shape), (0, 0, *[2] * (len(shape) - 2)))
    x = (x - x.min()) / np.ptp(x) * 255
    y = x + draws.normal(0, 30, shape)
    return y.clip(0, 255).round().astype(np.uint8), x.round().astype(np.uint8)


def terms(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast and structure of one plane (Wang et al. 2004)."""

    def mean(a):
        return gaussian_filter(a, 1.5, radius=5, mode="mirror")

    my, mx = mean(y), mean(x)
    vy, vx, c = mean(y * y) - my**2, mean(x * x) - mx**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = (2 * c + c2) / (vx + vy + c2)
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1) * contrast, contrast


def plain(y_CHW: np.ndarray, x_CHW: np.ndarray, scales: int) -> float:
    y_CHW, x_CHW = y_CHW.astype(np.float64), x_CHW.astype(np.float64)
    value = 1.0
    for n in range(scales):
        planes = [terms(y, x) for y, x in zip(y_CHW, x_CHW, strict=True)]
        last = n == scales - 1
        term = np.mean([s if last else c[5:-5, 5:-5] for s, c in planes])
        value *= max(term, 0) ** (WEIGHTS[n] / sum(WEIGHTS[:scales]))
        c, h, w = (size // 2 * 2 for size in (2 * len(y_CHW), *y_CHW.shape[1:]))
        y_CHW, x_CHW = (
            a[:, :h, :w].reshape(c // 2, h // 2, 2, w // 2, 2).mean((2, 4)) for a in (y_CHW, x_CHW)
        )
    return value


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((1, 1, 176, 181), 5), ((2, 1, 64, 70), 3), ((2, 3, 16, 12), 1), ((2, 3, 2, 32, 33), 2)],
)
def test_ms_ssim(shape: tuple[int, ...], scales: int):
    y, x = pair(*shape)
    assert scales_of(*shape[-2:]) == scales
    found = ms_ssim(y, x, scales)
    assert found.dtype == np.float64
    for n in range(len(x)):
        frames = [(y[n], x[n])] if y.ndim == 4 else zip(*clips(y, x, n), strict=True)
        wanted = np.mean([plain(*frame, scales) for frame in frames])
        assert found[n] == pytest.approx(wanted, abs=1e-6)
    np.testing.assert_allclose(ms_ssim(x, x, scales), 1)


@pytest.mark.parametrize("side", [*range(1, 40), 87, 88, 98, 99, 128, 160, 161, 175, 176, 300])
def test_pictures_have_the_scales_that_can_be_computed(side: int):
    y, x = pair(1, 1, side, side + 3)
    scales = scales_of(side + 3, side)
    assert (scales == 0) == (side < 11)
    if scales:
        assert 0 <= ms_ssim(y, x, scales)[0] < 1
    if scales < 5:
        with pytest.raises(
            DataError, match=f"{side + 3} x {side} .* {scales + 1} scales.*{scales}"
        ):
            ms_ssim(y, x, scales + 1)


def clips(y: np.ndarray, x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    return y[n].swapaxes(0, 1), x[n].swapaxes(0, 1)


@pytest.fixture(scope="module", params=["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def backbone(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[str, Path]:
    """Random weights in the layout that torchvision publishes."""
    from torchvision.models import alexnet, vgg16

    torch.manual_seed(0)
    network = {"alex": alexnet, "vgg": vgg16}[request.param](weights=None)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    kept = {k: v for k, v in network.state_dict().items() if k.startswith("features.")}
    torch.save(kept | {"classifier.1.weight": torch.zeros(1)}, path)
    return request.param, path


def authors(net: str, path: Path) -> torch.nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = torch.load(path, weights_only=True)
    names = theirs.net.state_dict()
    theirs.net.load_state_dict({k: state["features." + k.partition(".")[2]] for k in names})
    return theirs


def test_lpips(backbone: tuple[str, Path]):
    net, path = backbone
    ours, theirs = Lpips(net, weights=path), authors(net, path)
    assert ours.fingerprint["backbone"] == net
    for shape in ((3, 3, 32, 40), (2, 1, 64, 64)):
        y, x = pair(*shape)
        found = ours(y, x)
        given = [torch.from_numpy(a).float().expand(-1, 3, -1, -1) / 127.5 - 1 for a in (y, x)]
        with torch.no_grad():
            wanted = theirs(*given).flatten().numpy()
        assert found.dtype == np.float64
        assert found == pytest.approx(wanted, rel=1e-5)
        assert (found > 0).all()
        assert (ours(x, x) == 0).all()
    y, x = pair(2, 3, 2, 32, 32)
    frames = np.mean([ours(y[:, :, t], x[:, :, t]) for t in range(2)], axis=0)
    assert ours(y, x) == pytest.approx(frames, rel=1e-5)
    with pytest.raises(DataError, match="64 x 31 pixels"):
        ours(*pair(1, 3, 31, 64))


@pytest.mark.parametrize("change", ["missing", "another shape"])
def test_weights_of_another_network(backbone: tuple[str, Path], tmp_path: Path, change: str):
    net, path = backbone
    state = torch.load(path, weights_only=True)
    first = state.pop("features.0.weight")
    if change == "another shape":
        state["features.0.weight"] = first[:, :, 1:]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other.pth holds no weights of LPIPS's backbone"):
        Lpips(net, weights=tmp_path / "other.pth")


def test_missing_weights(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("AGEHPC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"alexnet are missing.*--prefetch alexnet"):
        Lpips()
