"""What a rank spends in collectives, and whether it is in one: by torch's hooks around each.

Its own work is the rest of its time: where ranks keep in step, only that tells the slow one.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

_HOOK = 7207  # any number that nobody else takes


class Waits:
    """Watches the collectives of process groups while it is entered. Nothing is collective.

    On a CPU the host waits in a collective; on a GPU its stream does, between two events.

    Args:
        groups: the groups to watch.
        device: what the rank computes on.
        counts: whether time that passes now counts.
    """

    def __init__(
        self,
        groups: Iterable[dist.ProcessGroup],
        device: torch.device,
        counts: Callable[[], bool] = lambda: True,
    ) -> None:
        self._groups, self._counts = list(groups), counts
        self._gpu = device.type == "cuda"
        self._began = 0.0
        self._seconds = 0.0
        self._start: Any = None
        self._events: deque[tuple[Any, Any]] = deque()
        self.count = 0
        """Collectives that this rank has begun."""
        self.within: str | None = None
        """The kind of the one that it is in."""

    def __enter__(self) -> "Waits":
        for group in self._groups:
            group.register_pre_hook(_HOOK, self._before)
            group.register_post_hook(_HOOK, self._after)
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            group.unregister_pre_hook(_HOOK)
            group.unregister_post_hook(_HOOK)

    def take(self) -> float:
        """Seconds in collectives since the last call; on a GPU of those that are over."""
        while self._events and self._events[0][1].query():
            start, end = self._events.popleft()
            self._seconds += start.elapsed_time(end) / 1000
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _before(self, call: Any) -> None:
        self.count += 1
        self.within = call.name.name.lower()
        self._began = time.perf_counter()
        # A tensor of the CPU goes over gloo, whatever the rank computes on.
        if self._gpu and any(x.is_cuda for x in (*call.input_tensors, *call.output_tensors)):
            self._start = torch.cuda.Event(enable_timing=True)
            self._start.record()

    def _after(self, call: Any) -> None:
        start, self._start = self._start, None
        if not call.async_op and call.work is not None:
            try:
                call.work.wait()  # as the caller does next, who then waits no more
            except RuntimeError:
                return  # the caller meets the same; until then the rank is in the collective
        self.within = None
        if not self._counts():
            return
        self._seconds += time.perf_counter() - self._began
        if start is not None:
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self._events.append((start, end))
