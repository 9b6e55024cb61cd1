"""Whether training has gone wrong: figures that are not finite or too large, samples all alike.

What it decides depends on figures that are the same on all ranks, so that the ranks agree.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agehpc.config.training import GuardConfig
from agehpc.train.progress import Progress

GRADIENT = "gradient_norm_"
"""What stands before a player's name in the figures of a tick: its largest norm in the tick."""


@dataclass(frozen=True)
class Trouble:
    """What has gone wrong.

    Attributes:
        what: name of the figure, or of several.
        value: of the first.
        flag: whose bound was passed; None where a value is not finite, which no flag allows.
        bound: its value.
        told: the whole as a sentence.
        first: what was not finite first, with step, ranks and hosts, where that is known.
    """

    what: str
    value: float
    flag: str | None
    bound: float | None
    told: str
    first: str | None = None


def not_finite(what: str, value: float, step: int, first: str = "") -> Trouble:
    """The trouble with what is NaN or infinite; `first` says what was that first, and where."""
    told = f"{what} no longer finite at step {step}{f' (first {first})' if first else ''}"
    return Trouble(what, value, None, None, told, first or None)


def judge(
    figures: Mapping[str, float],
    guard: GuardConfig,
    step: int,
    first_bad: Callable[[], str],
) -> Trouble | None:
    """What is wrong with the figures of a tick, or None. Collective as `first_bad` is.

    Args:
        figures: means of the turns' figures, and the largest gradient norms, over all ranks.
        guard: the bounds.
        step: of the tick.
        first_bad: says which figure of which rank was not finite first; asked where one was not.
    """
    wrong = [name for name in sorted(figures) if not math.isfinite(figures[name])]
    if wrong:
        return not_finite(", ".join(wrong), figures[wrong[0]], step, first_bad())
    for name in sorted(figures):
        which = "gradient" if name.startswith(GRADIENT) else "loss"
        bound = guard.gradient if which == "gradient" else guard.loss
        if bound is not None and abs(figures[name]) > bound:
            flag = f"--train.guard.{which}"
            told = f"{name} is {figures[name]:.4g} at step {step}, beyond {flag} {bound:g}"
            return Trouble(name, figures[name], flag, bound, told)
    return None


def watch(progress: Progress, diversity: float | None, guard: GuardConfig) -> Progress:
    """The counters after a look at the samples.

    Only what was diverse once can collapse: an untrained generator's samples are all alike.
    """
    if diversity is None or guard.diversity is None:
        return progress
    if diversity >= guard.diversity:
        return replace(progress, diverse=True, alike=0)
    return replace(progress, alike=progress.alike + 1) if progress.diverse else progress


def collapsed(progress: Progress, diversity: float | None, guard: GuardConfig) -> Trouble | None:
    """The trouble where samples were all alike in too many looks in a row."""
    if diversity is None or guard.diversity is None or progress.alike < guard.patience:
        return None
    flag = "--train.guard.diversity"
    told = (
        f"diversity of samples is {diversity:.4g} at step {progress.step}, below {flag} "
        f"{guard.diversity:g} in {progress.alike} looks in a row"
    )
    return Trouble("diversity", diversity, flag, guard.diversity, told)
