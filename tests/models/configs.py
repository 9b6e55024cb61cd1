"""Configurations of networks for the tests of this folder."""

from typing import Any

from agehpc.config.schema import Config, DataConfig, ModelConfig, PlayerConfig, RunConfig
from tests.free import FreeSystem


def config(
    size: int = 32,
    frames: int | None = None,
    *,
    channels: int = 3,
    classes: tuple[str, ...] = (),
    **model: Any,
) -> Config:
    """Images, or clips where frames are given; only the networks named in `model`."""
    made = Config(
        run=RunConfig(recipe="test"),
        data=DataConfig(
            kind="image" if frames is None else "video",
            size=size,
            frames=frames or 1,
            channels=channels,
        ),
        system=FreeSystem(),
        model=ModelConfig(**model),
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )
    return made.model_copy(update={"data": made.data.model_copy(update={"classes": classes})})
