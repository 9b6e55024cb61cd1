"""What the ranks of the test under torchrun run."""

import os
import sys

from agehpc.cluster.collectives import mean_over_ranks
from agehpc.cluster.environment import resolve
from agehpc.cluster.groups import process_group

with process_group(resolve(os.environ), "cpu", 1, timeout_minutes=1) as ranks:
    mean = mean_over_ranks({"rank": float(ranks.env.rank)})["rank"]
    sys.stdout.write(f"{ranks.env.launcher}:{ranks.env.rank}:{mean}\n")
