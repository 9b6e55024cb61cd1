"""Stands in for `agehpc` in the tests of the batch scripts: `train RECIPE --out RUN ...`.

Every rank writes what it saw to RUN/rank-STARTS-RANK.json. AGEHPC_PROBE says how it behaves and
ends. `launch` is the real one.
"""

import json
import os
import sys
import time
from pathlib import Path

from agehpc import cli
from agehpc.cluster.environment import resolve
from agehpc.errors import EXIT_RESTART

ENV = resolve(os.environ)
START = int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def place(run: Path) -> int:
    """Nothing but the ranks."""
    return 0


def reduce(run: Path) -> int:
    """All ranks find each other."""
    from agehpc.cluster.collectives import mean_over_ranks
    from agehpc.cluster.groups import process_group

    with process_group(ENV, "cpu", 1, timeout_minutes=1):
        mean = mean_over_ranks({"rank": float(ENV.rank)})["rank"]
    sys.stdout.write(f"mean of rank {ENV.rank} is {mean}\n")
    return 0


def once(run: Path) -> int:
    """Save and ask to be run again at the first start; rank 1 shuts down later than rank 0."""
    if START:
        return 0
    _checkpoint(run)
    time.sleep(1.5 * ENV.rank)
    return EXIT_RESTART


def stuck(run: Path) -> int:
    """Ask to be run again without having saved."""
    return EXIT_RESTART


def chained(run: Path) -> int:
    """Save and ask to be run again, unless an earlier job did."""
    if ENV.rank == 0 and not (run / "checkpoints").exists():
        _checkpoint(run)
        return EXIT_RESTART
    return 0


def wait(run: Path) -> int:
    """Train until asked to stop, then save."""
    from agehpc.cluster.groups import process_group
    from agehpc.cluster.signals import StopFlag, agree

    with process_group(ENV, "cpu", 1, timeout_minutes=1), StopFlag() as flag:
        (run / f"training-{ENV.rank}").touch()
        while (reason := agree(flag)) is None:
            time.sleep(0.05)
        _checkpoint(run)
    sys.stdout.write(f"rank {ENV.rank} stops: {reason}\n")
    return EXIT_RESTART


def fail(run: Path) -> int:
    """Rank 1 fails while rank 0 would go on for long."""
    if ENV.rank == 0:
        time.sleep(300)
    return 3


def _checkpoint(run: Path) -> None:
    if ENV.rank == 0:
        folder = run / "checkpoints" / f"step-{START + 1:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()


def main(argv: list[str]) -> int:
    """Note what this rank saw, then act."""
    if argv[0] == "launch":
        return cli.main(argv)
    run = Path(argv[1] if argv[0] == "evaluate" else argv[argv.index("--out") + 1])
    run.mkdir(parents=True, exist_ok=True)
    folders = ("TMPDIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
    seen = {
        "argv": argv,
        "rank": ENV.rank,
        "local_rank": ENV.local_rank,
        "world_size": ENV.world_size,
        "local_world_size": ENV.local_world_size,
        "hostname": ENV.hostname,
        "master": [ENV.master_addr, ENV.master_port],
        "launcher": ENV.launcher,
        "code": os.environ.get("AGEHPC_HOME"),
        "folders": {name: os.environ[name] for name in folders},
        "tmp_is_there": Path(os.environ["TMPDIR"]).is_dir(),
    }
    (run / f"rank-{START}-{ENV.rank}.json").write_text(json.dumps(seen))
    return globals()[os.environ["AGEHPC_PROBE"]](run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
