"""`agehpc evaluate --real A --fake B` against torch-fidelity and torchmetrics.

Pictures in two folders and a file of weights are given to all three: what is compared is the whole
way from the files to the figures.
"""

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import calculate_metrics
from torch_fidelity.defaults import DEFAULTS
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from agehpc import cli
from agehpc.evaluate import check, measure
from agehpc.evaluate.features.base import build
from agehpc.evaluate.features.inception import Inception
from agehpc.evaluate.protocols import PROTOCOLS
from agehpc.evaluate.sources import of_folder
from tests.evaluate.sets import blurred, opened, save, some_digits, write_faces

pytestmark = pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features")

Outputs = dict[str, Tensor]


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inception computes the outputs of a picture once: torchmetrics is given the same ones."""
    known: dict[bytes, Outputs] = {}
    compute = Inception.outputs

    def outputs(self: Inception, x_BCHW: Tensor) -> Outputs:
        keys = [x.numpy().tobytes() for x in x_BCHW]
        if not known.keys() >= set(keys):
            made = compute(self, x_BCHW)
            for i, key in enumerate(keys):
                known[key] = {name: rows[i] for name, rows in made.items()}
        return {name: torch.stack([known[key][name] for key in keys]) for name in self.sizes}

    monkeypatch.setattr(Inception, "outputs", outputs)


class Output(nn.Module):
    """One output of Inception, as torchmetrics takes a network."""

    def __init__(self, name: str, weights: Path) -> None:
        super().__init__()
        self.name = name
        self.extractor = build("inception", "cpu", weights)
        self.num_features = self.extractor.sizes[name]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.extractor(x_BCHW)[self.name].double()  # a score of 1.0002 is rounded else


def by_command(
    capsys: pytest.CaptureFixture[str], real: Path, fake: Path, metrics: list[str], weights: str
) -> dict[str, Any]:
    words = ["--real", str(real), "--fake", str(fake), "--metrics", *metrics, "--batch", "16"]
    capsys.readouterr()
    assert cli.main(["evaluate", *words, "--weights", weights, "--fresh", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {row["metric"]: row for row in rows}


def by_torch_fidelity(real: Path, fake: Path, weights: Path, **options: Any) -> dict[str, float]:
    given: dict[str, Any] = {"cuda": False, "batch_size": 8, "verbose": False, "cache": False}
    given |= {"save_cpu_ram": True}  # the pictures are read in this process
    path = str(weights)
    return calculate_metrics(
        input1=str(fake),
        input2=str(real),
        feature_extractor_weights_path=path,
        **given,
        **options,
    )


def in_torch_fidelitys_order(seed: int = 2020) -> Callable[[int], Tensor]:
    draws = np.random.RandomState(seed)
    return lambda count: torch.from_numpy(draws.permutation(count))


def pixels(folder: Path) -> Tensor:
    source = of_folder(folder)
    return torch.stack(source.read(range(source.count)))


def check_inception(
    real: Path,
    fake: Path,
    weights: Path,
    kid: dict[str, int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check FID, KID and IS by the command against both peers; `kid` are `subsets` and `size`."""
    metrics = ["fid", "kid", "inception_score"]
    found = by_command(capsys, real, fake, metrics, f"inception={weights}")
    fid, score = found["fid"]["value"], found["inception_score"]["value"]
    of_kid = found["kid"]["value"], found["kid"]["std"]
    # Random weights tell classes apart little: what is compared is what they add to 1.
    assert score > 1 + 1e-4
    options = {"kid_subsets": kid["subsets"], "kid_subset_size": kid["size"]}
    theirs = by_torch_fidelity(real, fake, weights, isc=True, fid=True, kid=True, **options)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    names = [f"kernel_inception_distance_{name}" for name in ("mean", "std")]
    assert of_kid == pytest.approx([theirs[name] for name in names], rel=1e-3)
    assert score - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-3)
    deviation = found["inception_score"]["std"]
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-3)

    features, logits = (Output(name, weights) for name in Inception.sizes)
    x_real, x_fake = pixels(real), pixels(fake)
    by_fid = FrechetInceptionDistance(features)
    by_kid = KernelInceptionDistance(features, kid["subsets"], kid["size"])
    for metric in (by_fid, by_kid):
        metric.update(x_real, real=metric is by_fid)
        metric.update(x_fake, real=metric is by_kid)  # whose subsets torch-fidelity draws first
    assert fid == pytest.approx(float(by_fid.compute()), rel=1e-3)
    monkeypatch.setattr("torch.randperm", in_torch_fidelitys_order())
    assert of_kid == pytest.approx([float(x) for x in by_kid.compute()], rel=1e-3)
    by_score = InceptionScore(logits)
    by_score.update(x_fake)
    monkeypatch.setattr("torch.randperm", in_torch_fidelitys_order())
    mean, _ = by_score.compute()  # its spread is that of a sample
    assert score - 1 == pytest.approx(float(mean) - 1, rel=1e-3)


def test_the_protocols_are_torch_fidelitys_defaults():
    """What the other tests take less of, for time."""
    usual = inspect.signature(measure.kid).parameters
    for name, theirs in (("subsets", "kid_subsets"), ("size", "kid_subset_size")):
        assert usual[name].default == DEFAULTS[theirs]
    assert check.FEWEST["kid"] == DEFAULTS["kid_subset_size"]
    assert PROTOCOLS["precision_recall"].k == DEFAULTS["prc_neighborhood"]
    splits = inspect.signature(measure.inception_score).parameters["splits"]
    assert splits.default == DEFAULTS["isc_splits"]


def draw_subsets(kid: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "kid", partial(measure.kid, **kid))
    monkeypatch.setitem(check.FEWEST, "kid", kid["size"])


@pytest.mark.usefixtures("remembered")
def test_digits_through_inception(
    inception_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    real = save(tmp_path / "real", some_digits(0, 14))
    fake = save(tmp_path / "fake", blurred(some_digits(14, 20), 1))
    kid = {"subsets": 3, "size": 9}
    draw_subsets(kid, monkeypatch)
    check_inception(real, fake, inception_weights, kid, capsys, monkeypatch)


def check_vgg16(real: Path, fake: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = by_command(capsys, real, fake, ["precision_recall"], f"vgg16={weights}")
    theirs = by_torch_fidelity(real, fake, weights, prc=True)
    for name in ("precision", "recall"):
        assert found[name]["value"] == pytest.approx(theirs[name], rel=1e-3)
        assert 0 < found[name]["value"] < 1
    assert found["precision"]["value"] != found["recall"]["value"]


def test_digits_through_vgg16(
    vgg16_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    real = save(tmp_path / "real", some_digits(0, 5))
    fake = save(tmp_path / "fake", blurred(some_digits(5, 6), 0.9))
    check_vgg16(real, fake, vgg16_weights, capsys)


@pytest.fixture(scope="module")
def faces(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Faces as their JPEG files, and others blurred."""
    root = tmp_path_factory.mktemp("faces")
    real, others = (
        write_faces(shared_data, root / name, first, count)
        for name, first, count in (("real", 0, 220), ("others", 220, 200))
    )
    return real, save(root / "fake", blurred(opened(others), 1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("remembered")
def test_faces_through_inception(
    faces: tuple[Path, Path],
    inception_weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    kid = {"subsets": 30, "size": 150}
    draw_subsets(kid, monkeypatch)
    check_inception(*faces, inception_weights, kid, capsys, monkeypatch)


@pytest.mark.slow
def test_faces_through_vgg16(
    faces: tuple[Path, Path],
    vgg16_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    some = [save(tmp_path / part.name, opened(part)[:30]) for part in faces]
    check_vgg16(some[0], some[1], vgg16_weights, capsys)
