"""In the place of `agehpc train`: a run of ten evaluations, whose score depends on the flags.

Keeps RUN/starts (where each start began) and RUN/trained (a line for each evaluation it made). Its
score rises to -(log10(lr) + 3)^2; run.seed says how it fails.
"""

import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 10
CRASH_ONCE, CRASH, DIVERGE = 101, 102, 103


def main(argv: list[str]) -> int:
    """Train as `RECIPE --config FILE --KEY VALUE ... --out RUN` says."""
    flags = dict(zip(argv[2::2], argv[3::2], strict=True))
    run, seed = Path(flags["--out"]), int(flags.get("--run.seed", 0))
    (run / "logs").mkdir(parents=True, exist_ok=True)
    lock = (run / ".lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    (run / "config.yaml").write_text(json.dumps(flags))
    (run / "environ.json").write_text(json.dumps(dict(os.environ)))
    saved = run / "saved"
    at = int(saved.read_text()) if saved.exists() else 0
    with (run / "starts").open("a") as file:
        file.write(f"{at} {os.getpid()}\n")
    rows = evaluations(run)
    (run / "evaluations.jsonl").write_text("".join(row for row in rows if step(row) <= at))
    score = -((math.log10(float(flags["--players.autoencoder.optim.lr"])) + 3) ** 2)
    for now in range(at + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STAND_IN_S", "0.02")))
        if seed == CRASH or (seed == CRASH_ONCE and at == 0 and now == 4):
            sys.stderr.write(f"error: crashed at {now}\n")
            return 1
        if seed == DIVERGE and now == 3:
            return 3
        row = {"kimg": float(now), "step": now, "metric": "reconstruction_psnr_db"}
        with (run / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(row | {"value": score - (STEPS - now)}) + "\n")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kimg": float(now), "step": now, "samples_per_s": 10.0}) + "\n")
        with (run / "trained").open("a") as file:
            file.write(f"{now}\n")
        saved.write_text(str(now))
        if stopped:
            return 85
    return 0


def evaluations(run: Path) -> list[str]:
    path = run / "evaluations.jsonl"
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def step(row: str) -> int:
    return json.loads(row)["step"] if row.endswith("\n") else STEPS + 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
