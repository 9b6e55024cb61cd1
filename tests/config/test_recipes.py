"""Recipes: their names and commands, that they build, and that published ones are as published."""

import itertools
import json

import pytest

from agehpc import cli
from agehpc.config.networks import (
    DenseConfig,
    NetworkConfig,
    PatchConfig,
    ResnetConfig,
    UnetConfig,
)
from agehpc.config.plan import make_plan
from agehpc.config.run_files import read_run_config, write_run_config
from agehpc.config.schema import Config
from agehpc.recipes import RECIPES, summary

CLUSTER = [name for name in RECIPES if "a100" in name]
DEMOS = [name for name in RECIPES if name.endswith("_demo")]
# Of SYSTEMS: a recipe for each system, for clips too where the system has them.
SYSTEMS = {
    "autoencoder": {"image", "video"},
    "denoising": {"image", "video"},
    "vae": {"image", "video"},
    "gan": {"image", "video"},
    "wgan": {"image", "video"},
    "age": {"image", "video"},
    "pix2pix": {"image"},
    "cyclegan": {"image"},
}


def filled(name: str) -> Config:
    """A recipe with what shards would decide: grey digits, coloured else."""
    config = RECIPES[name]()
    grey = config.data.size == 28
    told = {
        "channels": 1 if grey else 3,
        "classes": ("neutral", "smile"),
        "domains": ("neutral", "smile") if config.data.pairing == "unpaired" else None,
        "input_channels": 1 if config.data.pairing == "paired" else None,
        "dataset_id": "d",
    }
    return config.model_copy(update={"data": config.data.model_copy(update=told)})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_knows_its_name_and_command(name: str):
    config = RECIPES[name]()
    assert config.run.recipe == name
    assert summary(name).endswith(".")
    document = RECIPES[name].__doc__ or ""
    words = " ".join(document.replace("\\", " ").split())
    if name in CLUSTER:
        assert f"sbatch --nodes=4 slurm/train_{config.data.kind}.sh {name} " in words
    else:
        assert f"train {name} --data.shards" in words
        assert "agehpc data " in words
    if config.model.conditional:
        assert config.system.conditions


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_name_says_what_it_is(name: str):
    config = RECIPES[name]()
    first, *rest = name.split("_")
    assert (config.data.kind == "video") == (first == "video")
    if first == "image":
        assert config.system.name == rest[0]
    assert (config.data.size == 28) == (first == "mnist")
    for size in ("64", "32", "128"):
        if size in rest:
            assert config.data.size == int(size)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_holds_to_the_rules(name: str, tmp_path):
    """Copies with changes are not validated: this does it, by way of a run directory too."""
    config = RECIPES[name]()
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    write_run_config(tmp_path, filled(name))
    assert read_run_config(tmp_path) == filled(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds(name: str):
    """On the meta device, with the forwards and losses of a whole step."""
    from agehpc.estimate import estimate

    config = filled(name)
    size = estimate(config, make_plan(config, 16 if name in CLUSTER else 1))
    assert list(size.parameters) == list(config.system.players)
    assert all(count > 0 for count in size.parameters.values())
    assert size.activations > 0


def test_every_recipe_is_in_the_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in RECIPES:
        assert name in shown
        assert " ".join(summary(name).split()[:4]) in shown


def test_every_system_has_a_recipe():
    found: dict[str, set[str]] = {}
    for name in RECIPES:
        config = RECIPES[name]()
        found.setdefault(config.system.name, set()).add(config.data.kind)
    assert found == SYSTEMS


@pytest.mark.parametrize("name", DEMOS)
def test_demos_are_two_sharded_cpu_ranks(name: str):
    config = RECIPES[name]()
    assert {player.zero.stage for player in config.players.values()} == {2}
    assert config.cluster.device == "cpu"
    assert config.train.global_batch % 2 == 0


@pytest.mark.parametrize("name", CLUSTER)
def test_cluster_recipes_divide_over_sixteen_ranks(name: str):
    config = RECIPES[name]()
    assert config.train.global_batch % 16 == 0
    assert config.train.precision == "bf16"
    assert isinstance(config.model.generator, NetworkConfig)
    assert config.model.generator.norm == "sync_batch"
    assert config.players["autoencoder"].zero.stage == 2


def parameters(name: str, channels: int) -> dict[str, int]:
    from agehpc.estimate import estimate

    config = filled(name)
    data = config.data.model_copy(update={"channels": channels})
    config = config.model_copy(update={"data": data})
    return estimate(config, make_plan(config, 1)).parameters


@pytest.mark.parametrize(
    ("name", "normed", "norms"),
    [
        ("mnist_gan_dense", (0, 2), 2 * (128 + 784)),
        ("mnist_gan_dense_hidden", (0, 1), 2 * (128 + 256)),
    ],
)
def test_dense_gans_have_their_norms_in_place(name: str, normed: tuple[int, ...], norms: int):
    """Activation before norm; 0.8 in Keras' sense."""
    model = RECIPES[name]().model
    assert model.latent == 100
    assert (model.output, model.prior) == ("tanh", "gaussian")
    g, d = model.generator, model.discriminator
    assert isinstance(g, DenseConfig)
    assert isinstance(d, DenseConfig)
    assert (g.hidden, g.order, g.norm, g.normed) == (
        (128, 256),
        "activation_first",
        "batch",
        normed,
    )
    assert (g.slope, g.momentum) == (0.2, 0.2)
    assert (d.hidden, d.norm, d.slope, d.dropout) == ((512, 256), "none", 0.2, 0.0)
    layers = 101 * 128 + 129 * 256 + 257 * 784
    assert parameters(name, 1) == {"generator": layers + norms, "discriminator": 533_505}


def test_the_convolutional_gan_of_digits():
    """7 x 7 x 256, transposed 5 x 5 to 128, 64 and 1; D 5 x 5 at stride 2, dropout 0.3."""
    model = RECIPES["mnist_gan_conv"]().model
    g, d = model.generator, model.discriminator
    assert isinstance(g, NetworkConfig)
    assert isinstance(d, NetworkConfig)
    assert (g.kernel, d.kernel, d.dropout, d.norm, g.norm) == (5, 5, 0.3, "none", "batch")
    stem, norms = 100 * 7 * 7 * 256, 2 * (256 + 128 + 64)
    convolutions = 25 * (256 * 128 + 128 * 64 + 64 * 1) + 1
    judge = 25 * 1 * 64 + 64 + 25 * 64 * 128 + 128 + 7 * 7 * 128 + 1
    wanted = {"generator": stem + norms + convolutions, "discriminator": judge}
    assert parameters("mnist_gan_conv", 1) == wanted


def test_dcgan_is_the_published_one():
    """PyTorch's DCGAN example has 3,576,704 and 2,765,568 weights, no bias anywhere.

    Here the stem is a dense layer of as many, its norm counts channels alike; biases: the last
    convolution of G, the first of D and the logit.
    """
    assert parameters("dcgan_64", 3) == {
        "generator": 3_576_704 + 3,
        "discriminator": 2_765_568 + 64 + 1,
    }
    config = RECIPES["dcgan_64"]()
    assert isinstance(config.model.generator, NetworkConfig)
    assert config.model.generator.slope == 0.0
    assert {p.optim.lr for p in config.players.values()} == {2e-4}
    assert {p.optim.betas for p in config.players.values()} == {(0.5, 0.999)}


def test_the_3d_twin_starts_from_one_frame():
    """16 frames of 64 x 64 by four doublings from 1 x 4 x 4, 100 latents, 64 channels."""
    from agehpc.models.geometry import geometry

    config = filled("video_gan_64")
    geo = geometry(config)
    assert geo.base == (1, 4, 4)
    assert geo.shapes[0] == (16, 64, 64)
    assert config.model.latent == 100
    widths = (512, 256, 128, 64)
    inside = [64 * a * b for a, b in itertools.pairwise(widths)]
    norms = 2 * sum(widths)
    generator = 100 * 512 * 16 + sum(inside) + 64 * 64 * 3 + 3 + norms
    discriminator = 64 * 3 * 64 + 64 + sum(inside) + (norms - 2 * 64) + 512 * 16 + 1
    wanted = {"generator": generator, "discriminator": discriminator}
    assert parameters("video_gan_64", 3) == wanted


def test_dense_autoencoders_of_digits():
    assert parameters("mnist_autoencoder", 1) == {"autoencoder": 785 * 64 + 65 * 784}
    deep = [784, 128, 64, 32, 64, 128, 784]
    wanted = sum((a + 1) * b for a, b in itertools.pairwise(deep))
    assert parameters("mnist_autoencoder_deep", 1) == {"autoencoder": wanted}
    vae = 785 * 400 + 401 * 40 + 21 * 400 + 401 * 784
    assert parameters("mnist_vae", 1) == {"autoencoder": vae}
    for name in ("mnist_autoencoder", "mnist_autoencoder_deep", "mnist_denoising", "mnist_vae"):
        assert RECIPES[name]().model.output == "sigmoid"


def test_translators_are_of_the_published_kinds():
    pix2pix, cyclegan = RECIPES["pix2pix_64"](), RECIPES["cyclegan_64"]()
    assert isinstance(pix2pix.model.translator, UnetConfig)
    assert isinstance(pix2pix.model.discriminator, PatchConfig)
    assert (pix2pix.data.pairing, cyclegan.data.pairing) == ("paired", "unpaired")
    told = pix2pix.system.model_dump()
    assert (told["reconstruction_weight"], told["adversarial"]) == (100.0, "non_saturating")
    assert pix2pix.model.translator.dropout == 0.5
    assert isinstance(cyclegan.model.translator, ResnetConfig)
    assert isinstance(cyclegan.model.discriminator, PatchConfig)
    assert (cyclegan.model.translator.norm, cyclegan.model.discriminator.norm) == ("instance",) * 2
    told = cyclegan.system.model_dump()
    wanted = {"cycle_weight": 10.0, "identity_weight": 0.5, "pool": 50, "adversarial": "lsgan"}
    assert wanted.items() <= told.items()
    assert cyclegan.train.global_batch == 1


def test_wasserstein_gans_are_bounded_as_published():
    penalty, clip = (RECIPES[n]().system.model_dump() for n in ("wgan_gp_64", "wgan_clip_64"))
    assert (penalty["gradient_penalty"], penalty["weight_clip"], penalty["n_critic"]) == (10, 0, 5)
    assert (clip["gradient_penalty"], clip["weight_clip"], clip["n_critic"]) == (0, 0.01, 5)
    assert RECIPES["wgan_gp_64"]().players["critic"].optim.betas == (0.0, 0.9)
