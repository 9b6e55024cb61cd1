"""What the ranks of the tests of groups, collectives and signals run."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from agehpc.cluster.collectives import (
    any_rank,
    barrier,
    broadcast_object,
    mean_over_ranks,
    raise_together,
    together,
)
from agehpc.cluster.environment import resolve
from agehpc.cluster.groups import Ranks, process_group
from agehpc.cluster.signals import StopFlag, agree
from agehpc.errors import AgehpcError, ConfigError, DataError, RunError


def collectives(ranks: Ranks, names: list[str]) -> dict[str, object]:
    rank = ranks.env.rank
    return {
        "any": [any_rank(rank == 1), any_rank(False), any_rank(rank == 0, ranks.device)],
        "mean": mean_over_ranks({name: {"a": 1.0, "b": 10.0}[name] + rank for name in names}),
        "object": broadcast_object(f"from {rank}", source=1),
        "together": together(lambda: {"pid": os.getpid(), "rank": rank}),
    }


def place(ranks: Ranks) -> dict[str, object]:
    return {
        "variables": {name: os.environ[name] for name in ranks.env.variables()},
        "threads": torch.get_num_threads(),
        "backend": dist.get_backend(),
        "device": str(ranks.device),
    }


def waits_at_barrier(ranks: Ranks) -> float:
    """Seconds this rank was held up; rank 1 comes late."""
    time.sleep(0.5 * ranks.env.rank)
    arrived = time.monotonic()
    barrier()
    return time.monotonic() - arrived


def errors(ranks: Ranks) -> list[list[object]]:
    rank = ranks.env.rank
    caught: list[list[object]] = []

    def bad_run() -> None:
        raise RunError("no run here")

    for failing in (
        lambda: together(bad_run),
        lambda: together(lambda: Path("/proc/nowhere").mkdir()),
        lambda: raise_together(DataError("rank 1's shard") if rank == 1 else None),
        lambda: raise_together(DataError(f"rank {rank}") if rank else None),
    ):
        try:
            failing()
        except (AgehpcError, OSError) as error:
            caught.append(
                [
                    isinstance(error, (RunError, DataError, OSError)),
                    str(error),
                    getattr(error, "exit_code", 1),
                    getattr(error, "silent", False),
                ]
            )
    raise_together(None)
    return caught


def agreements(ranks: Ranks) -> list[str | None]:
    rank = ranks.env.rank
    reasons: list[str | None] = []
    for on_rank_0, on_rank_1 in (
        (None, None),
        (signal.SIGUSR1, None),
        (None, signal.SIGTERM),
        (signal.SIGUSR2, signal.SIGINT),
    ):
        with StopFlag() as flag:
            number = (on_rank_0, on_rank_1)[rank]
            if number is not None:
                os.kill(os.getpid(), number)
            reasons.append(agree(flag))
    with StopFlag() as flag:
        if rank == 0:
            flag.request("minutes")
        reasons.append(agree(flag))
    return reasons


def everything(ranks: Ranks) -> dict[str, object]:
    """All of the above in one process: starting Python and torch takes longer than they do."""
    return {
        "collectives": collectives(ranks, ["b", "a"] if ranks.env.rank else ["a", "b"]),
        "place": place(ranks),
        "barrier": waits_at_barrier(ranks),
        "errors": errors(ranks),
        "agreements": agreements(ranks),
    }


def bug_on_rank_0() -> None:
    """Rank 0 meets a bug while the others wait for it: they must end too."""

    def bug() -> None:
        raise KeyError("a bug")

    with process_group(resolve(os.environ), "cpu", 1, timeout_minutes=5):
        together(bug)


def bad_run_directory() -> None:
    """Rank 0 meets an error for the user: all end with it, as the command line does."""

    def bad() -> None:
        raise ConfigError("no such thing as runs/x")

    try:
        with process_group(resolve(os.environ), "cpu", 1, timeout_minutes=5):
            together(bad)
    except AgehpcError as error:
        if not error.silent:
            sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
