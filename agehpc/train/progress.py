"""Counters of a run, and what is due between two of their values."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done.
        samples_seen: real samples that the generator-side turns consumed, over all ranks.
        samples_read: real samples that any turn consumed: the position of the next one in the
            run's order.
    """

    step: int = 0
    samples_seen: int = 0
    samples_read: int = 0

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


def is_due(every_kimg: float, before: Progress, now: Progress) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, now]; never where it is 0.

    A function of the counters alone, so that a resumed run ticks where an undisturbed one does.
    """
    if every_kimg <= 0:
        return False
    every = max(1, round(every_kimg * 1000))  # whole samples: 0.051 / 0.017 is below 3 in floats
    return now.samples_seen // every > before.samples_seen // every
