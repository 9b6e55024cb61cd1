"""Variational autoencoder (Kingma and Welling 2014; Higgins et al. 2017 for beta).

E gives mean and log-variance of q(z|x), z = mean + exp(logvar / 2) * eps; the loss is the expected
negative log-likelihood plus beta times KL(q(z|x) || N(0, I)), in nats a sample.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.models.autoencoder import Autoencoder
from agehpc.models.blocks import DATA
from agehpc.models.prior import draw
from agehpc.systems.autoencoder import Plain, autoencoder
from agehpc.systems.base import Forwards, Keys, Micro, Outputs, Players, Statistics, scalars


class Vae(Plain):
    """The system: the autoencoder's turn with the bound for a loss."""

    has_prior = True

    def build(self) -> dict[str, nn.Module]:
        """The autoencoder."""
        return {"autoencoder": Autoencoder(self.config, variational=True)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Prior latents, and eps."""
        latent = self.config.model.latent
        return {
            "z": draw("gaussian", keys("prior"), latent),
            "eps": draw("gaussian", keys("vae"), latent),
        }

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """Mean, log-variance, latents and what is decoded from them."""
        return forwards[maker](micro.x, labels_B=self.labels(micro), eps_BZ=micro.draws["eps"])

    def loss(self, forwards: Forwards, micro: Micro, made: Outputs) -> tuple[Tensor, Statistics]:
        """The bound, with the KL weighed by beta; averaged over pixels, so that one rate serves."""
        s = self.settings
        nats, kl = self.nats(made, micro.x).mean(), self.kl(made).mean()
        share = 1.0
        if s.kl_warmup_kimg > 0:
            share = min(1.0, micro.samples_seen / 1000 / s.kl_warmup_kimg)
        loss = (nats + share * s.beta * kl) / micro.x[0].numel()
        return loss, scalars(reconstruction_nats=nats, kl=kl, bound_nats=nats + kl)

    def nats(self, made: Outputs, x_BCS: Tensor) -> Tensor:
        """-log p(x|z) of each sample [B], for pixels in [0, 1]."""
        s, unit = self.settings, (x_BCS + 1) / 2
        if s.likelihood == "bernoulli":
            each = F.binary_cross_entropy_with_logits(
                made["logits"].float(), unit, reduction="none"
            )
            return each.flatten(1).sum(1)
        error = (made["reconstruction"].float() - x_BCS) / 2
        constant = math.log(s.sigma * math.sqrt(2 * math.pi))
        return (0.5 * (error / s.sigma).square() + constant).flatten(1).sum(1)

    def kl(self, made: Outputs) -> Tensor:
        """KL(q(z|x) || N(0, I)) of each sample [B] in nats."""
        mean, logvar = made["mean"].float(), made["logvar"].float()
        return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z): in training G met draws around encoded samples, so its statistics are theirs."""
        return autoencoder(players).generator(z_BZ, DATA, labels_B)

    def score(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Mean squared error on pixels in [0, 1], and the bound in nats (one draw, beta 1)."""
        made = self.make("autoencoder", players, micro)
        bound = self.nats(made, micro.x) + self.kl(made)
        return super().score(players, micro) | {"bound_nats": bound}
