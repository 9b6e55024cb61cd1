"""Losses as pure functions of tensors; each returns a scalar."""

from agehpc.losses.adversarial import critic_loss, generator_loss
from agehpc.losses.latent import moment_loss
from agehpc.losses.penalties import r1_penalty
from agehpc.losses.reconstruction import reconstruction_loss

__all__ = ["critic_loss", "generator_loss", "moment_loss", "r1_penalty", "reconstruction_loss"]
