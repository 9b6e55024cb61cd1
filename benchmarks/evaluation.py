"""Speed of evaluation's arithmetic beside the libraries that compute the same.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --features 512 --rounds 5 --json

finishing: the Frechet distance from two means and covariances, by agehpc, by torchmetrics and by
scipy.linalg.sqrtm, in turns; regular covariances (more samples than features) and singular ones.
Seconds are of the processor, all threads together. One row a rival is added to
results/evaluation.csv: how many times as long it takes; the exit code is 1 where that is less
than wanted, or where values differ by more than 1e-6.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_csv import append
from torch import Tensor

from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.moments import Moments
from agehpc.observe import environment

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation.csv"
COLUMNS = (
    *("date", "part", "case", "features", "rival", "ratio", "low", "high", "wanted", "met"),
    *("s", "rival_s", "difference", "rounds", "threads", "device", "load_at_start"),
    *("torch", "torchmetrics", "scipy", "agehpc", "revision"),
)
WANTED = {("regular", 2048, "torchmetrics"): 2.0, ("regular", 2048, "scipy sqrtm"): 8.0}
Row = dict[str, Any]


def statistics_of(samples: int, features: int) -> list[Tensor]:
    """Return mean and covariance of two sets of features that are alike and never negative."""
    given = []
    mixing_FF = torch.randn(features, features, generator=torch.Generator().manual_seed(2))
    scale_F = torch.logspace(0, -2, features)
    for seed in (0, 1):
        noise_NF = torch.randn(samples, features, generator=torch.Generator().manual_seed(seed))
        moments = Moments(features)
        moments.add((noise_NF * scale_F @ mixing_FF + 0.1 * seed).relu())
        given += [moments.mean_F, moments.covariance()]
    return given


def by_torchmetrics(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """Return the distance as torchmetrics' FID finishes."""
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(mean_x, cov_x, mean_y, cov_y))


def by_sqrtm(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """Return the distance as pytorch-fid and clean-fid finish."""
    from scipy.linalg import sqrtm

    root = np.asarray(sqrtm((cov_x @ cov_y).numpy()))
    squares = (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace()
    return float(squares) - 2 * float(root.trace().real)


def seconds(work: Callable[..., float], given: list[Tensor]) -> tuple[float, float]:
    """Return the processor time of a call, and its value."""
    start = time.process_time()
    value = work(*given)
    return time.process_time() - start, value


def finishing(features: int, rounds: int) -> list[Row]:
    """Return a row for each case and rival."""
    rows = []
    # Only the other two find the root of a singular product in the sense of a trace.
    rivals = {"torchmetrics": by_torchmetrics, "scipy sqrtm": by_sqrtm}
    for case, samples, names in (
        ("regular", 5 * features, tuple(rivals)),
        ("singular", features // 2, ("torchmetrics",)),
    ):
        given = statistics_of(samples, features)
        for work in (frechet, *rivals.values()):
            work(*statistics_of(16, 4))  # the first call loads libraries
        times: dict[str, list[float]] = {name: [] for name in ("ours", *names)}
        values: dict[str, float] = {}
        for _ in range(rounds):
            for name in times:
                taken, values[name] = seconds(rivals.get(name, frechet), given)
                times[name].append(taken)
        for name in names:
            pairs = zip(times[name], times["ours"], strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            wanted = WANTED.get((case, features, name))
            difference = abs(values["ours"] / values[name] - 1)
            ratio = statistics.median(ratios)
            rows.append(
                {
                    "part": "finishing",
                    "case": case,
                    "features": features,
                    "rival": name,
                    "ratio": ratio,
                    "low": min(ratios),
                    "high": max(ratios),
                    "wanted": "" if wanted is None else f">= {wanted:g}",
                    "met": difference < 1e-6 and (wanted is None or ratio >= wanted),
                    "s": statistics.median(times["ours"]),
                    "rival_s": statistics.median(times[name]),
                    "difference": difference,
                    "rounds": rounds,
                }
            )
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", type=int, default=2048, help="features of a sample (default 2048)")
    add("--rounds", type=int, default=3, help="how often all take their turn (default 3)")
    add("--out", type=Path, default=RESULTS, help="CSV that rows are added to")
    add("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    if options.features < 4 or options.rounds < 1:
        parser.error("--features is 4 or more, --rounds 1 or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    options = parse(argv)
    try:
        append(options.out, COLUMNS, [])  # what cannot be written is better known before
    except AgehpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    known = environment.describe()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "threads": torch.get_num_threads(),
        "device": f"{known['cpu']} ({known['cores']} cores)",
        "load_at_start": round(os.getloadavg()[0], 2),
        "torch": known["packages"]["torch"],
        "torchmetrics": version("torchmetrics"),
        "scipy": version("scipy"),
        "agehpc": known["agehpc"],
        "revision": known["revision"] or "none",
    }
    rows = [row | about for row in finishing(options.features, options.rounds)]
    for row in rows:
        for name in ("ratio", "low", "high", "s", "rival_s", "difference"):
            row[name] = float(f"{row[name]:.4g}")
        if not options.json:
            print(
                f"{row['part']} {row['case']}, {row['features']} features: {row['s']} s, "
                f"{row['rival']} {row['rival_s']} s, {row['ratio']} times as long "
                f"({row['low']} to {row['high']}), wanted {row['wanted'] or 'nothing'}"
            )
    append(options.out, COLUMNS, rows)
    if options.json:
        print(json.dumps(rows, indent=2))
    return EXIT_DONE if all(row["met"] for row in rows) else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
