"""Counters of a run, and what is due between two of their values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done.
        samples_seen: real samples that the generator-side turns consumed, over all ranks.
        samples_read: real samples that any turn consumed: the position of the next one in the
            run's order.
        rollbacks: times that the guard went back to a good checkpoint.
        lr_scale: what every player's learning rate is multiplied by, after these.
        diverse: whether samples were as diverse as the guard wants at any look.
        alike: looks in a row since then in which they were not.
        owed: whether the samples and figures of this step were cut short by a stop.
    """

    step: int = 0
    samples_seen: int = 0
    samples_read: int = 0
    rollbacks: int = 0
    lr_scale: float = 1.0
    diverse: bool = False
    alike: int = 0
    owed: bool = False

    @property
    def kimg(self) -> float:
        """Thousands of samples seen."""
        return self.samples_seen / 1000

    def after(self, seen: int, read: int) -> "Progress":
        """The counters one step later."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + seen,
            samples_read=self.samples_read + read,
        )


def progress_of(state: Mapping[str, Any]) -> Progress:
    """The counters in a checkpoint's state."""
    return Progress(**{f.name: state[f.name] for f in fields(Progress)})


def is_due(every_kimg: float, before: Progress, now: Progress) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, now]; never where it is 0.

    A function of the counters alone, so that a resumed run ticks where an undisturbed one does.
    """
    if every_kimg <= 0:
        return False
    every = max(1, round(every_kimg * 1000))  # whole samples: 0.051 / 0.017 is below 3 in floats
    return now.samples_seen // every > before.samples_seen // every
