"""Denoising autoencoder (Vincent et al. 2008): the sample is corrupted on its way in, the clean
one is the target. The network is an autoencoder, or a translator whose skips keep resolution.

Shapes: B batch, C channels, S (H, W) or (T, H, W).
"""

from typing import Any

from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.models.autoencoder import Autoencoder
from agehpc.models.blocks import DATA, squashed
from agehpc.models.build import build_translator
from agehpc.models.corrupt import corrupt, noise
from agehpc.systems.autoencoder import Plain
from agehpc.systems.base import Forwards, Keys, Micro, Players


class Restorer(nn.Module):
    """A translator as the player: corrupted sample in, clean one out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.data.channels
        assert channels is not None
        self.translator = build_translator(config, channels, channels)

    def forward(self, x_BCS: Tensor) -> dict[str, Tensor]:
        """logits and reconstruction."""
        logits = self.translator.logits(x_BCS, DATA)
        return {"logits": logits, "reconstruction": squashed(logits, self.translator.output)}


class Denoising(Plain):
    """The system: the autoencoder's turn with a corrupted input."""

    def build(self) -> dict[str, nn.Module]:
        """An autoencoder, or a translator in its place."""
        config = self.config
        translates = config.model.translator is not None
        return {"autoencoder": Restorer(config) if translates else Autoencoder(config)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """What the corruption needs to be drawn."""
        drawn = noise(self.settings.corruption, keys("corruption"), shape)
        return {} if drawn is None else {"corruption": drawn}

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """What the player makes of the corrupted sample."""
        return self._restored(forwards[maker], self.corrupted(micro))

    def _restored(self, player: Any, x_BCS: Tensor) -> dict[str, Tensor]:
        made = player(x_BCS)
        if not self.settings.residual:
            return made
        return {"reconstruction": x_BCS + made["logits"]}

    def corrupted(self, micro: Micro) -> Tensor:
        """The samples as the player gets them."""
        s = self.settings
        return corrupt(s.corruption, micro.x, s.level, micro.draws.get("corruption"))

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """E(x), where the player has a latent."""
        self._require_latent("encode")
        return super().encode(players, x_BCS)

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z), where the player has a latent."""
        self._require_latent("generate")
        return super().generate(players, z_BZ, labels_B, bank)

    def _require_latent(self, use: str) -> None:
        if not self.can(use):
            raise self.lacks(use)

    def can(self, use: str) -> bool:
        """A translator neither encodes nor generates."""
        latent = self.config.model.translator is None
        return super().can(use) and (latent or use not in ("encode", "generate"))

    def restore(self, players: Players, x_BCS: Tensor) -> Tensor:
        """The clean sample that the player sees behind x, clipped to [-1, 1]."""
        return self._restored(players["autoencoder"], x_BCS)["reconstruction"].clamp(-1, 1)

    def rows(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Clean, corrupted, restored."""
        x_BCS = self.corrupted(micro)
        return {"real": micro.x, "corrupted": x_BCS, "restored": self.restore(players, x_BCS)}

    def compare(self, players: Players, micro: Micro) -> dict[str, tuple[Tensor, Tensor]]:
        """The corrupted and the restored samples against the clean ones."""
        x_BCS = self.corrupted(micro)
        restored = self.restore(players, x_BCS)
        return {"corrupted": (x_BCS, micro.x), "restored": (restored, micro.x)}

    def score(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Mean squared error on pixels in [0, 1]."""
        error = self.restore(players, self.corrupted(micro)) - micro.x
        return {"mse": 0.25 * error.square().flatten(1).mean(1)}
