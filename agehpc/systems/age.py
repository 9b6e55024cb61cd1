"""Auto GAN Encoder: an autoencoder whose decoder is a GAN's generator.

Two players. `autoencoder` holds the encoder E and the generator G; `critics` holds the data
discriminator D and the latent discriminator C. D tells x from G(z), C tells z ~ prior from E(x),
and the autoencoder is trained against both, to reconstruct x and to find z again in G(z): jointly,
end to end, after Makhzani et al. 2015 (adversarial latents) and Larsen et al. 2016 (GAN decoder).

Variants: a VAE encoder, whose KL is a further term (Larsen et al. 2016); a joint discriminator of
(x, E(x)) against (G(z), z) in place of D and C (Dumoulin et al. 2017, Donahue et al. 2017).

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, F features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.losses import (
    critic_loss,
    encoder_loss,
    gaussian_kl,
    generator_loss,
    moment_loss,
    reconstruction_loss,
)
from agehpc.models.autoencoder import Autoencoder
from agehpc.models.blocks import DATA
from agehpc.models.build import build_latent_discriminator
from agehpc.models.prior import MOMENTS, draw
from agehpc.systems.base import (
    Collectives,
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
from agehpc.systems.game import DataGame, Judge, Terms


class Critics(Judge):
    """The player made of D and C, or of a joint D alone."""

    def __init__(self, config: Config, *, joint: bool = False) -> None:
        super().__init__(config, joint=joint)
        self.latent_discriminator = None if joint else build_latent_discriminator(config)

    def forward(
        self,
        labels_B: Tensor | None = None,
        *,
        prior: Tensor | None = None,
        latent: Tensor | None = None,
        joined: dict[str, Tensor] | None = None,
        idle: bool = False,
        **samples: Tensor | None,
    ) -> dict[str, Tensor]:
        """Logits [B] by input's name for what is given; D's features as `<name>_features`.

        Args:
            labels_B: classes of the samples, where D is conditional.
            prior: latents of the prior, for C.
            latent: encoded latents, for C.
            joined: latents by name of the sample that they are judged with, for a joint D.
            idle: give a zero that depends on all of D's weights, while D sits out: a gradient of
                zero, unlike none at all, moves the optimizer alike at every ZeRO stage.
            samples: real, generated, reconstruction.
        """
        outputs: dict[str, Tensor] = {}
        if idle:
            outputs["idle"] = torch.stack(
                [0.0 * p.sum() for p in self.discriminator.parameters()]
            ).sum()
        outputs |= self.judge(samples, labels_B, joined)
        for name, z_BZ in {"prior": prior, "latent": latent}.items():
            if z_BZ is not None:
                assert self.latent_discriminator is not None
                outputs[name] = self.latent_discriminator(z_BZ).float()
        return outputs


class Age(System):
    """The system: how the two players are built and what each minimises."""

    models = ("autoencoder",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.game = DataGame(self.settings)
        self.variational = self.settings.encoder == "vae"
        self.turns = (
            Turn("critics", "autoencoder", self.critics_loss),
            Turn("autoencoder", "autoencoder", self.autoencoder_loss),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players, initialised from torch's global generator."""
        return {
            "autoencoder": Autoencoder(self.config, variational=self.variational),
            "critics": Critics(self.config, joint=self.settings.joint),
        }

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Prior latents, eps and noise of encoded ones, and the game's draws."""
        drawn = super().draw(keys, shape, step) | self.game.draw(keys, shape, step)
        latent = self.config.model.latent
        if self.settings.latent_noise > 0:
            drawn["noise"] = draw("gaussian", keys("latent noise"), latent)
        if self.variational:
            drawn["eps"] = draw("gaussian", keys("vae"), latent)
        return drawn

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """The autoencoder's outputs for a micro-batch."""
        s = self.settings
        return forwards[maker](
            micro.x,
            micro.z if self._strength(micro) is not None else None,
            labels_B=self.labels(micro),
            eps_BZ=micro.draws.get("eps"),
            disturbance_BZ=s.latent_noise * micro.draws["noise"] if s.latent_noise > 0 else None,
            cycle=s.latent_cycle_weight > 0,
        )

    def _strength(self, micro: Micro) -> float | None:
        """Share of its weight that the game on the data has; None before it starts."""
        s = self.settings
        return ramp(micro.samples_seen, s.warmup_kimg, s.adversarial_ramp_kimg)

    def _joined(self, micro: Micro, made: Outputs) -> dict[str, Tensor] | None:
        """Latents that a joint D judges samples with."""
        if not self.settings.joint:
            return None
        latent = made["latent"]
        generated = {"generated": micro.z} if "generated" in made else {}
        return {"real": latent, "reconstruction": latent, **generated}

    def critics_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """D's and C's losses, and the penalties that are due."""
        s, game, critics = self.settings, self.game, forwards["critics"]
        latents = {} if s.joint else {"prior": micro.z, "latent": made["latent"]}
        if self._strength(micro) is None:
            verdict = critics(**latents, idle=True)
            terms = self._latent_game(verdict)
            loss, told = total(terms | {"idle": (1.0, verdict["idle"])})
            return loss, {name: told[name] for name in terms}
        leaf = game.leaf(micro.x, micro.step)
        labels_B, joined = self.labels(micro), self._joined(micro, made)
        rebuilt = made["reconstruction"] if s.reconstruction_fake_weight > 0 else None
        verdict = critics(
            labels_B,
            joined=joined,
            real=game.shown(leaf, micro, "real"),
            generated=game.shown(made["generated"], micro, "generated"),
            reconstruction=None if rebuilt is None else game.shown(rebuilt, micro, "real"),
            **latents,
        )
        terms = {"discriminator": (1.0, game.critic_loss(verdict["real"], verdict["generated"]))}
        terms |= self._latent_game(verdict)
        if rebuilt is not None:
            fakes = game.critic_loss(verdict["real"], verdict["reconstruction"])
            terms["discriminator_reconstruction"] = (s.reconstruction_fake_weight, fakes)
        terms |= game.penalties(
            lambda x: critics(labels_B, joined=joined, real=game.shown(x, micro, "real"))["real"],
            micro,
            leaf=leaf,
            logits=verdict["real"],
            generated=made["generated"],
        )
        loss, told = total(terms)
        logits = {f"logit_{name}": verdict[name].mean() for name in ("real", "generated")}
        return loss, told | scalars(**logits)

    def _latent_game(self, verdict: Outputs) -> Terms:
        """C's loss, where there is a C."""
        if self.settings.joint:
            return {}
        value = critic_loss(self.settings.adversarial, verdict["prior"], verdict["latent"])
        return {"latent_discriminator": (1.0, value)}

    def autoencoder_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """Reconstruction, both games, the latents' distribution and the latent cycle."""
        s, critics = self.settings, forwards["critics"]
        terms = self._terms_without_critics(micro, made)
        strength = self._strength(micro)
        if strength is not None:
            verdict = self._verdict(critics, micro, made)
            terms |= self._game_terms(verdict, micro, made, strength)
        else:
            verdict = {} if s.joint else critics(latent=made["latent"])
        if not s.joint:
            adversarial = generator_loss(s.adversarial, verdict["latent"])
            terms["latent_adversarial"] = (s.latent_adversarial_weight, adversarial)
        return total(terms)

    def _terms_without_critics(self, micro: Micro, made: Outputs) -> Terms:
        """Weights and values of the terms that no critic judges."""
        s = self.settings
        y_BCS, latent_BZ = made["reconstruction"].float(), made["latent"].float()
        m_Z, v_Z = self.collectives.moments(latent_BZ)
        terms: Terms = {
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
        if self.variational:
            kl = gaussian_kl(made["mean"].float(), made["logvar"].float()) / latent_BZ.shape[1]
            terms["kl"] = (s.kl_weight, kl)
        return terms

    def _verdict(self, critics: Any, micro: Micro, made: Outputs) -> dict[str, Tensor]:
        """The critics' view of everything that the autoencoder's loss judges."""
        s, game = self.settings, self.game
        judged = s.feature_weight > 0 or s.reconstruction_fake_weight > 0
        seen = {"generated": game.shown(made["generated"], micro, "generated")}
        if s.feature_weight > 0 or s.joint:
            seen["real"] = game.shown(micro.x, micro, "real")
        if judged:
            seen["reconstruction"] = game.shown(made["reconstruction"], micro, "real")
        latents = {} if s.joint else {"latent": made["latent"]}
        return critics(self.labels(micro), joined=self._joined(micro, made), **seen, **latents)

    def _game_terms(self, verdict: Outputs, micro: Micro, made: Outputs, strength: float) -> Terms:
        """Weights and values of the terms that need D or G(z)."""
        s = self.settings
        value = generator_loss(s.adversarial, verdict["generated"])
        if s.joint:  # E's side of the pairs is to pass for generated
            value = value + encoder_loss(s.adversarial, verdict["real"])
        terms: Terms = {"adversarial": (strength * s.adversarial_weight, value)}
        if s.reconstruction_fake_weight > 0:
            fakes = generator_loss(s.adversarial, verdict["reconstruction"])
            terms["reconstruction_fake"] = (strength * s.reconstruction_fake_weight, fakes)
        if s.feature_weight > 0:
            ours, real = verdict["reconstruction_features"], verdict["real_features"]
            features = reconstruction_loss("l1", ours.float(), real.float())
            terms["features"] = (strength * s.feature_weight, features)
        if s.latent_cycle_weight > 0:
            cycle = reconstruction_loss("mse", made["cycle"].float(), micro.z)
            terms["latent_cycle"] = (strength * s.latent_cycle_weight, cycle)
        return terms

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """E(x); the mean of a VAE encoder."""
        return _autoencoder(players).encode(x_BCS, DATA)["latent"]

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z)."""
        return _autoencoder(players).generator(z_BZ, bank, labels_B)

    def critique(
        self, players: Players, x_BCS: Tensor, labels_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D(x) and the features of its last stage; of (x, E(x)) where D is joint.

        The mean over patches where D judges them.
        """
        z_BZ = self.encode(players, x_BCS) if self.settings.joint else None
        critics = players["critics"]
        assert isinstance(critics, Critics)
        logits, features = critics.discriminator(x_BCS, DATA, labels_B, z_BZ)
        return logits.reshape(len(logits), -1).mean(1), features.flatten(1)


def _autoencoder(players: Players) -> Autoencoder:
    player = players["autoencoder"]
    assert isinstance(player, Autoencoder)
    return player
