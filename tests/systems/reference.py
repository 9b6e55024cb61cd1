"""The A.G.E.'s objectives written anew from their formulas: the other side of the tests.

Only the networks are shared with the code under test. Shapes: B batch, C channels, S space,
Z latent size.
"""

from typing import Any

import torch
from torch import Tensor

from agehpc.config.schema import AgeSystem
from agehpc.models.blocks import DATA, PRIOR
from agehpc.systems.base import Micro


def critic(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss, summed by hand."""
    if kind == "non_saturating":
        zero = torch.zeros_like(real)
        each = torch.logaddexp(zero, -real).sum() + torch.logaddexp(zero, fake).sum()
    elif kind == "hinge":
        each = torch.clamp(1 - real, min=0).sum() + torch.clamp(1 + fake, min=0).sum()
    else:
        each = ((real - 1) ** 2).sum() / 2 + (fake**2).sum() / 2
    return each / len(real)


def generator(kind: str, fake: Tensor) -> Tensor:
    """The loss of who is judged, summed by hand."""
    if kind == "non_saturating":
        each = torch.logaddexp(torch.zeros_like(fake), -fake).sum()
    elif kind == "hinge":
        each = -fake.sum()
    else:
        each = ((fake - 1) ** 2).sum() / 2
    return each / len(fake)


def distance(kind: str, y: Tensor, x: Tensor) -> Tensor:
    """Mean absolute or squared difference."""
    error = y - x
    return (error.abs() if kind == "l1" else error * error).sum() / error.numel()


def strength(s: AgeSystem, samples_seen: int) -> float | None:
    """Share of its weight that the game on the data has; None in the warm-up."""
    begin, end = s.warmup_kimg * 1000, (s.warmup_kimg + s.adversarial_ramp_kimg) * 1000
    if samples_seen < begin:
        return None
    return 1.0 if samples_seen >= end else (samples_seen - begin) / (end - begin)


def critics_objective(s: AgeSystem, autoencoder: Any, critics: Any, micro: Micro) -> Tensor:
    """What D and C minimise on a batch; no gradient reaches the autoencoder."""
    x, z = micro.x, micro.z
    judge = critics.latent_discriminator
    with torch.no_grad():
        latent = autoencoder.encoder(x, DATA)
    loss = critic(s.adversarial, judge(z), judge(latent))
    if strength(s, micro.samples_seen) is None:
        return loss
    with torch.no_grad():
        reconstruction = autoencoder.generator(noisy(s, latent, micro), DATA)
        generated = autoencoder.generator(z, PRIOR)
    penalised = s.r1_gamma > 0 and micro.step % s.r1_every == 0
    x = x.clone().requires_grad_(penalised)
    real = critics.discriminator(x, DATA)[0]
    loss = loss + critic(s.adversarial, real, critics.discriminator(generated, PRIOR)[0])
    if s.reconstruction_fake_weight:
        rebuilt = critics.discriminator(reconstruction, PRIOR)[0]
        loss = loss + s.reconstruction_fake_weight * critic(s.adversarial, real, rebuilt)
    if penalised:
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        each = torch.stack([(slope[b] ** 2).sum() for b in range(len(slope))])
        loss = loss + s.r1_every * s.r1_gamma / 2 * each.mean()
    return loss


def autoencoder_objective(
    s: AgeSystem, prior: tuple[float, float], autoencoder: Any, critics: Any, micro: Micro
) -> Tensor:
    """What E and G minimise on a batch, given the prior's mean and variance."""
    x = micro.x
    latent = autoencoder.encoder(x, DATA)
    reconstruction = autoencoder.generator(noisy(s, latent, micro), DATA)
    loss = s.reconstruction_weight * distance(s.reconstruction, reconstruction, x)
    loss = loss + s.squared_weight * distance("mse", reconstruction, x)
    judged = critics.latent_discriminator(latent)
    loss = loss + s.latent_adversarial_weight * generator(s.adversarial, judged)
    mean = latent.sum(0) / len(latent)
    variance = ((latent - mean) ** 2).sum(0) / len(latent)
    away = (mean - prior[0]) ** 2 + (variance - prior[1]) ** 2
    loss = loss + s.moment_weight * away.sum() / latent.shape[1]
    share = strength(s, micro.samples_seen)
    if share is None:
        return loss
    generated = autoencoder.generator(micro.z, PRIOR)
    judged = critics.discriminator(generated, PRIOR)[0]
    game = s.adversarial_weight * generator(s.adversarial, judged)
    if s.reconstruction_fake_weight or s.feature_weight:
        judged, features = critics.discriminator(reconstruction, PRIOR)
        if s.reconstruction_fake_weight:
            game = game + s.reconstruction_fake_weight * generator(s.adversarial, judged)
        if s.feature_weight:
            wanted = critics.discriminator(x, DATA)[1]
            game = game + s.feature_weight * distance("l1", features, wanted)
    if s.latent_cycle_weight:
        found = autoencoder.encoder(generated, PRIOR)
        game = game + s.latent_cycle_weight * distance("mse", found, micro.z)
    return loss + share * game


def noisy(s: AgeSystem, latent: Tensor, micro: Micro) -> Tensor:
    """E(x) as G gets it."""
    return latent + s.latent_noise * micro.draws["noise"] if s.latent_noise else latent
