"""Learning systems: one file each, its players and their turns."""

from agehpc.config.schema import Config
from agehpc.systems.age import Age
from agehpc.systems.turns import Moments, System

SYSTEMS = {"age": Age}


def build_system(config: Config, moments: Moments) -> System:
    """The system that a configuration names.

    Args:
        config: with channels filled in from the shards.
        moments: mean and biased variance of latents over the global batch. Collective.
    """
    return SYSTEMS[config.system.name](config, moments)
