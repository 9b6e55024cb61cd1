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
from tests.systems import formulas
from tests.systems.formulas import critic, distance, generator


def strength(s: AgeSystem, samples_seen: int) -> float | None:
    """Share of its weight that the game on the data has; None in the warm-up."""
    begin, end = s.warmup_kimg * 1000, (s.warmup_kimg + s.adversarial_ramp_kimg) * 1000
    if samples_seen < begin:
        return None
    return 1.0 if samples_seen >= end else (samples_seen - begin) / (end - begin)


def encoded(
    s: AgeSystem, autoencoder: Any, x: Tensor, bank: int, eps: Tensor | None, *, sphere: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Latents, and of a VAE encoder mean and log-variance; without eps its latent is the mean."""
    out = autoencoder.encoder(x, bank)
    if s.encoder == "vae":
        mean, logvar = out[:, : out.shape[1] // 2], out[:, out.shape[1] // 2 :]
        return mean if eps is None else mean + torch.exp(logvar / 2) * eps, mean, logvar
    return formulas.on_sphere(out) if sphere else out, None, None


def viewed(s: AgeSystem, micro: Micro, x: Tensor, side: str) -> Tensor:
    """Samples as D sees them."""
    return formulas.augmented(x, s.augment, micro.draws[f"augment_{side}"]) if s.augment else x


def critics_objective(
    s: AgeSystem,
    autoencoder: Any,
    critics: Any,
    micro: Micro,
    *,
    labels: Tensor | None = None,
    sphere: bool = False,
) -> Tensor:
    """What D and C minimise on a batch; no gradient reaches the autoencoder."""
    z, eps = micro.z, micro.draws.get("eps")
    with torch.no_grad():
        latent, *_ = encoded(s, autoencoder, micro.x, DATA, eps, sphere=sphere)
    loss = torch.zeros((), dtype=micro.x.dtype)
    if not s.joint:
        judge = critics.latent_discriminator
        loss = critic(s.adversarial, judge(z), judge(latent))
    if strength(s, micro.samples_seen) is None:
        return loss
    with torch.no_grad():
        reconstruction = autoencoder.generator(noisy(s, latent, micro), DATA, labels)
        generated = autoencoder.generator(z, PRIOR, labels)

    def real_judge(x: Tensor) -> Tensor:
        with_latent = latent if s.joint else None
        return critics.discriminator(viewed(s, micro, x, "real"), DATA, labels, with_latent)[0]

    penalised = s.r1_gamma > 0 and micro.step % s.r1_every == 0
    x = micro.x.clone().requires_grad_(penalised)
    real = real_judge(x)
    shown = viewed(s, micro, generated, "generated")
    fake = critics.discriminator(shown, PRIOR, labels, z if s.joint else None)[0]
    loss = loss + critic(s.adversarial, real, fake, s.label_smoothing)
    if s.reconstruction_fake_weight:
        shown, with_latent = viewed(s, micro, reconstruction, "real"), latent if s.joint else None
        rebuilt = critics.discriminator(shown, PRIOR, labels, with_latent)[0]
        term = critic(s.adversarial, real, rebuilt, s.label_smoothing)
        loss = loss + s.reconstruction_fake_weight * term
    if penalised and s.r1_form == "exact":
        loss = loss + s.r1_every * s.r1_gamma / 2 * formulas.r1(real, x)
    elif penalised:
        noise = micro.draws["r1"]
        term = formulas.finite_difference(real_judge, micro.x, noise, s.r1_sigma)
        loss = loss + s.r1_every * s.r1_gamma / 2 * term
    if s.gradient_penalty:
        term = formulas.gradient_penalty(real_judge, micro.x, generated, micro.draws["mix"])
        loss = loss + s.gradient_penalty * term
    return loss


def autoencoder_objective(
    s: AgeSystem,
    prior: tuple[float, float],
    autoencoder: Any,
    critics: Any,
    micro: Micro,
    *,
    labels: Tensor | None = None,
    sphere: bool = False,
) -> Tensor:
    """What E and G minimise on a batch, given the prior's mean and variance."""
    x, z = micro.x, micro.z
    eps = micro.draws.get("eps")
    latent, mean, logvar = encoded(s, autoencoder, x, DATA, eps, sphere=sphere)
    reconstruction = autoencoder.generator(noisy(s, latent, micro), DATA, labels)
    loss = s.reconstruction_weight * distance(s.reconstruction, reconstruction, x)
    loss = loss + s.squared_weight * distance("mse", reconstruction, x)
    if not s.joint:
        judged = critics.latent_discriminator(latent)
        loss = loss + s.latent_adversarial_weight * generator(s.adversarial, judged)
    if mean is not None and logvar is not None:
        loss = loss + s.kl_weight * formulas.posterior_kl(mean, logvar) / latent.shape[1]
    m, v = formulas.moments(latent)
    away = (m - prior[0]) ** 2 + (v - prior[1]) ** 2
    loss = loss + s.moment_weight * away.sum() / latent.shape[1]
    share = strength(s, micro.samples_seen)
    if share is None:
        return loss
    generated = autoencoder.generator(z, PRIOR, labels)
    shown = viewed(s, micro, generated, "generated")
    judged = critics.discriminator(shown, PRIOR, labels, z if s.joint else None)[0]
    game = s.adversarial_weight * generator(s.adversarial, judged)
    with_latent, shown = latent if s.joint else None, viewed(s, micro, x, "real")
    if s.joint:
        pairs = critics.discriminator(shown, DATA, labels, with_latent)[0]
        game = game + s.adversarial_weight * formulas.encoder(s.adversarial, pairs)
    if s.reconstruction_fake_weight or s.feature_weight:
        rebuilt = viewed(s, micro, reconstruction, "real")
        judged, features = critics.discriminator(rebuilt, PRIOR, labels, with_latent)
        if s.reconstruction_fake_weight:
            game = game + s.reconstruction_fake_weight * generator(s.adversarial, judged)
        if s.feature_weight:
            wanted = critics.discriminator(shown, DATA, labels, with_latent)[1]
            game = game + s.feature_weight * distance("l1", features, wanted)
    if s.latent_cycle_weight:
        found, *_ = encoded(s, autoencoder, generated, PRIOR, None, sphere=sphere)
        game = game + s.latent_cycle_weight * distance("mse", found, z)
    return loss + share * game


def noisy(s: AgeSystem, latent: Tensor, micro: Micro) -> Tensor:
    """E(x) as G gets it."""
    return latent + s.latent_noise * micro.draws["noise"] if s.latent_noise else latent
