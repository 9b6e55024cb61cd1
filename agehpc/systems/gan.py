"""Generative adversarial network (Goodfellow et al. 2014), dense or convolutional, 2D or 3D.

Two players: `generator` makes samples from prior latents, `discriminator` tells them from real
ones; both know the class where the model is conditional (Miyato and Koyama 2018).

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, F features.
"""

from typing import Any

from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import build_generator
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
    scalars,
    total,
)
from agehpc.systems.game import DataGame, Judge


class Generator(nn.Module):
    """The player made of G."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.generator = build_generator(config)

    def forward(self, z_BZ: Tensor, labels_B: Tensor | None) -> dict[str, Tensor]:
        """generated: G(z)."""
        return {"generated": self.generator(z_BZ, PRIOR, labels_B)}


class Gan(System):
    """The system: the discriminator's turn, then the generator's."""

    models = ("generator",)
    judge = "discriminator"

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.game = DataGame(self.settings)
        self.turns = (
            Turn(self.judge, "generator", self.judge_loss, repeats=self.settings.batches),
            Turn("generator", "generator", self.generator_loss),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players."""
        return {"generator": Generator(self.config), self.judge: Judge(self.config)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Prior latents, and the game's draws."""
        return super().draw(keys, shape, step) | self.game.draw(keys, shape, step)

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """G(z) of the real samples' classes."""
        return forwards[maker](micro.z, self.labels(micro))

    def judge_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """Real against generated, and the penalties that are due."""
        game, labels_B = self.game, self.labels(micro)
        leaf = game.leaf(micro.x, micro.step)
        verdict = forwards[self.judge](
            labels_B,
            real=game.shown(leaf, micro, "real"),
            generated=game.shown(made["generated"], micro, "generated"),
        )
        terms: dict[str, Any] = {
            "discriminator": (1.0, game.critic_loss(verdict["real"], verdict["generated"]))
        }
        terms |= game.penalties(
            lambda x: forwards[self.judge](labels_B, real=game.shown(x, micro, "real"))["real"],
            micro,
            leaf=leaf,
            logits=verdict["real"],
            generated=made["generated"],
        )
        loss, told = total(terms)
        logits = {f"logit_{name}": verdict[name].mean() for name in ("real", "generated")}
        return loss, told | scalars(**logits)

    def generator_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """The discriminator's verdict on G(z)."""
        seen = self.game.shown(made["generated"], micro, "generated")
        verdict = forwards[self.judge](self.labels(micro), generated=seen)
        return total({"adversarial": (1.0, self.game.generator_loss(verdict["generated"]))})

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z): the statistics are those of prior latents, the only ones it has met."""
        player = players["generator"]
        assert isinstance(player, Generator)
        return player.generator(z_BZ, PRIOR, labels_B)

    def critique(
        self, players: Players, x_BCS: Tensor, labels_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D(x), the mean over patches where it judges them, and its features."""
        logits, features = players[self.judge].get_submodule("discriminator")(x_BCS, DATA, labels_B)
        return logits.reshape(len(logits), -1).mean(1), features.flatten(1)
