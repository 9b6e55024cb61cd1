"""What too few samples do to frechet_lite0 and to KID: real samples against others alike.

    python benchmarks/bias.py --real faces64 --plot docs/bias.png
    python benchmarks/bias.py --real shards/images --sizes 50 100 200 --seeds 3 --json

Both sets are drawn at random from one, without a sample in common, so that the true distance is 0.
The Frechet distance of N against N is above it by about slope / N (Chong and Forsyth 2020): a line
through the values over 1 / N meets 1 / N = 0 at an estimate of the distance of infinitely many.
One line goes through the sizes below the number of features, which are what a small evaluation
has, one through those above. KID (the unbiased squared MMD of all 2 N samples) is around 0 for
every N.

One row a size is added to results/bias.csv. Needs agehpc[evaluate], and matplotlib for --plot.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_csv import append
from torch import Tensor

from agehpc.cluster.environment import resolve
from agehpc.cluster.groups import process_group
from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.evaluate import reference
from agehpc.evaluate.collect import Want, collect
from agehpc.evaluate.features.base import build
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.kernel_distance import kid
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.sources import open_source
from agehpc.observe import environment

# Letters of shapes: N samples, F features.
RESULTS = Path(__file__).resolve().parent / "results" / "bias.csv"
COLUMNS = (
    *("date", "metric", "n", "mean", "low", "high", "seeds", "infinite", "through"),
    *("real", "of", "features", "torch", "agehpc", "revision"),
)
SIZES = (50, 100, 200, 400, 800, 1500, 3000, 5000)
Row = dict[str, Any]


def features(place: str, split: Any, cache: Path) -> Tensor:
    """Return the Lite0 features NF of all samples at a place; they are kept for the next time."""
    source, extractor = open_source(place, split), build("lite0", "cpu")
    want = Want("features", "rows")
    about = {**extractor.fingerprint, **source.identity, "n": source.count, "every_frame": 1}
    found = reference.load(about, cache)
    if found is None:
        with process_group(resolve({}), "cpu", torch.get_num_threads()):
            found = collect(source, extractor, [want], 32, 1)[want]
        reference.save(about, found, cache)
    assert isinstance(found, Tensor)
    return found


def distances(x_NF: Tensor, y_NF: Tensor) -> tuple[float, float]:
    """Return the Frechet distance and KID of two sets of as many samples."""
    both = [Moments(x_NF.shape[1]) for _ in "xy"]
    for moments, rows in zip(both, (x_NF, y_NF), strict=True):
        moments.add(rows)
    x, y = both
    distance = frechet(x.mean_F, x.covariance(), y.mean_F, y.covariance())
    return distance, kid(x_NF, y_NF, subsets=1, size=len(x_NF))[0]


def measured(x_NF: Tensor, sizes: Sequence[int], seeds: int) -> dict[str, np.ndarray]:
    """Return [sizes, seeds] values by the name of the metric."""
    values = np.zeros((len(sizes), seeds, 2))
    for i, n in enumerate(sizes):
        for seed in range(seeds):
            order = torch.randperm(len(x_NF), generator=torch.Generator().manual_seed(seed))
            values[i, seed] = distances(x_NF[order[:n]], x_NF[order[n : 2 * n]])
    return {"frechet_lite0": values[..., 0], "kid_lite0": values[..., 1]}


def line(sizes: Sequence[int], means: np.ndarray) -> tuple[float, float]:
    """Return slope and value at infinity of the line through means over 1 / N."""
    slope, infinite = np.polyfit(1 / np.array(sizes), means, 1)
    return float(slope), float(infinite)


def fits(sizes: Sequence[int], means: np.ndarray, count: int) -> dict[tuple[int, int], Any]:
    """Return lines through the three largest sizes below so many features, and those above.

    By their first and last size.
    """
    above = [i for i, n in enumerate(sizes) if n > count]
    below = [i for i, n in enumerate(sizes) if n <= count][-3:]
    return {
        (sizes[part[0]], sizes[part[-1]]): line([sizes[i] for i in part], means[part])
        for part in (below, above)
        if len(part) > 1
    }


def plot(path: Path, sizes: Sequence[int], found: dict[str, np.ndarray], count: int) -> None:
    """Write the figure as PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    values = found["frechet_lite0"]
    shown = [i for i, n in enumerate(sizes) if n >= min(200, sizes[-1])]
    for i in shown:
        x = 1000 / sizes[i]
        left.plot([x] * values.shape[1], values[i], "o", color="tab:blue", markersize=4, alpha=0.5)
        note = {"textcoords": "offset points", "xytext": (8, -10), "fontsize": 8}
        left.annotate(f"N = {sizes[i]}", (x, values[i].min()), **note)
    for (low, high), (slope, infinite) in fits(sizes, values.mean(1), count).items():
        reach = np.array([0, 1000 / low])
        style = {"color": "tab:orange" if high > count else "tab:gray", "linestyle": "--"}
        label = f"line through N = {low} to {high}: {infinite:.1f} at 1/N = 0"
        left.plot(reach, infinite + slope * reach / 1000, label=label, **style)
        left.plot([0], [infinite], "s", color=style["color"], clip_on=False)
    left.plot([0], [0], "k*", markersize=10, clip_on=False, linestyle="none", label="the truth")
    left.set_xlim(0, 1000 / sizes[shown[0]] * 1.2)
    left.set_ylim(0, values[shown[0]].max() * 1.25)
    left.set_xlabel("1000 / N (N samples against N others)")
    left.set_ylabel("frechet_lite0 (squared units of the features)")
    left.set_title("Fréchet distance of real samples to others falls with N")
    left.legend(loc="upper left", fontsize=8)
    values = found["kid_lite0"]
    for n, row in zip(sizes, values, strict=True):
        label = "a draw" if n == sizes[0] else None
        right.plot([n] * len(row), row, "o", color="tab:blue", markersize=4, alpha=0.5, label=label)
    right.plot(sizes, values.mean(1), color="tab:blue", label="mean of the draws")
    right.axhline(0, color="black", linewidth=0.8)
    right.set_xscale("log")
    right.set_xticks(sizes, [str(n) for n in sizes], fontsize=8)
    right.minorticks_off()
    right.set_xlabel("N (N samples against N others)")
    right.set_ylabel("squared MMD of Lite0 features (no unit)")
    right.set_title("KID of the same lies about 0 whatever N")
    right.legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def rows_of(sizes: Sequence[int], found: dict[str, np.ndarray], count: int) -> list[Row]:
    """Return a row for each metric and size, and one for each line's value at infinity."""
    rows: list[Row] = []
    for metric, values in found.items():
        for n, row in zip(sizes, values, strict=True):
            told = {"mean": row.mean(), "low": row.min(), "high": row.max()}
            rows.append({"metric": metric, "n": n, "seeds": len(row)} | told)
    for (low, high), (_, infinite) in fits(sizes, found["frechet_lite0"].mean(1), count).items():
        rows.append({"metric": "frechet_lite0", "infinite": infinite, "through": f"{low}-{high}"})
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--real", required=True, help="shards, a folder of pictures, or a .npy or .npz file")
    add("--split", choices=["train", "validation"], default="train", help="of shards (train)")
    add("--sizes", type=int, nargs="+", default=SIZES, help="samples of each set, ascending")
    add("--seeds", type=int, default=5, help="draws of each size (default 5)")
    add("--cache", type=Path, default=reference.folder(), help="folder of features that are kept")
    add("--plot", type=Path, help="PNG to write")
    add("--out", type=Path, default=RESULTS, help="CSV that rows are added to")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    options.sizes = list(options.sizes)
    if options.sizes[0] < 2 or options.seeds < 1 or any(a >= b for a, b in pairwise(options.sizes)):
        parser.error("--sizes ascend from 2 or more, --seeds is 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep and draw."""
    options = parse(argv)
    try:
        append(options.out, COLUMNS, [])  # what cannot be written is better known before
        x_NF = features(options.real, options.split, options.cache)
        if len(x_NF) < 2 * options.sizes[-1]:
            raise UsageError(
                f"{options.real} has {len(x_NF)} samples, fewer than twice {options.sizes[-1]}: "
                "give smaller --sizes"
            )
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    found = measured(x_NF, options.sizes, options.seeds)
    known = environment.describe()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "real": Path(options.real).name,
        "of": len(x_NF),
        "features": x_NF.shape[1],
        "torch": known["packages"]["torch"],
        "agehpc": known["agehpc"],
        "revision": known["revision"] or "none",
    }
    rows = rows_of(options.sizes, found, x_NF.shape[1])
    for row in rows:
        for name in {"mean", "low", "high", "infinite"} & row.keys():
            row[name] = float(f"{row[name]:.4g}")
        if not options.json:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    append(options.out, COLUMNS, [row | about for row in rows])
    if options.plot:
        plot(options.plot, options.sizes, found, x_NF.shape[1])
    if options.json:
        print(json.dumps([row | about for row in rows], indent=2))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
