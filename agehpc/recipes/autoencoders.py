"""Recipes for convolutional autoencoders of 64 x 64 images and clips: plain, denoising, VAE."""

from agehpc.config.schema import (
    Config,
    DataConfig,
    EmaConfig,
    EvaluateConfig,
    ModelConfig,
    NetworkConfig,
    ObserveConfig,
    OptimConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
    UnetConfig,
)
from agehpc.config.systems import AutoencoderSystem, DenoisingSystem, SystemConfig, VaeSystem


def _player(lr: float) -> dict[str, PlayerConfig]:
    ema = EmaConfig(half_life_kimg=2.0, ramp_up=0.15)
    optim = OptimConfig(lr=lr, betas=(0.9, 0.999))
    return {"autoencoder": PlayerConfig(optim=optim, ema=ema)}


def _images(recipe: str, system: SystemConfig, model: ModelConfig) -> Config:
    return Config(
        run=RunConfig(recipe=recipe),
        data=DataConfig(kind="image", size=64, frames=1),
        system=system,
        model=model,
        players=_player(1e-3),
        train=TrainConfig(kimg=1000.0, global_batch=32, save_every_kimg=20.0),
        observe=ObserveConfig(tick_kimg=2.0, samples_every_kimg=20.0),
    )


def _clips(recipe: str, system: SystemConfig, model: ModelConfig) -> Config:
    return Config(
        run=RunConfig(recipe=recipe),
        data=DataConfig(kind="video", size=64, frames=16, shift=2, colour=0.05, workers=1),
        system=system,
        model=model,
        players=_player(1e-3),
        train=TrainConfig(kimg=200.0, global_batch=8, save_every_kimg=5.0),
        evaluate=EvaluateConfig(samples=64),
        observe=ObserveConfig(tick_kimg=0.5, samples_every_kimg=5.0, grid=6),
    )


_IMAGE = NetworkConfig(width=32, max_width=256)
_CLIP = NetworkConfig(width=16, max_width=128, kernel=3)


def image_autoencoder_64() -> Config:
    """Convolutional autoencoder of 64 x 64 images.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_autoencoder_64 --data.shards shards/faces --out runs/autoencoder \\
        --train.max-minutes 10

    Measured on 7,899 grey faces in 5 minutes on one CPU core (44 kimg): 26.7 dB on 1,024
    held-out faces (mean face 16.4 dB).
    """
    model = ModelConfig(latent=128, encoder=_IMAGE, generator=_IMAGE)
    return _images("image_autoencoder_64", AutoencoderSystem(), model)


def video_autoencoder_64() -> Config:
    """Convolutional autoencoder of clips of 16 frames of 64 x 64: 3D convolutions.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_autoencoder_64 --data.shards shards/actions --out runs/autoencoder \\
        --train.max-minutes 10

    Measured on 40 clips of 5 people in 5 minutes on one CPU core: 23.8 dB on 16 clips of 2 unseen
    people (mean clip 20.2 dB).
    """
    model = ModelConfig(latent=128, encoder=_CLIP, generator=_CLIP)
    return _clips("video_autoencoder_64", AutoencoderSystem(), model)


def superres_64() -> Config:
    """Super-resolution four times by a residual U-Net, against bicubic interpolation.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train superres_64 --data.shards shards/faces --out runs/superres \\
        --train.max-minutes 10

    Measured on 7,899 grey faces in 5 minutes on one CPU core (30 kimg): 30.2 dB on 256 held-out
    faces, where bicubic interpolation has 27.2 dB.
    """
    system = DenoisingSystem(
        corruption="lowres", level=4.0, residual=True, reconstruction="l1", pixels="signed"
    )
    model = ModelConfig(translator=UnetConfig(width=32, max_width=256, norm="none", dropout=0.0))
    return _images("superres_64", system, model)


def video_denoising_64() -> Config:
    """Denoising autoencoder of clips: noise of 0.2 on [0, 1], a 3D U-Net.

    It gives the clean clip, not the noise: what its first stage halves three times, to 16 channels
    from 24 values, can hold a clip but not noise.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_denoising_64 --data.shards shards/actions --out runs/denoising \\
        --train.max-minutes 10

    Measured on 40 clips of 5 people in 5 minutes on one CPU core (5.2 kimg): from 14.3 to 29.3 dB
    on 16 clips of 2 unseen people; a network of the noise reached 18.5 dB.
    """
    system = DenoisingSystem(reconstruction="l1", pixels="signed")
    model = ModelConfig(translator=UnetConfig(width=16, max_width=128, norm="none", dropout=0.0))
    return _clips("video_denoising_64", system, model)


def video_vae_64() -> Config:
    """Variational autoencoder of clips: Gaussian likelihood, 3D convolutions.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_vae_64 --data.shards shards/actions --out runs/vae --train.max-minutes 10

    Measured on 40 clips of 5 people in 5 minutes on one CPU core (6.9 kimg): 23.1 dB on 16 clips of
    2 unseen people (mean clip 20.2 dB). Draws of the prior show the wall alone: between the latents
    of so few clips there is nothing.
    """
    system = VaeSystem(likelihood="gaussian", kl_warmup_kimg=2.0)
    model = ModelConfig(latent=64, encoder=_CLIP, generator=_CLIP)
    return _clips("video_vae_64", system, model)
