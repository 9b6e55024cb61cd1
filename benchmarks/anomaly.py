"""How well a class that training never saw is found: each digit left out in turn.

    python benchmarks/anomaly.py --digits 2
    python benchmarks/anomaly.py

For each digit: `agehpc data digits --hold-out D`, `agehpc train image_age_demo` at 28 x 28 on the
other nine, `agehpc anomaly --abnormal D` on held-out digits of all ten classes. Prints the AUROC of
the weighted score and of its parts; 0.5 is chance, and a digit whose strokes are part of others (1)
may score below it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def agehpc(*words: str) -> str:
    """Run a command in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "agehpc", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"agehpc {' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def left_out(digit: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a run that never saw a digit."""
    shards, run = folder / f"without-{digit}", folder / f"run-{digit}"
    agehpc("data", "digits", str(shards), "--hold-out", digit)
    train = ["train", "image_age_demo", "--data.shards", str(shards), "--out", str(run)]
    train += ["--data.size", "28", "--train.kimg", str(options.kimg)]
    train += ["--run.seed", str(options.seed), "--observe.tensorboard", "false"]
    agehpc(*train)
    told = json.loads(agehpc("anomaly", str(run), "--abnormal", digit, "--n", "5000", "--json"))
    names = ("auroc", "auroc_reconstruction", "auroc_features", "n", "anomalies")
    return {"digit": digit} | {name: told[name] for name in names}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", nargs="+", default=list("0123456789"), choices="0123456789")
    parser.add_argument("--kimg", type=float, default=60.0, help="length of each training")
    parser.add_argument("--seed", type=int, default=0, help="seed of each training")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="agehpc-bench-") as folder:
        for digit in options.digits:
            print(json.dumps(left_out(digit, Path(folder), options)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
