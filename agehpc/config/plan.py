"""The arithmetic of a run on a world size: batches, accumulation, steps. Imports no torch."""

import math
from dataclasses import dataclass

from agehpc.config.rules import PARTS
from agehpc.config.schema import Config
from agehpc.errors import ConfigError

LARGEST_BUCKET = 500_000_000
"""Elements of the buffer that ZeRO averages gradients in, at most: DeepSpeed's default."""
PERSISTENT = 100_000
"""Elements of a parameter that ZeRO stage 3 keeps whole between steps, at most: as well."""


@dataclass(frozen=True)
class Plan:
    """How a configuration runs on a number of ranks.

    Attributes:
        world_size: ranks.
        micro_batch: samples of one forward on one rank.
        accumulation: micro-batches of one optimizer step on each rank.
        global_batch: world_size x micro_batch x accumulation.
        batches: global batches that a step reads.
        samples_per_step: samples that the generator's side consumes in a step.
        samples: samples that the whole run is to see, at least.
        steps: steps of the whole run.
        shared_forward: the maker's forward runs once a step, before the first turn, and its own
            turn uses the same graph.
    """

    world_size: int
    micro_batch: int
    accumulation: int
    global_batch: int
    batches: int
    samples_per_step: int
    samples: int
    steps: int
    shared_forward: bool


def make_plan(config: Config, world_size: int) -> Plan:
    """Check a configuration against a world size.

    Raises:
        ConfigError: batches that do not divide, or are too small to take statistics of.
    """
    train = config.train
    batch = train.global_batch
    if batch % world_size:
        below, above = batch // world_size * world_size, -(-batch // world_size) * world_size
        choices = " or ".join(str(b) for b in (below, above) if b)
        raise ConfigError(
            f"--train.global-batch {batch} does not divide over {world_size} ranks; use {choices}, "
            "or another number of ranks"
        )
    share = batch // world_size
    micro = train.micro_batch or share
    if share % micro:
        divisors = [d for d in range(1, share + 1) if share % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - micro))
        raise ConfigError(
            f"--train.micro-batch {micro} does not divide a rank's share of the global batch, "
            f"{batch} / {world_size} ranks = {share}; use {nearest}"
        )
    if micro * world_size < 2 and _takes_moments(config):
        raise ConfigError(
            f"a micro-batch of {micro} on {world_size} rank has no variance, which the latents' "
            "moments and batch norms need; raise --train.micro-batch or --train.global-batch to 2"
        )
    accumulation = share // micro
    seen = batch * config.system.generator_batches
    samples = max(1, round(train.kimg * 1000))  # whole: 0.057 * 1000 is above 57 in floats
    return Plan(
        world_size=world_size,
        micro_batch=micro,
        accumulation=accumulation,
        global_batch=batch,
        batches=config.system.batches,
        samples_per_step=seen,
        samples=samples,
        steps=math.ceil(samples / seen),
        shared_forward=accumulation == 1
        and config.system.shares_forward
        and config.system.batches == 1
        and all(player.zero.stage <= 2 for player in config.players.values()),
    )


def bucket_elements(parameters: int) -> int:
    """Elements of the buffer that ZeRO averages a player's gradients in: all of them at once."""
    return min(parameters, LARGEST_BUCKET)


def _takes_moments(config: Config) -> bool:
    """Whether statistics are taken over a batch: of latents, or by a norm."""
    parts = [getattr(config.model, part) for part in PARTS]
    norms = {part.norm for part in parts if hasattr(part, "norm")}
    return config.system.takes_moments or bool(norms & {"batch", "sync_batch"})
