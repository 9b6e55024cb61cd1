"""Autoencoder: one player that reconstructs its input through a latent (Hinton and Salakhutdinov
2006), dense or convolutional by the configured networks.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size.
"""

from torch import Tensor, nn

from agehpc.config.schema import Config
from agehpc.config.systems import AutoencoderSystem
from agehpc.losses import reconstruction_loss
from agehpc.models.autoencoder import Autoencoder
from agehpc.models.blocks import DATA
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
)


class Plain(System):
    """The system: a single player whose only turn reconstructs."""

    models = ("autoencoder",)
    has_prior = False  # nothing matches its latents to one

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.turns = (Turn("autoencoder", "autoencoder", self.loss),)

    def build(self) -> dict[str, nn.Module]:
        """The autoencoder."""
        return {"autoencoder": Autoencoder(self.config)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        """Latents and reconstructions."""
        return forwards[maker](micro.x, labels_B=self.labels(micro))

    def loss(self, forwards: Forwards, micro: Micro, made: Outputs) -> tuple[Tensor, Statistics]:
        """Distance of the reconstruction to the sample."""
        value = distance(self.settings, made, micro.x)
        return value, scalars(reconstruction=value)

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        """E(x)."""
        return autoencoder(players).encode(x_BCS, DATA)["latent"]

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        """G(z): the statistics are those of encoded latents, the only ones it has met."""
        return autoencoder(players).generator(z_BZ, DATA, labels_B)

    def score(self, players: Players, micro: Micro) -> dict[str, Tensor]:
        """Mean squared error on pixels in [0, 1]."""
        error = self.reconstruct(players, micro) - micro.x
        return {"mse": 0.25 * error.square().flatten(1).mean(1)}


def autoencoder(players: Players) -> Autoencoder:
    """The player that encodes and decodes."""
    player = players["autoencoder"]
    assert isinstance(player, Autoencoder)
    return player


def distance(settings: AutoencoderSystem, made: Outputs, x_BCS: Tensor) -> Tensor:
    """Distance of a reconstruction to its sample by `settings.reconstruction` and `.pixels`."""
    kind = settings.reconstruction
    if kind == "bce":
        return reconstruction_loss("bce", made["logits"].float(), (x_BCS + 1) / 2)
    value = reconstruction_loss(kind, made["reconstruction"].float(), x_BCS)
    if settings.pixels == "signed":
        return value
    return value / (2 if kind == "l1" else 4)  # half the scale
