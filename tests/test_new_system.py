"""Another system needs nothing but a file, a recipe and a test: this file is all three.

The system: a linear map squeezes a sample to a few numbers and back; it remembers its steps.
Shapes: B batch, C channels, H, W, Z latent size, F pixels of a sample.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import agehpc
from agehpc import checkpoints, cli
from agehpc.config.load import resolve
from agehpc.config.run_files import read_run_config, write_run_config
from agehpc.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ObserveConfig,
    OptimConfig,
    PlayerConfig,
    RunConfig,
    TrainConfig,
)
from agehpc.config.section import NonNegative
from agehpc.config.systems import SystemConfig
from agehpc.errors import ConfigError, RunError, UsageError
from agehpc.recipes import RECIPES
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
from tests.ranks import ROOT

SIZE, LATENT = 8, 4


class ToyConfig(SystemConfig):
    """Settings of the toy."""

    players: ClassVar = ("toy",)
    code: ClassVar = "tests.test_new_system:Toy"

    name: Literal["toy"] = "toy"
    """The learning system."""
    weight: NonNegative = 1.0
    """Weight of the only term."""


def toy_recipe() -> Config:
    """A linear autoencoder."""
    return Config(
        run=RunConfig(recipe="toy_recipe"),
        data=DataConfig(kind="image", size=SIZE, frames=1, flip=False),
        system=ToyConfig(),
        model=ModelConfig(latent=LATENT),
        players={"toy": PlayerConfig(optim=OptimConfig(lr=0.01))},
        train=TrainConfig(kimg=0.16, global_batch=8, save_every_kimg=0.08),
        evaluate=EvaluateConfig(samples=4),
        observe=ObserveConfig(tick_kimg=0.08, samples_every_kimg=0.16, grid=2, tensorboard=False),
    )


class Linear(nn.Module):
    """The player."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.data.channels is not None
        self.shape = (config.data.channels, SIZE, SIZE)
        self.down = nn.Linear(self.shape[0] * SIZE * SIZE, config.model.latent)
        self.up = nn.Linear(config.model.latent, self.down.in_features)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        z_BZ = self.down(x_BCHW.flatten(1))
        return {"latent": z_BZ, "reconstruction": self.up(z_BZ).unflatten(1, self.shape)}


class Toy(System):
    """The system."""

    models = ("toy",)

    def __init__(self, config: Config, collectives: Collectives) -> None:
        super().__init__(config, collectives)
        self.turns = (Turn("toy", "toy", self.loss),)
        self.remembered = torch.zeros(1)

    def build(self) -> dict[str, nn.Module]:
        return {"toy": Linear(self.config)}

    def draw(self, keys: Keys, shape: tuple[int, ...], step: int) -> dict[str, Tensor]:
        return {}

    def make(self, maker: str, forwards: Forwards, micro: Micro) -> dict[str, Tensor]:
        return forwards[maker](micro.x)

    def loss(self, forwards: Forwards, micro: Micro, made: Outputs) -> tuple[Tensor, Statistics]:
        self.remembered = self.remembered + 1
        value = (made["reconstruction"] - micro.x).square().mean()
        return self.settings.weight * value, scalars(squared=value)

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.remembered}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.remembered = state["steps"]

    def encode(self, players: Players, x_BCS: Tensor) -> Tensor:
        return players["toy"](x_BCS)["latent"]

    def generate(
        self, players: Players, z_BZ: Tensor, labels_B: Tensor | None, bank: int
    ) -> Tensor:
        player = players["toy"]
        assert isinstance(player, Linear)
        return player.up(z_BZ).unflatten(1, player.shape)


def main() -> None:
    """What a process of its own runs: the command line, with the recipe among the others."""
    RECIPES["toy_recipe"] = toy_recipe
    sys.exit(cli.main(sys.argv[1:]))


def agehpc_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from tests.test_new_system import main; main()"
    path = ":".join(str(ROOT / part) for part in (".", "kernels", "tune"))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def told(output: str) -> str:
    """A message without its line breaks."""
    return " ".join(output.split())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("toy")
    (base / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(32):
        pixels = rng.integers(0, 255, (2, 2, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(base / "images" / f"{number}.png")
    flags = ["--size", str(SIZE), "--image-format", "png", "--validation-fraction", "0.3"]
    assert cli.main(["data", "pack", str(base / "images"), str(base / "shards"), *flags]) == 0
    return base / "shards"


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "toy_recipe", toy_recipe)


def test_it_trains_resumes_and_is_used(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    words = ["train", "toy_recipe", "--data.shards", str(shards), "--out", str(run)]
    ended = agehpc_command(*words, "--system.weight", "2")
    assert ended.returncode == 0, ended.stderr
    config = read_run_config(run)
    assert isinstance(config.system, ToyConfig)
    assert config.system.weight == 2.0
    first = checkpoints.newest(run)
    assert first is not None
    assert first.name == "step-00000020"
    ended = agehpc_command(*words, "--system.weight", "2", "--train.kimg", "0.24")
    assert ended.returncode == 0, ended.stderr
    assert "resumed from step-00000020" in ended.stdout + ended.stderr
    last = checkpoints.newest(run)
    assert last is not None
    # It remembers across the stop, and Adam did not start anew.
    assert checkpoints.read_tensors(last, "system")["steps"].item() == 30
    losses = [
        line for line in (run / "metrics.jsonl").read_text().splitlines() if '"squared"' in line
    ]
    assert len(losses) == 3
    model = agehpc.load(run)
    weights = checkpoints.read_tensors(last, "ema")
    x = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    z = x.flatten(1) @ weights["toy.down.weight"].T + weights["toy.down.bias"]
    torch.testing.assert_close(model.encode(x), z)
    y = z @ weights["toy.up.weight"].T + weights["toy.up.bias"]
    torch.testing.assert_close(model.reconstruct(x).flatten(1), y)
    assert model.can("encode")
    assert not model.can("translate")
    with pytest.raises(UsageError, match=r"trains the system toy, which has no translator"):
        model.translate(x)
    # Its directory is no place for another system's run.
    other = ["train", "mnist_autoencoder", *words[2:], "--data.size", str(SIZE)]
    ended = agehpc_command(*other, "--dry-run")
    assert ended.returncode == 1
    assert f"{run} holds another run: system.name toy -> autoencoder" in told(ended.stderr)


def test_its_settings_survive_the_run_directory(tmp_path: Path):
    config, sources = resolve("toy_recipe", None, {"system.weight": ("0.5",)})
    assert isinstance(config.system, ToyConfig)
    assert sources["system.weight"] == "flag"
    write_run_config(tmp_path, config)
    assert read_run_config(tmp_path) == config
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("weight: 0.5", "weights: 0.5"))
    with pytest.raises(RunError, match=r"weights"):
        read_run_config(tmp_path)


def test_its_settings_are_flags_with_their_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["train", "toy_recipe", "--help"]) == 0
    shown = told(capsys.readouterr().out)
    assert "--system.weight" in shown
    assert "Weight of the only term." in shown
    with pytest.raises(ConfigError, match=r"--system.weight: got '-1'"):
        resolve("toy_recipe", None, {"system.weight": ("-1",)})
