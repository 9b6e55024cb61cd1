"""Recipes for clips: 3D convolutions over frames, height and width."""

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


def video_age_demo() -> Config:
    """Auto GAN Encoder on the real demo clips: two CPU ranks under ZeRO 2, some minutes.

    agehpc data demo shards/demo
    python -m torch.distributed.run --nproc-per-node 2 -m agehpc train video_age_demo \\
        --data.shards shards/demo --out runs/demo

    Measured: 7 minutes on 2 CPU cores (its limit; 6.2 kimg). Eight segments of two films teach no
    more than those films: the held-out third one scores 12.5 dB.
    """
    network = NetworkConfig(width=16, max_width=128, kernel=3, norm="sync_batch")
    return Config(
        run=RunConfig(recipe="video_age_demo"),
        data=DataConfig(kind="video", size=64, frames=16, shift=2, colour=0.05),
        system=AgeSystem(
            reconstruction_weight=12.0,
            squared_weight=28.0,
            latent_noise=0.2,
            warmup_kimg=2.0,
            adversarial_ramp_kimg=1.0,
            adversarial_weight=0.25,
        ),
        model=ModelConfig(
            latent=32,
            encoder=network,
            generator=network.model_copy(update={"slope": 0.0}),
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(),
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=1e-3),
                zero=ZeroConfig(stage=2),
                ema=EmaConfig(half_life_kimg=0.5, ramp_up=0.15),
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4), zero=ZeroConfig(stage=2)),
        },
        train=TrainConfig(kimg=8.0, max_minutes=7.0, global_batch=8, save_every_kimg=4.0),
        evaluate=EvaluateConfig(samples=32),
        observe=ObserveConfig(tick_kimg=0.25, samples_every_kimg=4.0, grid=4),
        cluster=ClusterConfig(device="cpu", threads=1),
    )


def video_age_64() -> Config:
    """Auto GAN Encoder on clips of 16 frames of 64 x 64, one machine with or without a GPU.

    agehpc data pack actions64.tar shards/actions --group-by '(p[0-9]+)_' \\
        --validation-fraction 0.25
    agehpc train video_age_64 --data.shards shards/actions --out runs/actions \\
        --train.max-minutes 10
    agehpc reconstruct runs/actions

    Measured in 10 minutes on 2 CPU cores without a GPU, one process of 2 threads, on a machine
    that did other work beside (reconstruction PSNR on held-out clips against the mean of the
    training clips):

    - 56 clips of 7 people, 2 of them held out: 22.7 dB against 20.2 dB after 15.5 kimg. Samples
      are people who move, with a grid pattern on arms and hands.
    - 2,000 clips of a coloured shape over black, 200 held out: 25.5 dB against 22.2 dB after 10.5
      kimg. Samples are moving coloured blobs, some of them two at once.

    On an H100: the shapes in 4.4 minutes to 27.8 dB after 70 kimg, frechet_lite0_frames of 200
    samples against 200 held-out clips from 431 (6 kimg) to 212; the people's 40 clips, in 3 minutes
    with two others beside, to 22.7 dB after 32 kimg, frechet_lite0_frames of 40 samples against the
    clips least, 1100, at 15 kimg.
    """
    network = NetworkConfig(width=16, max_width=128, kernel=3)
    return Config(
        run=RunConfig(recipe="video_age_64"),
        data=DataConfig(kind="video", size=64, frames=16, shift=2, colour=0.05, workers=1),
        system=AgeSystem(
            reconstruction_weight=12.0,
            squared_weight=28.0,
            latent_noise=0.2,
            # Figures form before D has a say, and R1 holds it back: it wins at once otherwise.
            warmup_kimg=3.0,
            adversarial_ramp_kimg=2.0,
            adversarial_weight=0.25,
            r1_gamma=2.0,
            r1_every=8,
        ),
        model=ModelConfig(
            # A few dozen clips do not fill a prior of 128 dimensions: samples fell to pieces.
            latent=32,
            encoder=network,
            generator=network.model_copy(update={"slope": 0.0}),
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(),
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=1e-3), ema=EmaConfig(half_life_kimg=1.1, ramp_up=0.15)
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4)),
        },
        train=TrainConfig(kimg=200.0, global_batch=8, save_every_kimg=5.0),
        observe=ObserveConfig(tick_kimg=0.5, samples_every_kimg=5.0, grid=6),
    )


def video_age_a100_4n() -> Config:
    """Auto GAN Encoder on clips of 16 frames of 128 x 128: 4 nodes of 4 A100, bf16, ZeRO 2.

    sbatch --nodes=4 slurm/train_video.sh video_age_a100_4n --data.shards SHARDS --out RUN

    Not measured: written for 16 GPUs with 16 clips each.
    """
    network = NetworkConfig(width=64, max_width=512, norm="sync_batch")
    return Config(
        run=RunConfig(recipe="video_age_a100_4n"),
        data=DataConfig(kind="video", size=128, frames=16, shift=4, colour=0.1, workers=8),
        system=AgeSystem(reconstruction_weight=20.0, adversarial_ramp_kimg=50.0),
        model=ModelConfig(
            latent=512,
            encoder=network,
            generator=network,
            discriminator=network,
            latent_discriminator=LatentNetworkConfig(width=512),
            upsample="resize",
        ),
        players={
            "autoencoder": PlayerConfig(
                optim=OptimConfig(lr=4e-4),
                zero=ZeroConfig(stage=2),
                ema=EmaConfig(half_life_kimg=10.0),
            ),
            "critics": PlayerConfig(optim=OptimConfig(lr=2e-4)),
        },
        train=TrainConfig(
            kimg=10_000.0, global_batch=256, precision="bf16", save_every_kimg=250.0, keep_last=3
        ),
        evaluate=EvaluateConfig(every_kimg=250.0, samples=1024),
        observe=ObserveConfig(tick_kimg=16.0, samples_every_kimg=250.0),
        cluster=ClusterConfig(device="cuda"),
    )
