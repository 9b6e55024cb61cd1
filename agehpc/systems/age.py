"""Auto GAN Encoder: an autoencoder whose decoder is a GAN's generator.

Two players. `autoencoder` holds the encoder E and the generator G; `critics` holds the data
discriminator D and the latent discriminator C. D tells x from G(z), C tells z ~ prior from E(x),
and the autoencoder is trained against both, to reconstruct x and to find z again in G(z): jointly,
end to end, after Makhzani et al. 2015 (adversarial latents) and Larsen et al. 2016 (GAN decoder).

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.losses import (
    critic_loss,
    generator_loss,
    moment_loss,
    r1_penalty,
    reconstruction_loss,
)
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.geometry import geometry
from agehpc.models.networks import Discriminator, Encoder, Generator, LatentDiscriminator
from agehpc.models.prior import MOMENTS, draw
from agehpc.systems.base import (
    Collectives,
    Forward,
    Forwards,
    Keys,
    Micro,
    Outputs,
    Players,
    Statistics,
    System,
    Turn,
    ramp,
    scalars,
    total,
)


class Autoencoder(nn.Module):
    """The player made of E and G."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, geo = config.model, geometry(config)
        self.encoder = Encoder(model.encoder, geo, model.latent)
        self.generator = Generator(model.generator, geo, model.latent, model.upsample)

    def forward(
        self, x_BCS: Tensor, z_BZ: Tensor | None, disturbance_BZ: Tensor | None, cycle: bool
    ) -> dict[str, Tensor]:
        """latent E(x), reconstruction G(E(x)), generated G(z), and cycle E(G(z)) if asked for.

        G's two inputs pass separately: their batch statistics differ. A disturbance is added to
        E(x) on its way to G; without z nothing is generated.
        """
        latent = self.encoder(x_BCS, DATA)
        passed = latent if disturbance_BZ is None else latent + disturbance_BZ
        outputs = {"latent": latent, "reconstruction": self.generator(passed, DATA)}
        if z_BZ is not None:
            outputs["generated"] = self.generator(z_BZ, PRIOR)
            if cycle:
                outputs["cycle"] = self.encoder(outputs["generated"], PRIOR)
        return outputs


class Critics(nn.Module):
    """The player made of D and C."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, geo = config.model, geometry(config)
        self.discriminator = Discriminator(model.discriminator, geo)
        self.latent_discriminator = LatentDiscriminator(model.latent_discriminator, model.latent)

    def forward(
        self,
        *,
        real: Tensor | None = None,
        generated: Tensor | None = None,
        reconstruction: Tensor | None = None,
        prior: Tensor | None = None,
        latent: Tensor | None = None,
        idle: bool = False,
    ) -> dict[str, Tensor]:
        """Logits [B] by input's name for what is given; D's features as `<name>_features`.

        `idle` asks for a zero that depends on all of D's weights, while D sits out: a gradient of
        zero, unlike none at all, moves the optimizer alike at every ZeRO stage.
        """
        outputs: dict[str, Tensor] = {}
        if idle:
            outputs["idle"] = torch.stack(
                [0.0 * p.sum() for p in self.discriminator.parameters()]
            ).sum()
        samples = {
            "real": (real, DATA),
            "generated": (generated, PRIOR),
            "reconstruction": (reconstruction, PRIOR),
        }
        for name, (x_BCS, bank) in samples.items():
            if x_BCS is not None:
                logits, features = self.discriminator(x_BCS, bank)
                outputs[name], outputs[f"{name}_features"] = logits.float(), features
        for name, z_BZ in {"prior": prior, "latent": latent}.items():
            if z_BZ is not None:
                outputs[name] = self.latent_discriminator(z_BZ).float()
        return outputs


class Age(System):
    """The system: how the two players are built and what each minimises."""

    models = ("autoencoder",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.turns = (
            Turn("critics", "autoencoder", self.critics_loss),
            Turn("autoencoder", "autoencoder", self.autoencoder_loss),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players, initialised from torch's global generator."""
        return {"autoencoder": Autoencoder(self.config), "critics": Critics(self.config)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Prior latents, and the noise that disturbs encoded ones: float32 [B, Z]."""
        drawn = super().draw(keys, shape, step)
        if self.settings.latent_noise > 0:
            drawn["noise"] = draw("gaussian", keys("latent noise"), self.config.model.latent)
        return drawn

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """The autoencoder's outputs for a micro-batch."""
        s = self.settings
        z_BZ = micro.z if self._strength(micro) is not None else None
        disturbance = s.latent_noise * micro.draws["noise"] if s.latent_noise > 0 else None
        return forwards[maker](micro.x, z_BZ, disturbance, s.latent_cycle_weight > 0)

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """E(x)."""
        return players["autoencoder"].get_submodule("encoder")(x_BCS, DATA)

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z)."""
        return players["autoencoder"].get_submodule("generator")(z_BZ, bank)

    def critique(
        self, players: Players, x_BCS: Tensor, labels_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D(x) and the features of its last stage."""
        logits, features = players["critics"].get_submodule("discriminator")(x_BCS, DATA)
        return logits, features.flatten(1)

    def _strength(self, micro: Micro) -> float | None:
        """Share of its weight that the game on the data has; None before it starts."""
        s = self.settings
        return ramp(micro.samples_seen, s.warmup_kimg, s.adversarial_ramp_kimg)

    def critics_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """D's and C's losses, and R1 when it is due."""
        s = self.settings
        if self._strength(micro) is None:
            verdict = forwards["critics"](prior=micro.z, latent=made["latent"], idle=True)
            latent = critic_loss(s.adversarial, verdict["prior"], verdict["latent"])
            return latent + verdict["idle"], scalars(latent_discriminator=latent)
        penalise = s.r1_gamma > 0 and micro.step % s.r1_every == 0
        real = micro.x.detach().requires_grad_(True) if penalise else micro.x
        verdict = forwards["critics"](
            real=real,
            generated=made["generated"],
            reconstruction=made["reconstruction"] if s.reconstruction_fake_weight > 0 else None,
            prior=micro.z,
            latent=made["latent"],
        )
        data = critic_loss(s.adversarial, verdict["real"], verdict["generated"])
        latent = critic_loss(s.adversarial, verdict["prior"], verdict["latent"])
        loss = data + latent
        if s.reconstruction_fake_weight > 0:
            fakes = critic_loss(s.adversarial, verdict["real"], verdict["reconstruction"])
            loss = loss + s.reconstruction_fake_weight * fakes
        stats = dict(
            discriminator=data,
            latent_discriminator=latent,
            logit_real=verdict["real"].mean(),
            logit_generated=verdict["generated"].mean(),
        )
        if penalise:
            # Computed every r1_every steps and weighed that much more (lazy regularisation,
            # Karras et al. 2020).
            loss = loss + 0.5 * s.r1_gamma * s.r1_every * r1_penalty(verdict["real"], real)
        return loss, scalars(**stats)

    def autoencoder_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """Reconstruction, both games, the latents' moments and the latent cycle."""
        s = self.settings
        y_BCS, latent_BZ = made["reconstruction"].float(), made["latent"].float()
        m_Z, v_Z = self.collectives.moments(latent_BZ)
        terms = {
            "reconstruction": (
                s.reconstruction_weight,
                reconstruction_loss(s.reconstruction, y_BCS, micro.x),
            ),
            "moment": (
                s.moment_weight,
                moment_loss(m_Z, v_Z, *MOMENTS[self.config.model.prior]),
            ),
        }
        if s.squared_weight > 0:
            squared = reconstruction_loss("mse", y_BCS, micro.x)
            terms["squared"] = (s.squared_weight, squared)
        strength = self._strength(micro)
        if strength is None:
            verdict = forwards["critics"](latent=made["latent"])
        else:
            verdict = self._verdict(forwards["critics"], micro, made)
            terms |= self._game_terms(verdict, micro, made, strength)
        adversarial = generator_loss(s.adversarial, verdict["latent"])
        terms["latent_adversarial"] = (s.latent_adversarial_weight, adversarial)
        return total(terms)

    def _verdict(self, critics: Forward, micro: Micro, made: Outputs) -> dict[str, Tensor]:
        """The critics' view of everything that the autoencoder's loss judges."""
        s = self.settings
        wants_features = s.feature_weight > 0
        judged = wants_features or s.reconstruction_fake_weight > 0
        return critics(
            real=micro.x if wants_features else None,
            generated=made["generated"],
            reconstruction=made["reconstruction"] if judged else None,
            latent=made["latent"],
        )

    def _game_terms(
        self, verdict: Mapping[str, Tensor], micro: Micro, made: Outputs, strength: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Weights and values of the terms that need D or G(z)."""
        s = self.settings
        terms = {
            "adversarial": (
                strength * s.adversarial_weight,
                generator_loss(s.adversarial, verdict["generated"]),
            )
        }
        if s.reconstruction_fake_weight > 0:
            fakes = generator_loss(s.adversarial, verdict["reconstruction"])
            terms["reconstruction_fake"] = (strength * s.reconstruction_fake_weight, fakes)
        if s.feature_weight > 0:
            ours, real = verdict["reconstruction_features"], verdict["real_features"]
            features = reconstruction_loss("l1", ours.float(), real.float())
            terms["features"] = (strength * s.feature_weight, features)
        if s.latent_cycle_weight > 0:
            cycle = torch.nn.functional.mse_loss(made["cycle"].float(), micro.z)
            terms["latent_cycle"] = (strength * s.latent_cycle_weight, cycle)
        return terms
