"""Time the command line takes to answer: median and quartiles of fresh processes.

    python benchmarks/startup.py
    python benchmarks/startup.py --runs 20 --json train video_age_64 --help

Without a command it times `agehpc --help`, which has to stay under 0.3 s.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time


def measure(command: list[str], runs: int) -> list[float]:
    """Return the wall-clock seconds of each run, after one that warms the file cache."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="processes that count (at least 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of agehpc (default: --help)")
    options = parser.parse_args()
    words = options.command or ["--help"]
    seconds = measure([sys.executable, "-m", "agehpc", *words], options.runs)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    row = {
        "command": " ".join(["agehpc", *words]),
        "runs": options.runs,
        "median_s": round(median, 4),
        "quartiles_s": [round(low, 4), round(high, 4)],
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(row))
    else:
        spread = f"quartiles {low:.3f} and {high:.3f}, {options.runs} runs"
        print(f"{row['command']}: median {median:.3f} s ({spread})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
