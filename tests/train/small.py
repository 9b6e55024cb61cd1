"""Trainings on pictures of 16 pixels that take a second: their flags."""

from pathlib import Path

BATCH = 4
WIDTHS = [
    word
    for name in ("encoder", "generator", "discriminator")
    for word in (f"--model.{name}.width=4", f"--model.{name}.max-width=8")
]


def kimg(steps: int) -> str:
    """Thousands of samples in so many steps."""
    return str(steps * BATCH / 1000)


def flags(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    """Arguments of `agehpc train`: a tick every 2 steps, a checkpoint every 4, no pictures."""
    return [
        *("image_age_demo", "--data.shards", str(shards), "--out", str(out), "--data.size", "16"),
        *("--model.latent", "6", *WIDTHS, "--cluster.threads", "1"),
        *("--train.global-batch", str(BATCH), "--train.kimg", kimg(steps)),
        *("--train.max-minutes", "none", "--train.save-every-kimg", kimg(4)),
        *("--observe.tick-kimg", kimg(2), "--observe.samples-every-kimg", "100"),
        *("--observe.grid", "2", "--observe.tensorboard", "false", "--evaluate.samples", "4"),
        *more,
    ]
