"""The whole training step with fused norms beside the same step with torch's own."""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import throughput
from demo_shards import pack_demo

RECIPES = ("dcgan_64", "video_age_64")
KERNELS = ("auto", "reference")


def steps(chosen: argparse.Namespace, extra: list[str]) -> list[dict[str, Any]]:
    """Return rows of samples/s and peak memory, `auto` over `reference`, for each recipe.

    Both run in processes of their own and take turns. `chosen` holds kernels.py's options of
    --step: `recipe`, `steps`, `tick_steps`, `repeats`.

    Raises:
        throughput.RunFailedError: a run did not reach its end.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as name:
        for recipe in chosen.recipe:
            words = ["--recipe", recipe]
            for option in ("steps", "tick_steps", "repeats"):
                words += [f"--{option.replace('_', '-')}", str(getattr(chosen, option))]
            options, flags = throughput.parse([*words, "--", *extra])
            todo = [
                variant
                for kernel in KERNELS
                for variant in throughput.variants(options, [*flags, "--train.norm-kernel", kernel])
            ]
            data, folder = todo[0].config.data, Path(name) / recipe
            folder.mkdir()
            shards = pack_demo(data.kind, data.size, folder)
            measured, failed = throughput.measure(todo, options, [shards, shards], folder)
            for text in failed.values():
                raise throughput.RunFailedError(text)
            rows += compare(recipe, *measured)
    return rows


def compare(
    recipe: str, mine: throughput.Measured, other: throughput.Measured
) -> list[dict[str, Any]]:
    """Return two rows: the ratio of speeds in each repeat, and of peak memory."""
    low, middle, high = throughput.ratio(mine, other)
    about = {"part": "step", "provider": "auto", "over": "reference", "note": recipe}
    speeds = [median(m.column("samples_per_s")) for m in (mine, other)]
    memory = [max(m.memory_gib) for m in (mine, other)]
    return [
        about
        | {"quantity": "speed ratio", "value": middle, "median": middle, "low": low, "high": high}
        | {"detail": f"{speeds[0]:.4g} and {speeds[1]:.4g} samples/s"},
        about
        | {"quantity": "peak memory ratio", "value": memory[0] / memory[1]}
        | {"detail": f"{memory[0]:.4g} and {memory[1]:.4g} GiB"},
    ]
