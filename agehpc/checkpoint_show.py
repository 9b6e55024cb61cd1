"""`agehpc checkpoint list RUN` and `agehpc checkpoint verify RUN`."""

import json
import sys
from pathlib import Path
from typing import Any

from agehpc.config.section import Section
from agehpc.errors import EXIT_DONE, RunError
from agehpc.latent.command import parse


class ListFlags(Section):
    """Show a run's checkpoints: step, kimg, size, whether complete, the best, figures."""

    json_: bool = False
    """Print them as JSON."""


class VerifyFlags(Section):
    """Compare every byte of a run's checkpoints with their checksums; exit code 1 for damage."""

    checkpoint: str = "all"
    """Checkpoint to verify: all, latest, best, or a name as step-00001000."""
    json_: bool = False
    """Print what was found as JSON."""


def list_main(argv: list[str]) -> int:
    """Run `agehpc checkpoint list`."""
    run, flags = parse(ListFlags, argv, "agehpc checkpoint list")
    rows = _rows(run)
    if flags.json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return EXIT_DONE
    from agehpc.observe.console import size

    width = max(len(row["name"]) for row in rows)
    for row in rows:
        kimg = "" if row["kimg"] is None else f"kimg {row['kimg']:g}"
        best = "best" if row["best"] else ""
        figures = "  ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
        cells = [kimg, size(row["bytes"]), row["state"], best, figures, row["why"] or ""]
        told = "  ".join(cell for cell in cells if cell)
        sys.stdout.write(f"{row['name']:<{width}}  {told}\n")
    return EXIT_DONE


def _rows(run: Path) -> list[dict[str, Any]]:
    """A row a checkpoint, oldest first: by sizes alone, so that it answers at once."""
    from agehpc import best, checkpoints
    from agehpc.observe import metrics
    from agehpc.soundness import glance

    chosen = best.read(run)
    log = run / "evaluations.jsonl"
    figures: dict[int, dict[str, float]] = {}
    for row in metrics.read(log) if log.exists() else []:
        figures.setdefault(row["step"], {})[row["metric"]] = row["value"]
    aside = list((run / "checkpoints").glob(f"step-*{checkpoints.ASIDE}"))
    rows = []
    for path in sorted([*_of(run), *aside]):
        state, why, told = "complete", None, {}
        try:
            glance(path)
            told = checkpoints.read_state(path)
        except RunError as error:
            state, why = "damaged", str(error)
        if path in aside:
            state, why = "set aside", "damaged, and passed over by a start"
        step = int(path.name.removeprefix("step-").removesuffix(checkpoints.ASIDE))
        there = state == "complete"
        rows.append(
            {
                "name": path.name,
                "step": step,
                "kimg": told["samples_seen"] / 1000 if "samples_seen" in told else None,
                "bytes": sum(p.stat().st_size for p in path.iterdir()),
                "state": state,
                "why": why,
                "best": there and chosen is not None and chosen.step == step,
                "figures": figures.get(step, {}) if there else {},
            }
        )
    return rows


def _of(run: Path) -> list[Path]:
    """The checkpoints of a run; RunError where it has none."""
    from agehpc import checkpoints

    if not run.is_dir():
        raise RunError(f"{run} is no run directory")
    found = checkpoints.complete(run)
    if not found:
        raise RunError(f"{run} has no complete checkpoint; train it first")
    return found


def verify_main(argv: list[str]) -> int:
    """Run `agehpc checkpoint verify`."""
    run, flags = parse(VerifyFlags, argv, "agehpc checkpoint verify")
    from agehpc import best
    from agehpc.soundness import verify

    there = _of(run)
    if flags.checkpoint == "latest":
        there = there[-1:]
    elif flags.checkpoint != "all":
        there = [best.named(run, flags.checkpoint)]
    rows = []
    for path in there:
        why = None
        try:
            verify(path)
        except RunError as error:
            why = str(error)
        rows.append({"name": path.name, "sound": why is None, "why": why})
        if not flags.json_:
            sys.stdout.write(f"{path.name}  {why or 'sound'}\n")
    if flags.json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    damaged = [row["name"] for row in rows if not row["sound"]]
    if damaged:
        raise RunError(f"{len(damaged)} of {len(rows)} damaged: {', '.join(damaged)}")
    return EXIT_DONE
