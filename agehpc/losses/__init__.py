"""Losses as pure functions of tensors; each returns a scalar."""

from agehpc.losses.adversarial import critic_loss, encoder_loss, generator_loss
from agehpc.losses.latent import gaussian_kl, moment_kl, moment_loss
from agehpc.losses.penalties import finite_difference_penalty, gradient_penalty, r1_penalty
from agehpc.losses.reconstruction import bernoulli_nats, reconstruction_loss

__all__ = [
    "bernoulli_nats",
    "critic_loss",
    "encoder_loss",
    "finite_difference_penalty",
    "gaussian_kl",
    "generator_loss",
    "gradient_penalty",
    "moment_kl",
    "moment_loss",
    "r1_penalty",
    "reconstruction_loss",
]
