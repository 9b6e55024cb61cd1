"""What a sweep makes better: figures of evaluations, speed, memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agehpc.config.metrics import direction
from agehpc.config.schema import Config
from agehpc.config.tree import nearest
from agehpc.errors import UsageError
from agehpc.evaluate.protocols import PROTOCOLS, figures

Mode = Literal["min", "max"]

OF_TICKS: dict[str, Mode] = {"samples_per_s": "max", "memory_gib": "min"}
"""Columns of metrics.jsonl."""


@dataclass(frozen=True)
class Objective:
    """A figure, and whether less or more of it is better."""

    name: str
    """Of evaluations.jsonl, or one of OF_TICKS."""
    mode: Mode


def measured(base: Config) -> tuple[str, ...]:
    """Return the figures that evaluations of runs of a configuration give, the chosen ones first.

    Those are `evaluate.best` and what `evaluate.metrics` give.
    """
    if not base.evaluate.samples:
        return ()
    names = [name for metric in base.evaluate.metrics for name in figures(metric)]
    names += base.system.figures
    if base.train.guard.diversity is not None and base.system.generates:
        names.append("diversity")
    best = base.evaluate.best
    return tuple(dict.fromkeys([best, *names] if best in names else names))


def objectives(text: Sequence[str], base: Config) -> list[Objective]:
    """Return objectives by name, or the first figure that evaluations give.

    UsageError, naming those there are, for one that runs of this configuration do not measure.
    """
    given = measured(base)
    if not text:
        if not given:
            raise UsageError(
                "name an --objective: the evaluations of this recipe give no figure; add some with "
                "--evaluate.metrics frechet_lite0"
            )
        return [Objective(given[0], _mode(given[0]))]
    for name in text:
        if text.count(name) > 1:
            raise UsageError(f"--objective {name} is given twice")
        if name not in (*given, *OF_TICKS):
            raise UsageError(f"--objective {name}: {_why_not(name, base, given)}")
    return [Objective(name, _mode(name)) for name in text]


def _mode(name: str) -> Mode:
    if name in OF_TICKS:
        return OF_TICKS[name]
    return "max" if direction(name) == "higher" else "min"


def _why_not(name: str, base: Config, given: Sequence[str]) -> str:
    if not base.evaluate.samples:
        return "--evaluate.samples 0 switches evaluations off; raise it"
    metric = next((m for m in PROTOCOLS if name in figures(m)), None)
    if metric:
        return f"no evaluation of these runs measures it; add --evaluate.metrics {metric}"
    known = [*given, *OF_TICKS]
    return (
        f"no evaluation of these runs gives it{nearest(name, known)} (there are "
        f"{', '.join(known)}, and what --evaluate.metrics adds)"
    )
