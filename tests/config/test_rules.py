"""Bad configurations: one clear error each, which names the flag."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from agehpc.config.load import resolve
from agehpc.config.rules import check_labels
from agehpc.config.run_files import write_run_config
from agehpc.config.schema import Config, ModelConfig, PlayerConfig
from agehpc.config.systems import AgeMomentsSystem
from agehpc.errors import ConfigError, RunError
from agehpc.recipes import RECIPES
from agehpc.train import run_directory

REFUSED = [
    ("pix2pix_64", "data.pairing=none", "set --data.pairing paired"),
    ("pix2pix_64", "data.pairing=unpaired", "set --data.pairing paired"),
    ("cyclegan_64", "data.pairing=paired", "set --data.pairing unpaired"),
    ("dcgan_64", "data.pairing=paired", "set --data.pairing none"),
    ("dcgan_64", "data.domains=a b", "set --data.pairing unpaired"),
    (
        "dcgan_64",
        "system.adversarial=hinge system.label_smoothing=0.1",
        "--system.label-smoothing 0.1 has no target to smooth in the loss hinge",
    ),
    ("wgan_gp_64", "system.label_smoothing=0.1", "in the loss wasserstein; set it to 0"),
    ("dcgan_64", "system.gradient_penalty=10", "its norm is batch; set --model.discriminator.norm"),
    ("pix2pix_64", "system.gradient_penalty=10", "set --model.discriminator.norm none"),
    ("image_age_64", "system.gradient_penalty=10", "set --model.discriminator.norm none"),
    ("wgan_clip_64", "system.gradient_penalty=1", "set --model.discriminator.norm none"),
    (
        "wgan_gp_64",
        "model.discriminator.norm=sync_batch",
        "its norm is sync_batch; set --model.discriminator.norm none, group or instance",
    ),
    ("wgan_gp_64", "system.gradient_penalty=0", "nothing bounds the critic's slope: set --system"),
    ("wgan_gp_64", "system.adversarial=hinge", "--system.adversarial: got 'hinge'"),
    ("image_autoencoder_64", "system.reconstruction=bce", "needs --model.output sigmoid: got tanh"),
    ("mnist_vae", "model.output=tanh", "needs --model.output sigmoid: got tanh"),
    ("mnist_denoising", "model.output=tanh", "needs --model.output sigmoid: got tanh"),
    ("superres_64", "system.level=3", "--system.level 3 is the factor .* use 2 or 4"),
    ("superres_64", "system.level=0.2", "--system.level 0.2 is the factor .* use 2 or 4"),
    ("superres_64", "data.size=30", "--data.size 30 does not divide by 4, .* use 28 or 32"),
    (
        "mnist_denoising",
        "system.corruption=masking system.level=2",
        "--system.level 2 is a share for corruption masking",
    ),
    ("mnist_denoising", "system.residual=true", "--system.residual true adds to pixels"),
    ("mnist_vae", "model.prior=uniform", "--model.prior is uniform; use gaussian"),
    ("mnist_vae", "model.prior=mixture", "--model.prior is mixture; use gaussian"),
    ("mnist_vae", "model.latent_activation=relu", "--model.latent-activation relu keeps"),
    ("image_age_64", "model.latent_activation=relu", "--model.latent-activation relu keeps"),
    ("image_age_moments_64", "model.latent_activation=relu", "--model.latent-activation relu"),
    ("image_age_moments_64", "model.prior=uniform", "--model.prior uniform has the variance 1/3"),
    ("image_age_64", "system.kl_weight=1", "set --system.encoder vae, or the weight to 0"),
    ("image_age_vae_64", "model.prior=sphere", "--system.kl-weight 0.1 pulls the latents to N"),
    (
        "mnist_autoencoder_deep",
        "model.generator.norm=batch model.generator.normed=2",
        "--model.generator.normed 2 puts a norm behind the last activation",
    ),
    ("cyclegan_64", "model.conditional=true", "system cyclegan does not generate by class"),
    ("pix2pix_64", "model.conditional=true", "set --model.conditional false"),
    ("mnist_denoising", "model.conditional=true", "set --model.conditional false"),
    ("image_age_moments_64", "model.conditional=true", "set --model.conditional false"),
    (
        "wgan_gp_64",
        "model.conditional=true model.generator.norm=none",
        "set --model.generator.norm batch or --model.conditional false",
    ),
    (
        "mnist_denoising",
        "system.corruption=masking system.level=0.017",
        "it hides no pixel; use 0.036",
    ),
    ("image_age_64", "system.joint=true", "use recipe image_age_joint_64"),
    ("pix2pix_64", "model.latent=64", "--model.latent 64 has no effect with system pix2pix"),
    ("superres_64", "model.latent=64", "no effect with system denoising: its network has no lat"),
    ("superres_64", "model.prior=sphere", "--model.prior sphere has no effect"),
    ("cyclegan_64", "model.prior=sphere", "--model.prior sphere has no effect"),
    ("mnist_autoencoder", "model.prior=uniform", "--model.prior uniform has no effect"),
    ("dcgan_64", "model.latent_activation=relu", "no effect with system gan: it has no encoder"),
    ("mnist_vae", "system.sigma=0.2", "--system.sigma 0.2 has no effect with system vae"),
    (
        "mnist_autoencoder",
        "system.reconstruction=bce system.pixels=signed",
        "--system.pixels signed has no effect with system autoencoder: bce scores",
    ),
    (
        "image_age_joint_64",
        "system.latent_adversarial_weight=2",
        "--system.latent-adversarial-weight 2.0 has no effect with system age: a joint",
    ),
    ("dcgan_64", "system.augment=sepia", "--system.augment: got 'sepia'"),
    ("dcgan_64", "system.r1_gamma=-1", "--system.r1-gamma: got '-1'"),
    ("dcgan_64", "system.label_smoothing=1", "--system.label-smoothing: got '1'"),
    ("cyclegan_64", "system.pool=-1", "--system.pool: got '-1'"),
    ("wgan_gp_64", "system.n_critic=0", "--system.n-critic: got '0'"),
    *(
        (recipe, f"players.{player}.zero.stage=3", f"set --players.{player}.zero.stage to 0, 1")
        for recipe, player in (
            ("dcgan_64", "discriminator"),
            ("wgan_gp_64", "critic"),
            ("pix2pix_64", "discriminator"),
            ("cyclegan_64", "discriminators"),
            ("image_age_64", "critics"),
            ("image_age_moments_64", "encoder"),
            ("image_age_moments_64", "generator"),
        )
    ),
]
ACCEPTED = [
    ("cyclegan_64", "system.gradient_penalty=10"),  # its norm is of single samples
    ("dcgan_64", "system.gradient_penalty=10 model.discriminator.norm=group"),
    ("wgan_gp_64", "system.gradient_penalty=0 system.weight_clip=0.01"),
    ("wgan_gp_64", "system.gradient_penalty=0 system.r1_gamma=1"),
    ("dcgan_64", "system.adversarial=lsgan system.label_smoothing=0.1"),
    ("superres_64", "system.level=2 data.size=30"),
    ("mnist_denoising", "system.residual=true system.reconstruction=l1 model.output=tanh"),
    ("image_age_64", "players.autoencoder.zero.stage=3"),
    ("image_age_64", "model.prior=uniform"),
    ("image_age_64", "system.encoder=vae system.kl_weight=1"),
    ("mnist_denoising", "system.corruption=masking system.level=0.02"),
    ("image_age_moments_64", "model.prior=mixture"),
    ("dcgan_64", "model.conditional=true"),
]


def resolved(recipe: str, words: str) -> Config:
    """The configuration of a recipe and flags; several words of a value follow each other."""
    flags: dict[str, tuple[str, ...]] = {}
    last = ""
    for word in words.split():
        if "=" in word:
            last, _, word = word.partition("=")
        flags[last] = (*flags.get(last, ()), word)
    return resolve(recipe, None, flags)[0]


@pytest.mark.parametrize(("recipe", "words", "message"), REFUSED)
def test_refused_with_the_flag_named(recipe: str, words: str, message: str):
    with pytest.raises(ConfigError, match=message) as raised:
        resolved(recipe, words)
    text = str(raised.value)
    assert "--" in text
    assert "\n" not in text
    assert "Value error" not in text  # pydantic's own words stay inside
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(("recipe", "words"), ACCEPTED)
def test_accepted(recipe: str, words: str):
    config = resolved(recipe, words)
    assert config.run.recipe == recipe


@pytest.mark.parametrize(
    "players", [(), ("generator",), ("generator", "critic"), ("generator", "discriminator", "x")]
)
def test_wrong_players(players: tuple[str, ...]):
    values = RECIPES["dcgan_64"]().model_dump()
    values["players"] = {name: PlayerConfig().model_dump() for name in players}
    got = ", ".join(sorted(players)) or "none"
    wanted = f"system gan has the players generator, discriminator; got {got} under players"
    with pytest.raises(ValidationError, match=wanted):
        Config.model_validate(values)


def test_wrong_networks():
    config = RECIPES["dcgan_64"]()
    values = config.model_dump() | {"model": RECIPES["image_age_64"]().model.model_dump()}
    wanted = r"system gan is made of generator\+discriminator; got encoder, generator, discrim"
    with pytest.raises(ValidationError, match=wanted):
        Config.model_validate(values)
    values["model"] = ModelConfig().model_dump()
    with pytest.raises(ValidationError, match="got none under model"):
        Config.model_validate(values)
    joint = RECIPES["image_age_joint_64"]().model_dump()
    joint["model"]["discriminator"] = RECIPES["pix2pix_64"]().model_dump()["model"]["discriminator"]
    with pytest.raises(ValidationError, match="a joint discriminator cannot judge patches"):
        Config.model_validate(joint)


def test_denoising_takes_either_choice_of_networks():
    config = RECIPES["superres_64"]()
    values = config.model_dump()
    values["model"]["encoder"] = RECIPES["image_age_64"]().model_dump()["model"]["encoder"]
    with pytest.raises(ValidationError, match=r"made of encoder\+generator or translator"):
        Config.model_validate(values)


@pytest.mark.parametrize("classes", [None, (), ("one",)])
def test_a_conditional_recipe_needs_labels(classes: tuple[str, ...] | None):
    config = RECIPES["conditional_gan_64"]()
    data = config.data.model_copy(update={"shards": "shards/faces", "classes": classes})
    count = len(classes or ())
    wanted = rf"conditional_gan_64 generates by class, and shards/faces has {count} of them; pack"
    with pytest.raises(ConfigError, match=wanted) as raised:
        check_labels(config.model_copy(update={"data": data}))
    assert "--model.conditional false" in str(raised.value)
    check_labels(RECIPES["dcgan_64"]().model_copy(update={"data": data}))
    enough = data.model_copy(update={"classes": ("a", "b")})
    check_labels(config.model_copy(update={"data": enough}))


def test_a_directory_of_another_recipe_is_refused(tmp_path: Path):
    write_run_config(tmp_path, RECIPES["dcgan_64"]())
    run_directory.check(tmp_path, RECIPES["dcgan_64"]())
    with pytest.raises(RunError, match=r"holds another run: system.name gan -> wgan.*--out"):
        run_directory.check(tmp_path, RECIPES["wgan_gp_64"]())
    with pytest.raises(RunError, match=r"holds another run: .*system.adversarial"):
        run_directory.check(tmp_path, RECIPES["conditional_gan_64"]())
    age = RECIPES["image_age_64"]()
    moments = RECIPES["image_age_moments_64"]()
    assert isinstance(moments.system, AgeMomentsSystem)
    write_run_config(tmp_path, age)
    with pytest.raises(RunError, match=r"system.game discriminators -> moments"):
        run_directory.check(tmp_path, moments)


def test_a_wasserstein_discriminator_is_bounded_and_a_vae_leaves_the_sphere():
    with pytest.raises(ConfigError, match=r"nothing bounds .* --system.gradient-penalty 10"):
        resolve("dcgan_64", None, {"system.adversarial": ("wasserstein",)})
    wasserstein = {"system.adversarial": ("wasserstein",)}
    resolve("dcgan_64", None, wasserstein | {"model.discriminator.spectral": ("true",)})
    with pytest.raises(ConfigError, match="off the sphere"):
        resolve(
            "image_age_vae_64",
            None,
            {"model.prior": ("sphere",), "system.kl_weight": ("0",)},
        )
