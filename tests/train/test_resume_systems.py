"""Runs of other systems than age, stopped half way and gone on with: what they hold beside weights.

Dropout, spectral vectors, batches that critics alone read, several turns a step, an image pool.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agehpc import checkpoints
from tests.latent.runs import pack_images
from tests.train.runs import Training

BATCH, STEPS = 4, 12
CONV = ("--model.{0}.width", "4", "--model.{0}.max-width", "8")

CASES = {
    "mnist_gan_conv": [
        *("--model.latent", "6", "--model.generator.base-width", "8"),
        *("--model.discriminator.spectral", "true", "--model.discriminator.dropout", "0.3"),
        *("--system.augment", "colour", "cutout", "--system.r1-gamma", "1"),
        *("--system.r1-form", "finite_difference", "--system.r1-every", "3"),
    ],
    "wgan_gp_64": ["--model.latent", "6", "--system.n-critic", "3"],
    "image_age_moments_64": ["--model.latent", "6", "--system.encoder-turns", "2"],
    "cyclegan_64": [
        *("--model.translator.width", "4", "--model.translator.blocks", "1"),
        *("--model.discriminator.width", "4", "--model.discriminator.layers", "1"),
        *("--system.pool", "6"),
    ],
}


def arguments(recipe: str, shards: Path, out: Path, steps: int) -> list[str]:
    networks = {
        "mnist_gan_conv": ("generator", "discriminator"),
        "wgan_gp_64": ("generator", "discriminator"),
        "image_age_moments_64": ("encoder", "generator"),
    }
    widths = [word.format(net) for net in networks.get(recipe, ()) for word in CONV]
    seen = BATCH * (2 if recipe == "image_age_moments_64" else 1)
    return [
        recipe,
        *("--data.shards", str(shards), "--out", str(out), "--data.size", "16"),
        *("--train.global-batch", str(BATCH), "--train.kimg", str(steps * seen / 1000)),
        *("--train.save-every-kimg", "100", "--observe.tensorboard", "false"),
        *("--observe.samples-every-kimg", "100", "--observe.tick-kimg", "100"),
        *("--observe.grid", "2", "--evaluate.samples", "4", "--cluster.threads", "1"),
        *widths,
        *CASES[recipe],
    ]


def run(words: list[str], log: Path) -> None:
    ended = Training(words, log).end()
    assert ended.codes == [0], ended.output


# By default the one whose system has a state of its own, and one with several turns a step.
@pytest.mark.parametrize(
    "recipe",
    [
        name
        if name in ("cyclegan_64", "wgan_gp_64")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_a_run_in_two_halves_ends_as_in_one(recipe: str, tmp_path: Path):
    shards = pack_images(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    run(arguments(recipe, shards, one, STEPS), tmp_path / "one.log")
    for half in (STEPS // 2, STEPS):
        run(arguments(recipe, shards, two, half), tmp_path / f"two-{half}.log")
    ends = [checkpoints.newest(folder) for folder in (one, two)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].name == ends[1].name == f"step-{STEPS:08d}"
    files = sorted(path.name for path in ends[0].glob("*.safetensors"))
    assert files == sorted(path.name for path in ends[1].glob("*.safetensors"))
    assert ("system.safetensors" in files) == (recipe == "cyclegan_64")
    for name in files:
        wanted, found = load_file(ends[0] / name), load_file(ends[1] / name)
        assert wanted.keys() == found.keys()
        for key, tensor in wanted.items():
            assert torch.equal(tensor, found[key]), f"{name}: {key}"
    assert checkpoints.read_state(ends[0]) == checkpoints.read_state(ends[1])
