"""Recipes for GANs of 64 x 64 images and clips, and for what is translated."""

from agehpc.config.schema import (
    Config,
    DataConfig,
    EmaConfig,
    EvaluateConfig,
    ModelConfig,
    NetworkConfig,
    ObserveConfig,
    OptimConfig,
    PatchConfig,
    PlayerConfig,
    ResnetConfig,
    RunConfig,
    TrainConfig,
    UnetConfig,
)
from agehpc.config.systems import CycleganSystem, GanSystem, Pix2pixSystem, WganSystem

_IMAGES = DataConfig(kind="image", size=64, frames=1)
_CLIPS = DataConfig(kind="video", size=64, frames=16, workers=1)


def _player(lr: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999)) -> PlayerConfig:
    return PlayerConfig(optim=OptimConfig(lr=lr, betas=betas))


def _generator(lr: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999)) -> PlayerConfig:
    ema = EmaConfig(half_life_kimg=4.0, ramp_up=0.15)
    return PlayerConfig(optim=OptimConfig(lr=lr, betas=betas), ema=ema)


def dcgan_64() -> Config:
    """DCGAN of 64 x 64 images: 4 x 4 convolutions, BatchNorm, ReLU in G, LeakyReLU in D.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train dcgan_64 --data.shards shards/faces --out runs/dcgan --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on 2 CPU cores (42 kimg, one process of 2 threads):
    faces, some of them distorted; frechet_lite0 248 between 2,500 samples and 2,500 held-out faces,
    where as many training faces have 21. In 3 minutes on an H100 that trained two others beside
    (388 kimg): 64 of 1,500 against 1,500 unseen faces, from which others are 30 away.
    """
    return Config(
        run=RunConfig(recipe="dcgan_64"),
        data=_IMAGES,
        system=GanSystem(),
        model=ModelConfig(
            latent=100,
            generator=NetworkConfig(width=64, slope=0.0),
            discriminator=NetworkConfig(width=64),
        ),
        players={"generator": _generator(), "discriminator": _player()},
        train=TrainConfig(kimg=1000.0, global_batch=64, save_every_kimg=20.0),
        observe=ObserveConfig(tick_kimg=2.0, samples_every_kimg=20.0),
    )


def conditional_gan_64() -> Config:
    """DCGAN of 64 x 64 images by class: conditional norm in G, projection in a spectral D.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train conditional_gan_64 --data.shards shards/faces --out runs/conditional \\
        --train.max-minutes 10

    Measured on 7,899 grey faces of two classes in 10 minutes on one CPU core: rough faces;
    frechet_lite0 185 between 2,500 samples and 2,500 held-out faces (training faces 21).
    """
    return Config(
        run=RunConfig(recipe="conditional_gan_64"),
        data=_IMAGES,
        system=GanSystem(adversarial="hinge", augment=("colour", "translation")),
        model=ModelConfig(
            latent=100,
            conditional=True,
            generator=NetworkConfig(width=32, max_width=256, slope=0.0),
            discriminator=NetworkConfig(width=32, max_width=256, norm="none", spectral=True),
        ),
        players={"generator": _generator(), "discriminator": _player(4e-4)},
        train=TrainConfig(kimg=1000.0, global_batch=32, save_every_kimg=20.0),
        observe=ObserveConfig(tick_kimg=2.0, samples_every_kimg=20.0),
    )


def video_gan_64() -> Config:
    """The DCGAN in 3D: clips of 16 frames from 100 latents by 4 x 4 x 4 convolutions.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_gan_64 --data.shards shards/actions --out runs/video_gan \\
        --train.max-minutes 10

    Its full width learns nothing in ten minutes on a CPU (122 turns in 7 minutes). With a quarter
    of it (--model.generator.width 16 --model.generator.max-width 128, and so the discriminator's),
    6 minutes on one CPU core (5.8 kimg) on 40 clips of 5 people gave blurred dark figures that move
    before a wall, under a grid pattern.
    """
    return Config(
        run=RunConfig(recipe="video_gan_64"),
        data=_CLIPS,
        system=GanSystem(),
        model=ModelConfig(
            latent=100,
            base_frames=1,
            generator=NetworkConfig(width=64, slope=0.0),
            discriminator=NetworkConfig(width=64),
        ),
        players={"generator": _generator(), "discriminator": _player()},
        train=TrainConfig(kimg=200.0, global_batch=8, save_every_kimg=5.0),
        observe=ObserveConfig(tick_kimg=0.5, samples_every_kimg=5.0, grid=6),
    )


def wgan_gp_64() -> Config:
    """Wasserstein GAN of 64 x 64 images with gradient penalty: five critic turns a step.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train wgan_gp_64 --data.shards shards/faces --out runs/wgan --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on one CPU core (21 kimg, 1,286 turns of G): the
    outlines of faces; frechet_lite0 574 between 2,500 samples and 2,500 held-out faces (training
    faces 21).
    """
    return Config(
        run=RunConfig(recipe="wgan_gp_64"),
        data=_IMAGES,
        system=WganSystem(),
        model=ModelConfig(
            latent=100,
            generator=NetworkConfig(width=16, max_width=128, slope=0.0),
            discriminator=NetworkConfig(width=16, max_width=128, norm="none"),
        ),
        players={
            "generator": _generator(2e-4, (0.0, 0.9)),
            "critic": _player(2e-4, (0.0, 0.9)),
        },
        train=TrainConfig(kimg=1000.0, global_batch=16, save_every_kimg=10.0),
        observe=ObserveConfig(tick_kimg=1.0, samples_every_kimg=10.0),
    )


def wgan_clip_64() -> Config:
    """Wasserstein GAN of 64 x 64 images in its original form: the critic's weights are clipped.

    Adam in place of the paper's RMSProp, without momentum.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train wgan_clip_64 --data.shards shards/faces --out runs/wgan --train.max-minutes 10

    Measured on 7,899 grey faces in 10 minutes on one CPU core (31 kimg, 1,915 turns of G): rough
    faces; frechet_lite0 509 (training faces 21).
    """
    config = wgan_gp_64()
    settings = WganSystem(gradient_penalty=0.0, weight_clip=0.01)
    critic = NetworkConfig(width=16, max_width=128)
    return config.model_copy(
        update={
            "run": RunConfig(recipe="wgan_clip_64"),
            "system": settings,
            "model": config.model.model_copy(update={"discriminator": critic}),
        }
    )


def video_wgan_64() -> Config:
    """Wasserstein GAN of clips with gradient penalty: 3D convolutions.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_wgan_64 --data.shards shards/actions --out runs/video_wgan \\
        --train.max-minutes 10

    Measured on 40 clips of 5 people in 7 minutes on one CPU core (2.4 kimg, 303 turns of G): dark
    figures before a wall, blurred and noisy.
    """
    return Config(
        run=RunConfig(recipe="video_wgan_64"),
        data=_CLIPS,
        system=WganSystem(n_critic=2),
        model=ModelConfig(
            latent=64,
            generator=NetworkConfig(width=16, max_width=128, slope=0.0),
            discriminator=NetworkConfig(width=16, max_width=128, kernel=3, norm="none"),
        ),
        players={
            "generator": _generator(2e-4, (0.0, 0.9)),
            "critic": _player(2e-4, (0.0, 0.9)),
        },
        train=TrainConfig(kimg=200.0, global_batch=8, save_every_kimg=2.0),
        observe=ObserveConfig(tick_kimg=0.25, samples_every_kimg=2.0, grid=6),
    )


def pix2pix_64() -> Config:
    """Paired translation at 64 x 64: edges, grey or half a pair to the whole image.

    agehpc data pack faces64.tar shards/edges --pairs edges --validation-fraction 0.25
    agehpc train pix2pix_64 --data.shards shards/edges --out runs/pix2pix --train.max-minutes 10
    agehpc transfer runs/pix2pix

    Measured on 7,899 faces from their edges in 6 minutes on one CPU core (5.7 kimg): 18.5 dB to the
    target on 256 held-out faces; features right, shading guessed.
    """
    return Config(
        run=RunConfig(recipe="pix2pix_64"),
        data=_IMAGES.model_copy(update={"pairing": "paired"}),
        system=Pix2pixSystem(),
        model=ModelConfig(
            translator=UnetConfig(width=32, max_width=256),
            discriminator=PatchConfig(width=32, layers=2),
        ),
        players={"generator": _generator(), "discriminator": _player()},
        train=TrainConfig(kimg=200.0, global_batch=8, save_every_kimg=5.0),
        observe=ObserveConfig(tick_kimg=0.5, samples_every_kimg=5.0),
    )


def cyclegan_64() -> Config:
    """Unpaired translation at 64 x 64 between two classes of the shards.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train cyclegan_64 --data.shards shards/faces --out runs/cyclegan \\
        --train.max-minutes 60
    agehpc transfer runs/cyclegan --to smile
    python benchmarks/translation.py runs/cyclegan

    Measured on 7,899 grey faces, neutral and smile, in 60 minutes on one CPU core (7.7 kimg): a
    classifier of real faces calls 82 % of 1,896 held-out neutral faces smiles once translated
    (10 % before), and 84 % of 737 smiles neutral (11 % before); cycles of 23.7 and 23.5 dB.
    """
    return Config(
        run=RunConfig(recipe="cyclegan_64"),
        data=_IMAGES.model_copy(update={"pairing": "unpaired"}),
        system=CycleganSystem(),
        model=ModelConfig(
            translator=ResnetConfig(width=24, blocks=4),
            discriminator=PatchConfig(width=32, layers=3, norm="instance"),
        ),
        players={"generators": _generator(), "discriminators": _player()},
        train=TrainConfig(kimg=200.0, global_batch=1, save_every_kimg=2.0),
        evaluate=EvaluateConfig(samples=128),
        observe=ObserveConfig(tick_kimg=0.2, samples_every_kimg=2.0),
    )
