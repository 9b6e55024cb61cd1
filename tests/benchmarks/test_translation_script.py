import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import translation
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.shards import read_manifest

OPTIONS = argparse.Namespace(run="run", epochs=3, seed=0, batch=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two domains: noise below and above mid grey, 90 dark and 60 light images."""
    base = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for name, count, low in (("dark", 90, 0), ("light", 60, 128)):
        (base / name).mkdir()
        for number in range(count):
            picture = rng.integers(low, low + 128, (16, 16), np.uint8)
            Image.fromarray(picture).save(base / name / f"{name}{number}.png")
    flags = ["--size", "16", "--image-format", "png", "--validation-fraction", "0.3"]
    words = ["pack", str(base / "dark"), str(base / "light"), str(base / "shards"), *flags]
    assert main(words) == 0
    made = {"kind": "image", "shards": str(base / "shards"), "size": 16, "frames": 1}
    return check(
        DataConfig.model_validate(made | {"pairing": "unpaired"}), read_manifest(base / "shards")
    )


def run_of(data: DataConfig, translate: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(data=data), translate=translate)


def test_a_domain_is_all_of_its_class(data: DataConfig):
    model = run_of(data, None)
    found = {n: translation.domain(model, "validation", n) for n in ("dark", "light")}
    manifest = read_manifest(data.shards)
    assert sum(len(x) for x in found.values()) == manifest.samples("validation")
    assert found["dark"].max() < 128 <= found["light"].min()
    assert len({x.numpy().tobytes() for x in found["dark"]}) == len(found["dark"])


def test_negatives_pass_and_come_back(data: DataConfig):
    told = translation.measure(run_of(data, lambda x, *, to: -x), OPTIONS)
    for source, target in (("dark", "light"), ("light", "dark")):
        figures = told[f"{source} to {target}"]
        assert figures[f"real_called_{target}"] < 0.2
        assert figures[f"translated_called_{target}"] > 0.8
        assert figures["cycle_psnr_db"] == float("inf")


def test_samples_left_as_they_are_do_not_pass(data: DataConfig):
    told = translation.measure(run_of(data, lambda x, *, to: x), OPTIONS)
    for source, target in (("dark", "light"), ("light", "dark")):
        figures = told[f"{source} to {target}"]
        assert figures[f"translated_called_{target}"] == figures[f"real_called_{target}"]


def test_what_a_cycle_loses_is_measured(data: DataConfig):
    model = run_of(data, lambda x, *, to: x * (0.9 if to == "dark" else 1.0))
    dark = translation.domain(model, "validation", "dark").double() / 127.5 - 1
    error = (0.1 * dark * 127.5).square().mean((1, 2, 3))
    expected = (10 * torch.log10(255**2 / error)).mean()
    told = translation.measure(model, OPTIONS)["dark to light"]
    assert told["cycle_psnr_db"] == pytest.approx(float(expected), abs=0.1)


def test_a_missing_run_is_an_error(tmp_path: Path, capsys):
    assert translation.main([str(tmp_path / "none")]) != 0
    assert capsys.readouterr().err.startswith("error: ")
