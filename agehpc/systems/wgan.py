"""Wasserstein GAN: with a gradient penalty (Gulrajani et al. 2017) or clipped weights (Arjovsky et
al. 2017), the critic several turns ahead of the generator.
"""

from agehpc.config.schema import Config
from agehpc.systems.base import Collectives
from agehpc.systems.gan import Gan


class Wgan(Gan):
    """The system: a GAN whose critic takes `n_critic` turns, each on a batch of its own."""

    judge = "critic"

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        if self.settings.weight_clip > 0:
            self.weight_bounds = {self.judge: self.settings.weight_clip}
