"""What asks a run to save or stop, turned into a reason that all ranks agree on at a step's end.

Signals, and two files that a person makes: RUN/control/save and RUN/control/stop.
"""

import signal
from pathlib import Path
from types import FrameType
from typing import Literal

from agehpc.cluster.collectives import max_over_ranks
from agehpc.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RESTART, StoppedError

Reason = Literal["save", "minutes", "restart", "stop", "interrupt"]

# Where ranks disagree the later one wins: a person's Ctrl-C or file over Slurm's signal over the
# clock. All of them save.
_REASONS: tuple[Reason, ...] = ("save", "minutes", "restart", "stop", "interrupt")
_FILES: tuple[Reason, ...] = ("save", "stop")
EXIT_CODES: dict[Reason, int] = {
    "restart": EXIT_RESTART,
    "stop": EXIT_DONE,
    "interrupt": EXIT_INTERRUPTED,
}
"""Of the reasons that end a run before it is done."""
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

    Args:
        control: folder of the files; None on the ranks that do not look.
    """

    def __init__(self, control: Path | None = None) -> None:
        self.reason: Reason | None = None
        self._control = control
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

    def look(self) -> None:
        """Take what the files ask for."""
        if self._control is not None:
            for name in _FILES:
                if (self._control / name).exists():
                    self.request(name)

    def check(self) -> None:
        """Raise StoppedError where long work is to be cut short: at every batch of it."""
        self.look()
        if self.reason in EXIT_CODES:
            raise StoppedError(f"cut short: the run is to stop ({self.reason})")

    def obeyed(self) -> None:
        """Remove the files of what has been done; a save alone is then over. OSError."""
        if self._control is not None:
            for name in _FILES[: 1 + (self.reason == "stop")]:
                (self._control / name).unlink(missing_ok=True)
        if self.reason == "save":
            self.reason = None


def agree(flag: StopFlag) -> Reason | None:
    """The weightiest reason of any rank, the same on all; None to go on. Collective."""
    flag.look()
    mine = 0 if flag.reason is None else 1 + _REASONS.index(flag.reason)
    agreed = max_over_ranks(mine)
    return None if agreed == 0 else _REASONS[agreed - 1]
