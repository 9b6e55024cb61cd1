"""Paired translation (Isola et al. 2017): a generator makes the target from the input of a pair, a
discriminator judges (input, output) in patches, L1 holds the output to the target.

Shapes: B batch, C channels of the target, S (H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.losses import reconstruction_loss
from agehpc.models.blocks import DATA
from agehpc.models.build import build_translator
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


class Translator(nn.Module):
    """The player made of one translator."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inputs, outputs = config.data.input_channels, config.data.channels
        assert inputs is not None
        assert outputs is not None
        self.translator = build_translator(config, inputs, outputs)

    def forward(self, x_BCS: Tensor) -> dict[str, Tensor]:
        """output: the translation."""
        return {"output": self.translator(x_BCS, DATA)}


class Pix2pix(System):
    """The system: the discriminator's turn, then the generator's."""

    models = ("generator",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.game = DataGame(self.settings)
        self.turns = (
            Turn("discriminator", "generator", self.discriminator_loss),
            Turn("generator", "generator", self.generator_loss),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players."""
        data = self.config.data
        assert data.channels is not None
        assert data.input_channels is not None
        judge = Judge(self.config, inputs=data.channels + data.input_channels)
        return {"generator": Translator(self.config), "discriminator": judge}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """The game's draws."""
        channels = shape[0] + (self.config.data.input_channels or 0)
        return self.game.draw(keys, (channels, *shape[1:]), step)

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """The translation of the input."""
        assert micro.second is not None
        return forwards[maker](micro.second)

    def discriminator_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """(input, target) against (input, output), each half of the sum halved as in the paper."""
        game = self.game
        leaf = game.leaf(pair(micro, micro.x), micro.step)
        generated = pair(micro, made["output"])
        verdict = forwards["discriminator"](
            real=game.shown(leaf, micro, "real"),
            generated=game.shown(generated, micro, "generated"),
        )
        terms: dict[str, Any] = {
            "discriminator": (0.5, game.critic_loss(verdict["real"], verdict["generated"]))
        }
        terms |= game.penalties(
            lambda x: forwards["discriminator"](real=game.shown(x, micro, "real"))["real"],
            micro,
            leaf=leaf,
            logits=verdict["real"],
            generated=generated,
        )
        loss, told = total(terms)
        logits = {f"logit_{name}": verdict[name].mean() for name in ("real", "generated")}
        return loss, told | scalars(**logits)

    def generator_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """The verdict on (input, output), and the distance to the target."""
        seen = self.game.shown(pair(micro, made["output"]), micro, "generated")
        verdict = forwards["discriminator"](generated=seen)
        return total(
            {
                "adversarial": (
                    self.settings.adversarial_weight,
                    self.game.generator_loss(verdict["generated"]),
                ),
                "reconstruction": (
                    self.settings.reconstruction_weight,
                    reconstruction_loss("l1", made["output"].float(), micro.x),
                ),
            }
        )

    def translate(self, players: Players, x_BCS: Tensor, to: str | None) -> Tensor:
        """The target that belongs to an input."""
        return players["generator"](x_BCS)["output"]

    def rows(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Input, target, output; a grey one is shown in the channels of the widest."""
        assert micro.second is not None
        output = self.translate(players, micro.second, None)
        rows = {"input": micro.second, "target": micro.x, "output": output}
        channels = max(x.shape[1] for x in rows.values())
        return {name: x.expand(-1, channels, *x.shape[2:]) for name, x in rows.items()}

    def compare(self, players: Players, micro: Micro) -> dict[str, tuple[Tensor, Tensor]]:
        """The output against the target."""
        assert micro.second is not None
        return {"translation": (self.translate(players, micro.second, None), micro.x)}


def pair(micro: Micro, x_BCS: Tensor) -> Tensor:
    """What the discriminator judges: the input's channels, then the target's or output's."""
    assert micro.second is not None
    return torch.cat([micro.second, x_BCS], dim=1)
