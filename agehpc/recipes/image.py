"""Recipes for images: 2D convolutions over height and width."""

from agehpc.config.schema import (
    AgeSystem,
    ClusterConfig,
    Config,
    DataConfig,
    EmaConfig,
    EvaluateConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    ObserveConfig,
    OptimConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
    ZeroConfig,
)


def image_age_demo() -> Config:
    """Auto GAN Encoder on any images at 32 x 32: two CPU ranks under ZeRO 2, a few minutes.

    agehpc data pack IMAGES shards/images --size 32
    torchrun --nproc-per-node 2 -m agehpc train image_age_demo \\
        --data.shards shards/images --out runs/images

    Measured on 4,500 MNIST digits with --train.kimg 16, one process: 34 seconds on 2 CPU cores,
    18.0 dB reconstruction PSNR on 500 held-out digits against 13.0 dB for the mean digit.
    """
    network = NetworkConfig(width=16, max_width=128)
    return Config(
        run=RunConfig(recipe="image_age_demo"),
        # Digits are among the images: a mirrored 3 is none.
        data=DataConfig(kind="image", size=32, frames=1, flip=False),
        system=AgeSystem(reconstruction_weight=20.0),
        model=ModelConfig(
            latent=32,
            encoder=network,
            generator=network,
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(width=128),
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=4e-4),
                zero=ZeroConfig(stage=2),
                ema=EmaConfig(half_life_kimg=2.0),
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4), zero=ZeroConfig(stage=2)),
        },
        train=TrainConfig(kimg=60.0, max_minutes=6.0, global_batch=64, save_every_kimg=20.0),
        evaluate=EvaluateConfig(samples=256),
        observe=ObserveConfig(tick_kimg=2.0, samples_every_kimg=20.0),
        cluster=ClusterConfig(device="cpu", threads=1),
    )


def image_age_64() -> Config:
    """Auto GAN Encoder on images of 64 x 64, one machine with or without a GPU.

    agehpc data pack faces64.tar shards/faces --validation-fraction 0.25
    agehpc train image_age_64 --data.shards shards/faces --out runs/faces --train.max-minutes 10
    python benchmarks/quality.py runs/faces --n 2500

    Measured in 10 minutes on 2 CPU cores without a GPU (58.5 kimg, one process of 2 threads) on
    7,899 grey faces: 23.8 dB reconstruction PSNR on 2,500 held-out faces, against 16.4 dB for the
    mean face; frechet_lite0 104 between 2,500 samples and 2,500 held-out faces, where as many
    training faces have 21. Samples are faces, some of them distorted. In 3 minutes on an H100 that
    trained two others beside (161 kimg): 24.5 dB; frechet_lite0 84 of 1,500 against 1,500 unseen
    faces, from which others are 30 away.
    """
    network = NetworkConfig(width=32, max_width=256)
    return Config(
        run=RunConfig(recipe="image_age_64"),
        data=DataConfig(kind="image", size=64, frames=1),
        system=AgeSystem(reconstruction_weight=20.0, squared_weight=5.0),
        model=ModelConfig(
            latent=128,
            encoder=network,
            generator=network.model_copy(update={"slope": 0.0}),
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(),
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=4e-4), ema=EmaConfig(half_life_kimg=4.4, ramp_up=0.15)
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4)),
        },
        train=TrainConfig(kimg=1000.0, global_batch=32, save_every_kimg=20.0),
        observe=ObserveConfig(tick_kimg=2.0, samples_every_kimg=20.0),
    )


def image_age_a100_4n() -> Config:
    """Auto GAN Encoder on images of 128 x 128: 4 nodes of 4 A100, bf16, ZeRO 2.

    sbatch --nodes=4 slurm/train_image.sh image_age_a100_4n --data.shards SHARDS --out RUN

    Not measured: written for 16 GPUs with 64 images each.
    """
    network = NetworkConfig(width=64, max_width=512, norm="sync_batch")
    return Config(
        run=RunConfig(recipe="image_age_a100_4n"),
        data=DataConfig(kind="image", size=128, frames=1, workers=8),
        system=AgeSystem(reconstruction_weight=20.0),
        model=ModelConfig(
            latent=256,
            encoder=network,
            generator=network,
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(width=512),
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=4e-4),
                zero=ZeroConfig(stage=2),
                ema=EmaConfig(half_life_kimg=20.0),
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4)),
        },
        train=TrainConfig(
            kimg=25_000.0, global_batch=1024, precision="bf16", save_every_kimg=500.0, keep_last=3
        ),
        evaluate=EvaluateConfig(every_kimg=500.0, samples=4096),
        observe=ObserveConfig(tick_kimg=64.0, samples_every_kimg=500.0),
        cluster=ClusterConfig(device="cuda"),
    )
