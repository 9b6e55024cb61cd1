"""Whether a CycleGAN's translations pass for the other domain, and what its cycles lose.

    python benchmarks/translation.py runs/cyclegan
    python benchmarks/translation.py runs/cyclegan --json

A small classifier of the run's two domains is trained on the real training split and judges the
validation split of both: real samples (its mistakes among them are its false positives) and what
the run makes of them. `called_B` is the share that it calls domain B. Cycle PSNR is taken between
samples and their way there and back.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agehpc.data.loader import samples_at
from agehpc.data.mixture import read_shards
from agehpc.data.pixels import to_float
from agehpc.data.shards import Split
from agehpc.data.stream import Stream
from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.evaluate.reconstruction import psnr
from agehpc.observe.grids import to_uint8
from agehpc.trained import Model, load

# Letters of shapes: N images, B of a batch, C channels, H height, W width.


class Classifier(nn.Module):
    """Four convolutions of stride 2: the logit of the second of two classes, of 64 x 64 images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (channels, 16, 32, 64, 64)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        head = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 1))
        self.layers = nn.Sequential(*layers, *head)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B]."""
        return self.layers(x_BCHW)[:, 0]


def fit(x_NCHW: Tensor, labels_N: Tensor, *, epochs: int = 4, seed: int = 0) -> Classifier:
    """Train a classifier on uint8 images with labels 0 and 1; both classes count alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(x_NCHW.shape[1])
        weight = (labels_N == 0).sum() / (labels_N == 1).sum()
        adam = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(epochs):
            for picks in torch.randperm(len(x_NCHW)).split(64):
                x_BCHW = to_float(x_NCHW[picks])
                flipped = torch.rand(len(picks)) < 0.5
                x_BCHW = torch.where(flipped[:, None, None, None], x_BCHW.flip(-1), x_BCHW)
                loss = functional.binary_cross_entropy_with_logits(
                    net(x_BCHW), labels_N[picks].float(), pos_weight=weight
                )
                adam.zero_grad()
                loss.backward()
                adam.step()
    return net.eval()


@torch.no_grad()
def called(net: Classifier, x_NCHW: Tensor) -> float:
    """Return the share of uint8 images that are called the second class."""
    return float(torch.cat([net(to_float(x)) > 0 for x in x_NCHW.split(256)]).float().mean())


def domain(model: Model, split: Split, name: str) -> Tensor:
    """Return the images of a domain: uint8 NCHW."""
    data = model.config.data
    manifest = read_shards(data)
    single = data.model_copy(update={"pairing": "none", "domains": None})
    stream = Stream(data, manifest, split, None, name)
    ends = np.cumsum([0, *(shard.samples for shard in manifest.splits[split])])
    places = (stream.place(position) for position in range(len(stream)))
    return samples_at(
        single, split=split, positions=[int(ends[shard]) + index for shard, index in places]
    ).pixels


def translated(model: Model, x_NCHW: Tensor, to: str, batch: int) -> Tensor:
    """Return images in the domain `to`: uint8 NCHW."""
    parts = [to_uint8(model.translate(to_float(x), to=to)) for x in x_NCHW.split(batch)]
    return torch.from_numpy(np.concatenate(parts))


def measure(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the classifier says of both directions."""
    data = model.config.data
    if data.domains is None:
        raise UsageError(f"{options.run} has no two domains: it is no run of cyclegan")
    train = [domain(model, "train", name) for name in data.domains]
    labels_N = torch.cat([torch.full((len(x),), n) for n, x in enumerate(train)])
    net = fit(torch.cat(train), labels_N, epochs=options.epochs, seed=options.seed)
    real = [domain(model, "validation", name) for name in data.domains]
    told: dict[str, Any] = {"classifier": f"{options.epochs} epochs of {len(labels_N)} images"}
    for x_NCHW, source, target, sign in zip(
        real, data.domains, reversed(data.domains), (1, -1), strict=True
    ):
        made = translated(model, x_NCHW, target, options.batch)
        back = translated(model, made, source, options.batch)
        before, after = called(net, x_NCHW), called(net, made)
        told[f"{source} to {target}"] = {
            "n": len(x_NCHW),
            f"real_called_{target}": before if sign > 0 else 1 - before,
            f"translated_called_{target}": after if sign > 0 else 1 - after,
            "cycle_psnr_db": float(psnr(back.numpy(), x_NCHW.numpy()).mean()),
        }
    return told


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run directory of cyclegan")
    add("--checkpoint", default="latest", help="latest, or a name as step-00001000")
    add("--epochs", type=int, default=4, help="epochs that the classifier is trained for")
    add("--seed", type=int, default=0, help="seed of the classifier")
    add("--batch", type=int, default=64, help="images translated at once")
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    options = parse(argv)
    try:
        model = load(options.run, checkpoint=options.checkpoint)
        told = {"run": str(options.run), "checkpoint": options.checkpoint}
        told |= measure(model, options)
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(told, indent=2))
        return EXIT_DONE
    for name, value in told.items():
        if not isinstance(value, dict):
            print(f"{name}  {value}")
            continue
        figures = (f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        print(f"{name}: {', '.join(figures)}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
