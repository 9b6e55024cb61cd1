"""Recipes for the variants of the A.G.E.: other encoders, judges, priors, and classes."""

from agehpc.config.schema import (
    Config,
    EmaConfig,
    ModelConfig,
    NetworkConfig,
    OptimConfig,
    PlayerConfig,
    RunConfig,
)
from agehpc.config.systems import AgeMomentsSystem, AgeSystem
from agehpc.recipes.image import image_age_64
from agehpc.recipes.video import video_age_64


def _changed(base: Config, recipe: str, system: AgeSystem, model: ModelConfig) -> Config:
    changes = {"run": RunConfig(recipe=recipe), "system": system, "model": model}
    return base.model_copy(update=changes)


def image_age_vae_64() -> Config:
    """A.G.E. with a VAE encoder (VAE-GAN): the KL in place of the latent discriminator's weight.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_age_vae_64 --data.shards shards/faces --out runs/vaegan \\
        --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on one CPU core (34 kimg): 23.2 dB on 2,500 held-out
    faces (mean face 16.4 dB), frechet_lite0 141 (training faces 21); soft faces.
    """
    base = image_age_64()
    system = AgeSystem(
        encoder="vae",
        squared_weight=5.0,
        kl_weight=0.1,
        latent_adversarial_weight=0.0,
        moment_weight=0.0,
        feature_weight=1.0,
    )
    return _changed(base, "image_age_vae_64", system, base.model)


def image_age_joint_64() -> Config:
    """A.G.E. with a joint discriminator of (x, E(x)) against (G(z), z), as BiGAN and ALI have.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_age_joint_64 --data.shards shards/faces --out runs/joint \\
        --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on one CPU core (28 kimg): 22.6 dB on 2,500 held-out
    faces (mean face 16.4 dB), frechet_lite0 186 (training faces 21).
    """
    base = image_age_64()
    model = base.model.model_copy(update={"latent_discriminator": None})
    system = AgeSystem(joint=True, squared_weight=5.0)
    return _changed(base, "image_age_joint_64", system, model)


def image_age_conditional_64() -> Config:
    """A.G.E. by class: conditional norm in G, projection in D.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_age_conditional_64 --data.shards shards/faces --out runs/conditional \\
        --train.max-minutes 10

    Measured on 7,899 grey faces of two classes in 10 minutes on one CPU core (27 kimg): 22.1 dB on
    2,500 held-out faces (mean face 16.4 dB), frechet_lite0 361 (training faces 21): the samples are
    faces under a grid pattern, which a longer training has to remove.
    """
    base = image_age_64()
    model = base.model.model_copy(update={"conditional": True})
    assert isinstance(base.system, AgeSystem)
    return _changed(base, "image_age_conditional_64", base.system, model)


def image_age_moments_64() -> Config:
    """A.G.E. of 2017: encoder and generator play on the moments of latents, no discriminator.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_age_moments_64 --data.shards shards/faces --out runs/moments \\
        --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on one CPU core (62 kimg): 18.9 dB on 256 held-out
    faces (mean face 16.4 dB); samples are textures that resemble faces.
    """
    base = image_age_64()
    network = NetworkConfig(width=32, max_width=256)
    return base.model_copy(
        update={
            "run": RunConfig(recipe="image_age_moments_64"),
            "system": AgeMomentsSystem(),
            "model": ModelConfig(
                latent=64,
                prior="sphere",
                encoder=network,
                generator=network.model_copy(update={"slope": 0.0}),
            ),
            "players": {
                name: PlayerConfig(
                    optim=OptimConfig(lr=2e-4), ema=EmaConfig(half_life_kimg=4.4, ramp_up=0.15)
                )
                for name in ("encoder", "generator")
            },
            "train": base.train.model_copy(update={"global_batch": 64}),
        }
    )


def video_age_conditional_64() -> Config:
    """A.G.E. of clips by class: a shape, or an action, of one's choice.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_age_conditional_64 --data.shards shards/actions --out runs/conditional \\
        --train.max-minutes 10
    agehpc sample runs/conditional

    Measured on 40 clips of 5 people, four actions, in 7 minutes on one CPU core (5.7 kimg): 22.7 dB
    on 16 clips of 2 unseen people (mean clip 20.2 dB); samples are blurred people who move.
    """
    base = video_age_64()
    model = base.model.model_copy(update={"conditional": True})
    assert isinstance(base.system, AgeSystem)
    return _changed(base, "video_age_conditional_64", base.system, model)
