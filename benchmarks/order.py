"""What the order of samples costs and how well it mixes, in processor time.

    python benchmarks/order.py
    python benchmarks/order.py --shards-count 10000 --interleave 256 --json
    python benchmarks/order.py --shards shards/faces

resume: the first batch of a fresh order at 0 % and at 90 % of an epoch (no more than 1.2 times as
long); with --shards a real one, read and decoded. share_a_shard: how many times as often as in an
ideal permutation two samples of a batch come from one shard (no more than 2 at the default).
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.loader import train_batches
from agehpc.data.mixture import read_shards
from agehpc.data.order import Order
from agehpc.errors import EXIT_DONE


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def resumes(work: Callable[[int], object], samples: int, repeats: int) -> dict[str, float]:
    """Return the least times of starting at 0 % and 90 % of an epoch, which take turns.

    What else runs on the machine only adds to them.
    """
    starts = {"0": 0, "90": samples * 9 // 10}
    found = {name: [] for name in starts}
    for _, (name, start) in itertools.product(range(repeats), starts.items()):
        found[name].append(seconds(lambda start=start: work(start)))
    at_0, at_90 = (min(values) for values in found.values())
    return {"resume_0_ms": 1e3 * at_0, "resume_90_ms": 1e3 * at_90, "resume_ratio": at_90 / at_0}


def of_plan(sizes: tuple[int, ...], interleave: int, batch: int, repeats: int) -> dict[str, float]:
    """Measure an order of shards of these sizes."""
    total = sum(sizes)

    def make() -> Order:
        return Order("benchmark", 0, sizes, interleave)

    def first_batch(start: int) -> None:
        order = make()
        for position in range(start, start + batch):
            order.place(position)

    tracemalloc.start()
    order = make()
    for position in range(8 * batch):
        order.place(position)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    begun = seconds(lambda: [order.place(position) for position in range(8 * batch, 24 * batch)])
    ideal = sum(n * (n - 1) for n in sizes) / (total * (total - 1))
    starts = np.random.default_rng(0).integers(0, total - batch, 50).tolist()
    shared, distinct = [], []
    for start in starts:
        shards = Counter(order.place(position).shard for position in range(start, start + batch))
        shared.append(sum(n * (n - 1) for n in shards.values()) / (batch * (batch - 1)))
        distinct.append(len(shards))
    return {
        "samples": total,
        "plan_ms": 1e3 * statistics.median(seconds(lambda: make().place(0)) for _ in range(20)),
        **resumes(first_batch, total, repeats),
        "us_a_sample": 1e6 * begun / (16 * batch),
        "memory_mb": memory / 1e6,
        "share_a_shard": statistics.mean(shared) / ideal,
        "shards_in_a_batch": statistics.mean(distinct),
    }


def of_shards(shards: list[str], batch: int, repeats: int) -> dict[str, float]:
    """Measure the first batch of real shards."""
    manifest = read_shards(DataConfig(kind="image", frames=1, shards=tuple(shards)))
    made = {"kind": manifest.kind, "size": manifest.size, "shards": shards, "short_clips": "loop"}
    made |= {"frames": 1 if manifest.kind == "image" else 16}
    data = check(DataConfig.model_validate(made), manifest)

    def first_batch(start: int) -> None:
        stream = train_batches(
            data,
            0,
            start=start,
            global_batch=batch,
            micro_batch=batch,
            accumulation=1,
            rank=0,
            world_size=1,
        )
        next(stream)
        stream.close()

    first_batch(0)  # decoders are imported and initialised once
    total = manifest.samples("train")
    return {"samples": total} | resumes(first_batch, total, repeats)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = DataConfig(kind="image", frames=1).interleave
    parser.add_argument("--shards", nargs="+", help="read these instead of planning")
    parser.add_argument("--shards-count", type=int, default=1000, help="shards of the plan")
    parser.add_argument("--samples", type=int, default=1000, help="samples of a shard, about")
    parser.add_argument("--interleave", type=int, default=default)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.shards:
        row = of_shards(options.shards, options.batch, options.repeats)
    else:
        low, high = options.samples * 4 // 5, options.samples * 6 // 5 + 1
        sizes = np.random.default_rng(0).integers(low, high, options.shards_count)
        row = of_plan(tuple(sizes.tolist()), options.interleave, options.batch, options.repeats)
    if options.json:
        print(json.dumps(row))
    else:
        for name, value in row.items():
            print(f"{name}  {value:.4g}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
