"""Seconds and kept bytes of providers of BatchNorm + LeakyReLU."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from kernel_cases import Case
from kernel_rivals import PROVIDERS, Layer, UnsuitedError, compiled, eager, eager_in_place, fused
from torch import Tensor

from agehpc_kernels import backend

TURN_S = 0.004  # a turn is this long at least, so that the clock and a switch of turns cost nothing


def step(layer: Layer, x: Tensor, dy: Tensor) -> Callable[[], Any]:
    """Return a function that runs forward and backward once."""
    wanted = (x, *layer.parameters)
    return lambda: torch.autograd.grad(layer.run(x), wanted, dy)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def take_turns(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return seconds a call of each, by round: all take turns in every round."""
    calls = {}
    for name, run in steps.items():
        run()
        run()
        calls[name] = max(1, round(TURN_S / max(_seconds(run, 1), 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        for name in order:
            found[name].append(_seconds(steps[name], calls[name]))
    return found


def _seconds(run: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def on_cpu(case: Case, rounds: int, cores: int, others: tuple[str, ...]) -> dict[str, list[float]]:
    """Return seconds of forward + backward of `fused`, `eager` and `others`, by round."""
    device = torch.device("cpu")
    x = case.tensor(device).requires_grad_()
    dy = torch.randn_like(x.detach())
    with threads(cores):
        layers = {name: PROVIDERS[name](case, device) for name in ("fused", "eager", *others)}
        return take_turns({name: step(layer, x, dy) for name, layer in layers.items()}, rounds)


def ratios(mine: list[float], other: list[float]) -> dict[str, float]:
    """Return how much faster the first is: of the fastest rounds, and over the rounds."""
    each = sorted(theirs / own for own, theirs in zip(mine, other, strict=True))
    return {
        "value": min(other) / min(mine),
        "median": median(each),
        "low": each[0],
        "high": each[-1],
    }


def on_gpu(case: Case, device: torch.device) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield provider, direction, a note and milliseconds [median, 20 %, 80 %] on a GPU.

    Directions are as called from Python, with the L2 cache emptied before; "both, in a graph" is
    forward + backward replayed by the GPU alone, over and over on what the cache still holds.
    """
    from torch._functorch import config as functorch
    from triton.testing import do_bench, do_bench_cudagraph

    # A backward that is timed alone runs often on what one forward kept.
    functorch.donated_buffer = False
    at = [0.5, 0.2, 0.8]

    values = case.tensor(device)
    dy = torch.randn_like(values)
    for name, provider in PROVIDERS.items():
        if name != "fused" and case.save == "output":
            continue  # rivals know no such choice
        # A leaf of its own: a graph captures nothing that an earlier forward left.
        x = values.detach().requires_grad_()
        try:
            layer = provider(case, device)
            layer.run(x)
        except UnsuitedError:
            continue
        both = step(layer, x, dy)
        replayed: Any = do_bench_cudagraph(both, quantiles=at)
        y = layer.run(x)
        wanted = (x, *layer.parameters)
        runs = {
            "forward": lambda run=layer.run, x=x: run(x),
            "backward": lambda y=y, w=wanted: torch.autograd.grad(y, w, dy, retain_graph=True),
            "both": both,
        }
        for direction, run in runs.items():
            if direction == "backward" and layer.note == "with a copy of x":
                continue  # its backward overwrites what it needs, so it runs once a forward
            milliseconds: Any = do_bench(run, quantiles=at)
            yield name, direction, layer.note, milliseconds
        yield name, "both, in a graph", layer.note, replayed


def copy_rate(device: torch.device) -> float:
    """Return bytes a second that a copy of a large tensor reads and writes."""
    from triton.testing import do_bench

    x = torch.empty(2**28, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    milliseconds = do_bench(lambda: y.copy_(x), quantiles=[0.5])
    assert isinstance(milliseconds, float)
    return 2 * x.numel() / (milliseconds / 1000)


SAVERS: dict[str, Callable[[Case, torch.device], Layer]] = {
    "fused": fused,
    "eager": eager,
    "eager, in place": eager_in_place,
    "torch.compile": compiled,
}


def saved(case: Case, provider: str) -> float:
    """Return how many activations wait for backward, in units of x.

    Of the layer and of the next one, which keeps its own input y. All backends keep alike but
    `torch`, so the fused operation runs by the one that needs no compiler and no GPU.
    """
    device = torch.device("cpu")
    layer = SAVERS[provider](case, device)
    x = case.tensor(device).requires_grad_()
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def count(t: Tensor) -> Tensor:
        kept.append(t)
        if not any(t is p for p in layer.parameters):
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with backend("aten"), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        layer.run(x).square()
    return sum(found.values()) / case.bytes
