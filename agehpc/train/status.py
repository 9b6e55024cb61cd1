"""A tick as the console shows it."""

from collections.abc import Mapping

from agehpc.observe.console import Status
from agehpc.observe.throughput import Rates
from agehpc.train.guard import GRADIENT
from agehpc.train.progress import Progress

_SHORT = {
    "reconstruction": "rec",
    "adversarial": "adv",
    "latent_adversarial": "lat",
    "latent_cycle": "cyc",
    "discriminator": "D",
    "latent_discriminator": "C",
    "moment": "mom",
    "logit_real": "D(x)",
    "logit_generated": "D(G(z))",
    "features": "feat",
    "squared": "mse",
    "reconstruction_fake": "D(G(E(x)))",
}


def status_of(
    progress: Progress, total_kimg: float, rates: Rates, eta_s: float, figures: Mapping[str, float]
) -> Status:
    """A tick's figures by short names; gradient norms are left to metrics.jsonl."""
    return Status(
        kimg=progress.kimg,
        total_kimg=total_kimg,
        step=progress.step,
        rates=rates,
        eta_s=eta_s,
        values={
            _SHORT.get(name, name): value
            for name, value in figures.items()
            if not name.startswith(GRADIENT)
        },
    )
