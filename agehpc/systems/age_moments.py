"""Adversarial Generator-Encoder (Ulyanov, Vedaldi and Lempitsky 2017): no discriminator.

Two players with opposite signs: `encoder` brings the latents of real samples to the prior and
those of generated ones away from it, `generator` brings the latter to the prior. Divergences are
of Gaussians with the latents' moments over the global batch, so that they do not depend on the
world size. Either player may also hold reconstructions and latent cycles together.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.losses import moment_kl, reconstruction_loss
from agehpc.models.autoencoder import on_sphere
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import build_encoder, build_generator
from agehpc.systems.base import (
    Collectives,
    Forwards,
    Micro,
    Outputs,
    Players,
    Statistics,
    System,
    Turn,
    total,
)


class EncoderPlayer(nn.Module):
    """The player made of E."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = build_encoder(config, config.model.latent)
        self.spherical = config.model.prior == "sphere"

    def forward(self, **samples: Tensor) -> dict[str, Tensor]:
        """Latents by name; `real` samples count in the bank of data, all others in the prior's."""
        latents = {
            name: self.encoder(x_BCS, DATA if name == "real" else PRIOR)
            for name, x_BCS in samples.items()
        }
        return {n: on_sphere(z) if self.spherical else z for n, z in latents.items()}


class GeneratorPlayer(nn.Module):
    """The player made of G."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.generator = build_generator(config)

    def forward(self, **latents: Tensor) -> dict[str, Tensor]:
        """Samples by name; `real` latents count in the bank of data, all others in the prior's."""
        return {
            name: self.generator(z_BZ, DATA if name == "real" else PRIOR)
            for name, z_BZ in latents.items()
        }


class AgeMoments(System):
    """The system: the encoder's turns, then the generator's."""

    models = ("encoder", "generator")

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        s = self.settings
        self.turns = (
            Turn("encoder", "encoder", self.encoder_loss, repeats=s.encoder_turns),
            Turn("generator", "generator", self.generator_loss, repeats=s.generator_turns),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players."""
        return {"encoder": EncoderPlayer(self.config), "generator": GeneratorPlayer(self.config)}

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """Encoder: the latents of x and of G(z). Generator: G(z), and G(E(x)) where it counts."""
        if maker == "encoder":
            with torch.no_grad():
                fake = forwards["generator"](generated=micro.z)["generated"]
            return forwards["encoder"](real=micro.x, generated=fake)
        latents = {"generated": micro.z}
        if self.settings.generator_reconstruction_weight > 0:
            with torch.no_grad():
                latents["real"] = forwards["encoder"](real=micro.x)["real"]
        return forwards["generator"](**latents)

    def divergence(self, z_BZ: Tensor) -> Tensor:
        """KL of the latents' moments, over the global batch, from the prior N(0, I)."""
        s = self.settings
        return moment_kl(*self.collectives.moments(z_BZ.float()), s.kl_form, s.kl_reduction)

    def cycle(self, found_BZ: Tensor, z_BZ: Tensor) -> Tensor:
        """Distance of E(G(z)) to z."""
        if self.settings.latent_distance == "mse":
            return F.mse_loss(found_BZ.float(), z_BZ)
        return (1 - F.cosine_similarity(found_BZ.float(), z_BZ)).mean()

    def distance(self, y_BCS: Tensor, x_BCS: Tensor) -> Tensor:
        """Distance of G(E(x)) to x."""
        return reconstruction_loss(self.settings.reconstruction, y_BCS.float(), x_BCS)

    def encoder_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """KL(E(x)) - KL(E(G(z))), reconstruction, latent cycle."""
        s = self.settings
        terms = {
            "kl_real": (s.kl_real_weight, self.divergence(made["real"])),
            "kl_generated": (-s.kl_fake_weight, self.divergence(made["generated"])),
        }
        if s.encoder_reconstruction_weight > 0:
            y_BCS = forwards["generator"](real=made["real"])["real"]
            value = self.distance(y_BCS, micro.x)
            terms["reconstruction"] = (s.encoder_reconstruction_weight, value)
        if s.encoder_cycle_weight > 0:
            value = self.cycle(made["generated"], micro.z)
            terms["encoder_cycle"] = (s.encoder_cycle_weight, value)
        return total(terms)

    def generator_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """KL(E(G(z))), latent cycle, reconstruction."""
        s = self.settings
        found = forwards["encoder"](generated=made["generated"])["generated"]
        terms = {"generator_kl": (s.generator_kl_weight, self.divergence(found))}
        if s.generator_cycle_weight > 0:
            terms["latent_cycle"] = (s.generator_cycle_weight, self.cycle(found, micro.z))
        if s.generator_reconstruction_weight > 0:
            value = self.distance(made["real"], micro.x)
            terms["generator_reconstruction"] = (s.generator_reconstruction_weight, value)
        return total(terms)

    def calibrate(self, players: Players, micro: Micro) -> None:
        """Both streams through both players; in training G meets E(x) in E's turns."""
        fake = players["generator"](generated=micro.z)["generated"]
        latent = players["encoder"](real=micro.x, generated=fake)["real"]
        players["generator"](real=latent)

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """E(x)."""
        return players["encoder"](real=x_BCS)["real"]

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z)."""
        name = "real" if bank == DATA else "generated"
        return players["generator"](**{name: z_BZ})[name]
