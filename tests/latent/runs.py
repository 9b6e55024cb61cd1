"""Runs and shards small enough to make in a test, and commands run on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from agehpc import checkpoints
from agehpc.cli import main
from agehpc.config.run_files import write_run_config
from agehpc.config.schema import (
    AgeSystem,
    Config,
    DataConfig,
    LatentNetworkConfig,
    ModelConfig,
    NetworkConfig,
    PlayerConfig,
    RunConfig,
)
from agehpc.data.shards import read_manifest
from agehpc.models.autoencoder import Autoencoder
from agehpc.systems.age import Critics
from tests.data.samples import write_video

LATENT = 6
SIZE = 16
CLASSES = ("dark", "light")


def pack_images(folder: Path, count: int = 24, *, classes: bool = True) -> Path:
    """Grey pictures of a light square on noise, the classes told apart by its brightness."""
    draws = np.random.default_rng(0)
    for n in range(count):
        name = CLASSES[n % 2] if classes else "all"
        x_HW = draws.integers(0, 60, (SIZE, SIZE), dtype=np.uint8)
        top, left = draws.integers(0, SIZE // 2, 2)
        x_HW[top : top + 8, left : left + 8] += np.uint8(40 if n % 2 == 0 else 180)
        path = folder / "source" / name / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x_HW).save(path)
    words = ["--size", str(SIZE), "--image-format", "png", "--validation-fraction", "0.5"]
    assert main(["data", "pack", str(folder / "source"), str(folder / "shards"), *words]) == 0
    return folder / "shards"


def pack_clips(folder: Path, count: int = 6) -> Path:
    """Clips of 8 frames in which a square moves right."""
    for n in range(count):
        path = folder / "source" / CLASSES[n % 2] / f"{n}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = []
        for t in range(8):
            x_HWC = np.full((SIZE, SIZE, 3), 30 * n, np.uint8)
            x_HWC[4:12, t : t + 8] = 255
            frames.append(x_HWC)
        write_video(path, frames)
    words = ["--size", str(SIZE), "--validation-fraction", "0.5"]
    assert main(["data", "pack", str(folder / "source"), str(folder / "shards"), *words]) == 0
    return folder / "shards"


def make_run(folder: Path, shards: Path, *, latent: int = LATENT, **model: Any) -> Path:
    """A run of an untrained A.G.E. whose statistics have seen some noise."""
    manifest = read_manifest(shards)
    net = NetworkConfig(width=4, max_width=16)
    config = Config(
        run=RunConfig(recipe="image_age_demo" if manifest.kind == "image" else "video_age_demo"),
        data=DataConfig(
            kind=manifest.kind,
            shards=str(shards),
            size=manifest.size,
            frames=1 if manifest.kind == "image" else 8,
            channels=manifest.channels,
            dataset_id=manifest.dataset_id,
            classes=manifest.classes,
        ),
        system=AgeSystem(),
        model=ModelConfig(
            latent=latent,
            encoder=net,
            generator=net,
            discriminator=net,
            latent_discriminator=LatentNetworkConfig(width=8),
            **model,
        ),
        players={"autoencoder": PlayerConfig(), "critics": PlayerConfig()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder, critics = Autoencoder(config), Critics(config)
        for layer in autoencoder.modules():  # what training starts from is all but constant
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                layer.reset_parameters()
        space = (SIZE, SIZE) if manifest.kind == "image" else (8, SIZE, SIZE)
        for _ in range(3):
            x_BCS = torch.rand(4, manifest.channels, *space) * 2 - 1
            autoencoder(x_BCS, torch.randn(4, latent), cycle=True)
            critics(real=x_BCS, generated=x_BCS)
    folder.mkdir(parents=True, exist_ok=True)
    write_run_config(folder, config)
    averaged = {f"autoencoder.{name}": tensor for name, tensor in autoencoder.state_dict().items()}
    tensors = {"ema": averaged, "critics": critics.state_dict()}
    checkpoints.write(folder, 1, tensors, {"step": 1, "samples_seen": 8})
    return folder


def figures(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    """What a command that succeeds prints as JSON."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert main([*map(str, words)]) in (1, 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err
