"""Kill training jobs on a real Slurm at random moments, as often as asked for.

    python tests/cluster/soak.py --kills 100

Starts a cluster of two nodes on this machine, as the tests do, and stops with an error at the first
run that does not end as the undisturbed one, bit for bit. `--seed` repeats a row of disturbances,
though not their exact moments.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agehpc import cli
from tests.cluster.kills import random_moments
from tests.cluster.slurm import Cluster, why_not


def main() -> int:
    """Run the soak test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="disturbances (default 20)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the clock")
    options = parser.parse_args()
    if (reason := why_not()) is not None:
        parser.error(reason)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name, Cluster() as cluster:
        folder = Path(name)
        folder.chmod(0o755)
        if code := cli.main(["data", "demo", str(folder / "shards"), "--size", "28"]):
            return code
        random_moments(cluster, folder / "shards", folder, options.kills, options.seed, tell)
    return 0


def tell(line: str) -> None:
    """Print a line at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
