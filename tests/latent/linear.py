"""A model whose generator is a matrix: what optimisation should find is known exactly."""

from typing import Any, cast

import torch
from torch import Tensor

from agehpc.config.schema import Config, DataConfig, ModelConfig, PlayerConfig, RunConfig
from agehpc.trained import Model
from tests.free import FreeSystem


class Linear:
    """G(z) = z A, E(x) = 0; A has full rank."""

    conditional = False
    device = torch.device("cpu")

    def __init__(self, latent: int = 5, side: int = 8, *, encodes: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.side = side
        self.a_ZP = torch.randn(latent, side * side, generator=generator)
        self.encodes = encodes
        self.config = Config(
            run=RunConfig(recipe="test"),
            data=DataConfig(kind="image", size=side, frames=1, channels=1),
            system=FreeSystem(),
            model=ModelConfig(latent=latent),
            players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
        )

    def can(self, use: str) -> bool:
        return use == "generate" or (use == "encode" and self.encodes)

    def encode(self, x_BCS: Tensor) -> Tensor:
        return torch.zeros(len(x_BCS), len(self.a_ZP))

    def generate(self, z_BZ: Tensor, labels: Any = None, *, from_prior: bool = False) -> Tensor:
        return (z_BZ @ self.a_ZP).unflatten(1, (1, self.side, self.side))

    decode = generate

    def noise(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(first + count, len(self.a_ZP), generator=generator)[first:]

    def as_model(self) -> Model:
        return cast(Model, self)
