"""Settings of a system that takes any networks, for tests of what has no system."""

from typing import ClassVar, Literal

from agehpc.config.systems import SystemConfig


class FreeSystem(SystemConfig):
    """Two players and whichever networks a test gives."""

    players: ClassVar = ("autoencoder", "critics")
    code: ClassVar = "tests.free:none"
    conditions: ClassVar = True
    takes_moments: ClassVar = True

    name: Literal["free"] = "free"
    """The learning system."""
