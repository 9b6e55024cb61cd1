"""Unpaired translation (Zhu et al. 2017): two generators that undo each other, a discriminator for
each domain that also sees generated images of the past.

A batch's `x` is of domain A, its `second` of domain B; G goes from A to B, F back.

Shapes: B batch, C channels, S (H, W), N images of the pool.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.errors import UsageError
from agehpc.losses import reconstruction_loss
from agehpc.models.blocks import DATA, PRIOR
from agehpc.models.build import build_discriminator, build_translator
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
    total,
)
from agehpc.systems.game import DataGame, Terms
from agehpc.systems.pool import Pool


class Generators(nn.Module):
    """The player made of G and F."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.data.channels
        assert channels is not None
        self.to_b = build_translator(config, channels, channels)
        self.to_a = build_translator(config, channels, channels)

    def forward(self, a_BCS: Tensor, b_BCS: Tensor, identity: bool) -> dict[str, Tensor]:
        """fake_b G(a), fake_a F(b), cycle_a F(G(a)), cycle_b G(F(b)); same_b G(b), same_a F(a)."""
        fake_b, fake_a = self.to_b(a_BCS, DATA), self.to_a(b_BCS, DATA)
        outputs = {
            "fake_b": fake_b,
            "fake_a": fake_a,
            "cycle_a": self.to_a(fake_b, PRIOR),
            "cycle_b": self.to_b(fake_a, PRIOR),
        }
        if identity:
            outputs |= {"same_b": self.to_b(b_BCS, DATA), "same_a": self.to_a(a_BCS, DATA)}
        return outputs


class Discriminators(nn.Module):
    """The player made of one discriminator a domain."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.of_a = build_discriminator(config)
        self.of_b = build_discriminator(config)

    def forward(self, **samples: Tensor) -> dict[str, Tensor]:
        """Logits by name: `real_a` and `fake_a` are judged by A's discriminator, `_b` by B's."""
        outputs = {}
        for name, x_BCS in samples.items():
            judge = self.of_a if name.endswith("_a") else self.of_b
            bank = DATA if name.startswith("real") else PRIOR
            outputs[name] = judge(x_BCS, bank)[0].float()
        return outputs


class Cyclegan(System):
    """The system: the discriminators' turn, then the generators'."""

    models = ("generators",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.game = DataGame(self.settings)
        # The squares of the paper's least squares are whole; Mao et al.'s, of the game, are halves.
        self.scale = 2.0 if self.settings.adversarial == "lsgan" else 1.0
        self.pools = {side: Pool(self.settings.pool, collectives) for side in "ab"}
        self.turns = (
            Turn("discriminators", "generators", self.discriminators_loss),
            Turn("generators", "generators", self.generators_loss),
        )

    def build(self) -> dict[str, nn.Module]:
        """Both players."""
        return {
            "generators": Generators(self.config),
            "discriminators": Discriminators(self.config),
        }

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """The game's draws and those of the pools; domain B augments and disturbs as A does."""
        drawn = self.game.draw(keys, shape, step)
        for side, pool in self.pools.items():
            drawn |= {f"pool_{side}": pool.draw(keys(f"pool {side}"))}
        return drawn

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """Translations there, back, and of the target domains themselves."""
        assert micro.second is not None
        return forwards[maker](micro.x, micro.second, self.settings.identity_weight > 0)

    def discriminators_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """Each domain's real images against the pool's generated ones, halved as in the paper."""
        terms: Terms = {}
        for side, real in (("a", micro.x), ("b", micro.second)):
            assert real is not None
            terms |= self._judge(forwards, micro, made, side, real)
        return total(terms)

    def _judge(
        self, forwards: Forwards, micro: Micro, made: Outputs, side: str, real_BCS: Tensor
    ) -> Terms:
        game, judges = self.game, forwards["discriminators"]
        remembered = self.pools[side].exchange(made[f"fake_{side}"], micro.draws[f"pool_{side}"])
        leaf = game.leaf(real_BCS, micro.step)
        real, fake = f"real_{side}", f"fake_{side}"
        verdict = judges(
            **{
                real: game.shown(leaf, micro, "real"),
                fake: game.shown(remembered, micro, "generated"),
            }
        )
        terms: Terms = {
            f"discriminator_{side}": (
                0.5 * self.scale,
                game.critic_loss(verdict[real], verdict[fake]),
            )
        }
        penalties = game.penalties(
            lambda x: judges(**{real: game.shown(x, micro, "real")})[real],
            micro,
            leaf=leaf,
            logits=verdict[real],
            generated=remembered,
        )
        return terms | {f"{name}_{side}": term for name, term in penalties.items()}

    def generators_loss(
        self, forwards: Forwards, micro: Micro, made: Outputs
    ) -> tuple[Tensor, Statistics]:
        """Both verdicts, both cycles, both identities."""
        s, game = self.settings, self.game
        seen = {name: game.shown(made[name], micro, "generated") for name in ("fake_a", "fake_b")}
        verdict = forwards["discriminators"](**seen)
        terms: Terms = {}
        for side, real in (("a", micro.x), ("b", micro.second)):
            assert real is not None
            adversarial = game.generator_loss(verdict[f"fake_{side}"])
            terms[f"adversarial_{side}"] = (self.scale, adversarial)
            cycle = reconstruction_loss("l1", made[f"cycle_{side}"].float(), real)
            terms[f"cycle_{side}"] = (s.cycle_weight, cycle)
            if s.identity_weight > 0:
                same = reconstruction_loss("l1", made[f"same_{side}"].float(), real)
                terms[f"identity_{side}"] = (s.cycle_weight * s.identity_weight, same)
        return total(terms)

    def state(self) -> dict[str, Tensor]:
        """The pools."""
        return {
            f"{side}.{name}": t for side, pool in self.pools.items() for name, t in pool.state()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back the pools."""
        for side, pool in self.pools.items():
            pool.load({"images": state[f"{side}.images"]} if state else {})

    def translate(self, players: Players, x_BCS: Tensor, to: str | None) -> Tensor:
        """x in the domain `to`; default: the second."""
        a, b = self.config.data.domains or ("a", "b")
        player = players["generators"]
        assert isinstance(player, Generators)
        if to not in (None, a, b):
            raise UsageError(f"there is no domain {to!r} to translate to: the run's are {a}, {b}")
        return (player.to_a if to == a else player.to_b)(x_BCS, DATA)

    def rows(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Domain A, in B, and back; domain B, in A, and back."""
        assert micro.second is not None
        made = players["generators"](micro.x, micro.second, False)
        names = ("fake_b", "cycle_a"), ("fake_a", "cycle_b")
        rows = {}
        for real, images, found in zip("ab", (micro.x, micro.second), names, strict=True):
            rows |= {f"real_{real}": images, **{name: made[name] for name in found}}
        return rows

    def compare(self, players: Players, micro: Micro) -> dict[str, tuple[Tensor, Tensor]]:
        """There and back against the sample, for each domain."""
        assert micro.second is not None
        made = players["generators"](micro.x, micro.second, False)
        return {
            "cycle_a": (made["cycle_a"], micro.x),
            "cycle_b": (made["cycle_b"], micro.second),
        }
