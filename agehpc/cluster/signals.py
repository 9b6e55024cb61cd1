"""Signals that ask a run to stop, turned into a reason that all ranks agree on at a step's end."""

import signal
from types import FrameType
from typing import Literal

from agehpc.cluster.collectives import max_over_ranks

Reason = Literal["minutes", "restart", "interrupt"]

# Where ranks disagree the later one wins: a person's Ctrl-C over Slurm's signal over the clock.
_REASONS: tuple[Reason, ...] = ("minutes", "restart", "interrupt")
_BY_SIGNAL: dict[signal.Signals, Reason] = {
    signal.SIGTERM: "restart",
    signal.SIGUSR1: "restart",
    signal.SIGUSR2: "restart",
    signal.SIGINT: "interrupt",
}


class StopFlag:
    """Catches SIGTERM, SIGUSR1, SIGUSR2 (restart) and SIGINT (interrupt) while it is entered.

    The handler only notes the reason; a second SIGINT raises KeyboardInterrupt. Enter it in the
    main thread. The handlers found at entry are put back at exit.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopFlag":
        for number in _BY_SIGNAL:
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _caught(self, number: int, frame: FrameType | None) -> None:
        reason = _BY_SIGNAL[signal.Signals(number)]
        if reason == "interrupt" and self.reason == "interrupt":
            raise KeyboardInterrupt
        self.request(reason)

    def request(self, reason: Reason) -> None:
        """Ask for a stop from this rank; a reason that weighs more is kept."""
        if self.reason is None or _REASONS.index(reason) > _REASONS.index(self.reason):
            self.reason = reason


def agree(flag: StopFlag) -> Reason | None:
    """The weightiest reason of any rank, the same on all; None to go on. Collective."""
    mine = 0 if flag.reason is None else 1 + _REASONS.index(flag.reason)
    agreed = max_over_ranks(mine)
    return None if agreed == 0 else _REASONS[agreed - 1]
