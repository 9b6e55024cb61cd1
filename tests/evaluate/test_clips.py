"""Clips as the protocols of FVD take them, figures of clips and frames, and what does not suit."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from agehpc import cli
from agehpc.config.schema import DataConfig
from agehpc.data.loader import samples_at
from agehpc.data.shards import read_manifest
from agehpc.errors import DataError, UsageError
from agehpc.evaluate.check import check
from agehpc.evaluate.clips import drawn, made
from agehpc.evaluate.inception_score import inception_score
from agehpc.evaluate.protocols import PROTOCOLS, Clip
from agehpc.evaluate.sources import Source, of_data, open_source
from tests.evaluate.features.test_i3d import Small
from tests.latent.runs import pack_clips


def numbered(path: Path, clips: int, frames: int) -> Path:
    """Clips of 1 pixel whose channels are their number's two digits and the frame's number."""
    x_NTHWC = np.zeros((clips, frames, 1, 1, 3), np.uint8)
    x_NTHWC[..., 0] = (np.arange(clips) // 256)[:, None, None, None]
    x_NTHWC[..., 1] = (np.arange(clips) % 256)[:, None, None, None]
    x_NTHWC[..., 2] = np.arange(frames)[:, None, None]
    np.save(path, x_NTHWC)
    return path


def told(source: Source, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The clips' numbers [N], and their frames' [N, T], of the first ones or all."""
    x_NCT = torch.stack(source.read(range(count or source.count))).flatten(2).numpy().astype(int)
    assert (x_NCT[:, :2] == x_NCT[:, :2, :1]).all()
    return x_NCT[:, 0, 0] * 256 + x_NCT[:, 1, 0], x_NCT[:, 2]


def opened(path: Path, clips: int, frames: int) -> Source:
    return open_source(str(numbered(path, clips, frames)), "train")


@pytest.mark.parametrize(
    ("metric", "frames", "stride", "length"),
    [
        ("fvd2048_16f", 16, 1, 40),
        ("fvd2048_128f", 128, 1, 140),
        ("fvd2048_128f_subsample8f", 16, 8, 130),
    ],
)
def test_real_clips_are_windows_at_random_places(
    tmp_path: Path, metric: str, frames: int, stride: int, length: int
):
    source = drawn(metric, opened(tmp_path / "x.npy", 2100, length))
    assert (source.count, source.frames) == (2048, frames)
    numbers, frames_NT = told(source)
    assert len(set(numbers)) == 2048
    assert numbers[-1] == 2048 * 2100 // 2048 - 2  # over all of them
    assert (np.diff(frames_NT) == stride).all()
    places = length - (frames - 1) * stride  # StyleGAN-V draws among as many
    assert np.bincount(frames_NT[:, 0], minlength=places).min() > 0.5 * 2048 / places
    assert frames_NT.max() == length - 1
    again = drawn(metric, opened(tmp_path / "x.npy", 2100, length))
    assert again.identity == source.identity
    assert all(torch.equal(a, b) for a, b in zip(again.read([7]), source.read([7]), strict=True))


def test_fewer_clips_than_asked_for_are_taken_once(tmp_path: Path):
    source = drawn("fvd2048_16f", opened(tmp_path / "x.npy", 300, 20))
    numbers, _ = told(source)
    assert numbers.tolist() == list(range(300))


def test_trials_draw_anew(tmp_path: Path):
    source = drawn("fvd_digan", opened(tmp_path / "x.npy", 1000, 18))
    assert source.count == 20480
    numbers, frames_NT = told(source, 4096)
    assert (np.diff(frames_NT) == 1).all()
    first, second = numbers[:2048], numbers[2048:4096]
    assert sorted(first[:1000]) == sorted(first[1000:2000]) == list(range(1000))
    assert first.tolist() != second.tolist()
    assert first[:1000].tolist() != first[1000:2000].tolist()
    starts = frames_NT[:2048, 0]
    assert set(starts) == {0, 1, 2}
    assert starts.tolist() != frames_NT[2048:4096, 0].tolist()


def test_generated_clips_begin_at_their_beginning(tmp_path: Path):
    source = made("fvd2048_128f_subsample8f", opened(tmp_path / "x.npy", 2100, 125))
    assert source.count == 2048
    numbers, frames_NT = told(source)
    assert len(set(numbers)) == 2048
    assert (frames_NT == np.arange(0, 121, 8)).all()


def generator(frames: int, strides: tuple[int, ...]) -> Source:
    """What stands for a run."""

    def more(count: int) -> Source:
        def read(numbers: Any) -> list[torch.Tensor]:
            assert isinstance(numbers, range)
            x_T = torch.arange(frames, dtype=torch.uint8)
            return [x_T[None, :, None, None] for _ in numbers]

        return Source("RUN", "video", count, {}, read, frames, strides, more=more)

    return more(5)


def test_a_run_makes_as_many_as_are_wanted():
    source = made("fvd2048_16f", generator(20, (1,)))
    assert source.count == 2048
    (x_CTHW,) = source.read(range(3, 4))
    assert x_CTHW.flatten().tolist() == list(range(16))


def test_a_run_trained_at_a_stride_makes_every_eighth_frame():
    for strides, wanted in (((8,), range(16)), ((4,), range(0, 32, 2))):
        source = made("fvd2048_128f_subsample8f", generator(32, strides))
        (x_CTHW,) = source.read(range(1))
        assert x_CTHW.flatten().tolist() == list(wanted)


@pytest.mark.parametrize(
    ("metric", "run", "message"),
    [
        ("fvd2048_16f", generator(8, (1,)), "16 frames .* have 16 or more, and those of RUN .* 8:"),
        ("fvd2048_128f", generator(16, (1,)), "have 128 or more, and those of RUN have 16"),
        ("fvd2048_128f_subsample8f", generator(16, (1,)), "16 frames at stride 8 .* have 121 or"),
        ("fvd2048_16f", generator(16, (2,)), "RUN was trained with --data.strides 2"),
        ("fvd2048_128f_subsample8f", generator(99, (1, 8)), r"with --data.strides 1 8"),
        ("fvd", generator(8, (1,)), "clips of 9 frames or more, those of RUN have 8: .*lite0_fr"),
        ("fid", generator(16, (1,)), "fid is taken of images: RUN has videos; take fid_frames"),
        ("inception_score_i3d", generator(16, (1,)), "needs 10 samples or more, RUN has 5"),
        ("inception_score_frames", generator(4, (1,)), "needs 10 frames or more, .* 5:"),
        ("kid_frames", generator(16, (1,)), "kid_frames needs 1000 frames or more, RUN has 20"),
    ],
)
def test_what_a_run_cannot_give_is_told(metric: str, run: Source, message: str):
    with pytest.raises(UsageError, match=message):
        check([metric], replace(run, where="RUN"), run)


@pytest.mark.parametrize(
    ("metric", "clips", "frames", "message"),
    [
        ("fvd2048_128f", 30, 127, "128 frames or more, and of the 30 in .* 0 are so long .* 127"),
        ("fvd2048_128f_subsample8f", 30, 127, "128 frames or more"),
        ("fvd2048_16f", 1, 16, "of the 1 in .* 1 are so long"),
    ],
)
def test_real_clips_are_too_short(
    tmp_path: Path, metric: str, clips: int, frames: int, message: str
):
    with pytest.raises(DataError, match=message):
        drawn(metric, opened(tmp_path / "x.npy", clips, frames))


def test_too_few_generated_clips(tmp_path: Path):
    source = opened(tmp_path / "x.npy", 40, 16)
    with pytest.raises(UsageError, match=r"of 2048 generated clips, and .*x\.npy has 40"):
        check(["fvd2048_16f"], source, source)


def test_metrics_of_clips_refuse_images(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.full((20, 8, 8, 3), 9, np.uint8))
    source = open_source(str(tmp_path / "x.npy"), "train")
    for metric, fix in (("fid_frames", "take fid$"), ("fvd", "has images$")):
        with pytest.raises(UsageError, match=f"{metric} is taken of .*{fix}"):
            check([metric], source, source)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_clips(tmp_path_factory.mktemp("clips"))


def test_windows_of_shards(shards: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where a part of the samples is measured otherwise; too short clips do not count."""
    monkeypatch.setitem(PROTOCOLS, "short", replace(PROTOCOLS["fvd"], clip=Clip(3, stride=2)))  # type: ignore[arg-type]
    manifest = read_manifest(shards)
    data = DataConfig(kind="video", shards=str(shards), size=manifest.size, frames=8, channels=3)
    count = manifest.samples("train")
    whole = samples_at(data, split="train", positions=range(count)).pixels
    real = of_data(data, "train")
    source = drawn("short", real.part(2))
    assert source.count == count
    starts = set()
    for x_CTHW, clip_CTHW in zip(source.read(range(count)), whole, strict=True):
        (start,) = [s for s in range(4) if torch.equal(x_CTHW, clip_CTHW[:, s : s + 5 : 2])]
        starts.add(start)
    assert len(starts) > 1 or count < 3
    lengths = [6, *[5] * (count - 1)]
    assert real.videos is not None
    videos = replace(real.videos, lengths=lambda: lengths)
    with pytest.raises(DataError, match=f"of the {count} in .* 1 are so long"):
        drawn("short", replace(real, videos=videos))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that keeps the published one's interface."""
    torch.manual_seed(0)
    small = Small()
    with torch.no_grad():
        small.layer.weight *= 20
    path = tmp_path_factory.mktemp("weights") / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(small), path)
    return path


def features(weights: Path, x_NTHWC: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        network = torch.jit.load(weights)
        x_NCTHW = torch.from_numpy(x_NTHWC).movedim(-1, 1).float()
        return network(x_NCTHW, rescale=True, resize=True, return_features=True).double().numpy()


def distance(x_NF: np.ndarray, y_NF: np.ndarray, ddof: int) -> float:
    x_FF, y_FF = (np.cov(z.T, ddof=ddof) for z in (x_NF, y_NF))
    mean = np.square(x_NF.mean(0) - y_NF.mean(0)).sum()
    return float(mean + np.trace(x_FF + y_FF) - 2 * np.trace(sqrtm(x_FF @ y_FF).real))


def figures(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, words), "--json"]) == 0
    return {row["metric"]: row for row in json.loads(capsys.readouterr().out)}


def test_figures_of_clips_against_another_writing(
    tmp_path: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Real clips of 16 frames leave no choice of a window; of generated ones the first frames."""
    monkeypatch.setenv("AGEHPC_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(0)
    real, fake = (draws.integers(0, 256, (2100, t, 4, 4, 3), dtype=np.uint8) for t in (16, 18))
    fake //= 2
    for name, x in (("real", real), ("fake", fake)):
        np.save(tmp_path / f"{name}.npy", x)
    asked = ["fvd2048_16f", "fvd", "inception_score_i3d", "precision_recall_i3d", "prdc_i3d"]
    words = ["--real", tmp_path / "real.npy", "--fake", tmp_path / "fake.npy", "--n-real", 150]
    words += ["--n-fake", 150, "--metrics", *asked, "--weights", f"i3d={weights}"]
    found = figures(capsys, *words, "--batch", 700)
    chosen = np.arange(2048) * 2100 // 2048
    first, last = features(weights, real[chosen]), features(weights, fake[chosen, :16])
    value = found["fvd2048_16f"]["value"]
    assert value == pytest.approx(distance(first, last, ddof=0), rel=1e-4)
    counts = [(found[m]["n_real"], found[m]["samples"]) for m in ("fvd2048_16f", "fvd")]
    assert counts == [(2048, 2048), (150, 150)]
    assert found["fvd"]["value"] != pytest.approx(value, rel=1e-3)
    score = inception_score(torch.from_numpy(features(weights, fake[np.arange(150) * 14])))
    assert found["inception_score_i3d"]["value"] == pytest.approx(score[0], rel=1e-4)
    assert score[0] > 1.01
    assert {"precision_i3d", "recall_i3d", "prdc_coverage_i3d"} < set(found)
    assert len({row["fingerprint"] for row in found.values()}) == len(asked)
    clip = found["fvd2048_16f"]["protocol"]["clip"]
    assert clip == {"frames": 16, "stride": 1, "samples": 2048, "trials": 1}
    # What was kept of one protocol's real clips is not another's.
    again = figures(capsys, *words, "--batch", 300)
    for name, row in found.items():
        assert again[name]["value"] == pytest.approx(row["value"], rel=1e-4, abs=1e-9), name


def test_the_mean_of_trials(
    tmp_path: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    clip = Clip(16, samples=30, trials=3)
    digan = replace(PROTOCOLS["fvd_digan"], clip=clip)
    monkeypatch.setitem(PROTOCOLS, "fvd_digan", digan)  # type: ignore[arg-type]
    draws = np.random.default_rng(0)
    real, fake = (draws.integers(0, 256, (n, 16, 4, 4, 3), dtype=np.uint8) for n in (30, 90))
    for name, x in (("real", real), ("fake", fake)):
        np.save(tmp_path / f"{name}.npy", x)
    words = ["--real", tmp_path / "real.npy", "--fake", tmp_path / "fake.npy", "--fresh"]
    words += ["--metrics", "fvd_digan", "--weights", f"i3d={weights}"]
    row = figures(capsys, *words)["fvd_digan"]
    # Every trial sees each of the 30 real clips once.
    whole = features(weights, real)
    parts = [features(weights, fake[n : n + 30]) for n in (0, 30, 60)]
    values = [distance(whole, part, ddof=1) for part in parts]
    assert row["value"] == pytest.approx(np.mean(values), rel=1e-3)
    assert row["std"] == pytest.approx(np.std(values), rel=2e-2)


def test_places_that_cannot_be_written_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    draws = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", draws.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "file").touch()
    monkeypatch.setattr("agehpc.evaluate.measure.collect", None)
    words = ["--real", str(tmp_path / "x.npy"), "--fake", str(tmp_path / "x.npy")]
    assert cli.main(["evaluate", *words, "--cache", str(tmp_path / "file" / "kept")]) == 1
    error = capsys.readouterr().err
    assert f"cannot be kept in {tmp_path}/file/kept: {tmp_path}/file is no folder" in error
    run = tmp_path / "run"
    (run / "evaluations.jsonl").mkdir(parents=True)
    assert cli.main(["evaluate", str(run)]) == 1
    error = capsys.readouterr().err
    assert f"{run}/evaluations.jsonl cannot be written, and figures would be lost" in error
