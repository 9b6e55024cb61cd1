"""Learning systems: one file each, its players, their turns and what a trained one can do."""

import importlib

from agehpc.config.schema import Config
from agehpc.systems.base import Collectives, System


def build_system(config: Config, collectives: Collectives) -> System:
    """The system that a configuration names.

    Args:
        config: with what the shards decide filled in.
        collectives: what it does over all ranks.
    """
    module, _, name = config.system.code.partition(":")
    return getattr(importlib.import_module(module), name)(config, collectives)
