"""Which Triton kernels run for a tensor, with which tiles: a plain function, no tuning runs.

Timing candidates at run time would need a device, and would choose differently from run to run;
these tables come from the registers and the vector width of ahead-of-time compilations. Shapes: a
tensor is taken as [N, C, S], S the spatial positions; where C is last in memory N takes S in.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from agehpc_kernels.form import wide

TILE = 4096
"""Values of a tile of the two-pass kernels: for 8 warps, or 16 where channels are last."""
FORWARD_ONCE, BACKWARD_ONCE = 32768, 16384
"""Largest tiles of the single-read kernels: what the registers of one block hold, not spilling.

Half where channels are last (a thread has several channels to finish), a quarter where besides they
do not come as vectors; half where positions do not come as vectors of two-byte values. A quarter of
that in float64.
"""
MOVING = 16384
"""Largest tile of the single-read forward that moves running statistics, not spilling."""
PARTS = 512
"""Most parts of a channel: what one block of the kernels that finish them holds."""
PROGRAMS = 2
"""Programs a multiprocessor of the kernels that leave parts: at 8 or 16 warps each, what is on its
way from memory covers its latency, and their parts stay few."""
SMALL = 1024
"""Values of a tile below which it takes in more channels, where they are last in memory."""
CHANNELS = 16
"""Most channels of a tile, where they are last in memory: a sector of two-byte values. What a
program reads of each channel (statistics, scale) weighs less, the more rows its tile has."""
SECTOR = 32
"""Bytes that memory is read by: fewer of a row waste the rest."""
PROCESSORS = {"cpu": 8, "meta": 108}
"""Multiprocessors assumed without a device; few, so that the interpreter has little to do."""

_MOST_KNOWN = 4096
_known: "dict[tuple[object, ...], Plan]" = {}


@dataclass(frozen=True)
class Tile:
    """Rows x columns that a program holds at a time, and the warps it gets."""

    rows: int
    columns: int
    warps: int


@dataclass(frozen=True, eq=False)
class Plan:
    """What runs for one shape, layout and dtype; there is one of each, so it is its own key."""

    channels_last: bool
    shape: tuple[int, int, int]
    """N, C, S as the kernels see them."""
    big: bool
    """Offsets need 64 bits."""
    wide: torch.dtype
    """Of arithmetic."""
    tile: Tile
    groups: int
    """Programs side by side over channels."""
    tiles: int
    """Tiles of a group."""
    per_program: int
    """Tiles that one program of `moments` and `sums` goes through."""
    parts: int
    """Programs of `moments` and `sums` a group."""
    forward_once: Tile | None
    """Tile that holds all of a group, for the single-read forward; None where none can."""
    backward_once: Tile | None

    @property
    def moves(self) -> bool:
        """Whether the single-read forward has registers left to move running statistics."""
        tile = self.forward_once
        return tile is not None and tile.rows * tile.columns <= MOVING

    @property
    def forward(self) -> tuple[str, ...]:
        """Names of the kernels that a training forward launches."""
        if self.forward_once is None:
            return "moments", "combine", "apply"
        return ("forward_once",) if self.moves else ("forward_once", "move_by")

    @property
    def backward(self) -> tuple[str, ...]:
        """Names of the kernels that a training backward launches."""
        return ("backward_once",) if self.backward_once else ("sums", "add_up", "apply_backward")


def is_channels_last(x: Tensor) -> bool:
    """Say whether the values of a dense tensor's channels lie side by side, in any dimension."""
    if x.is_contiguous():
        return prod(x.shape[2:]) == 1
    return x.movedim(1, -1).is_contiguous()


def plan(x: Tensor) -> Plan:
    """Return what runs for a dense, non-empty tensor [N, C, *]."""
    key = (x.shape, x.stride(), x.dtype, x.device)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        given = processors(x.device), needs_64_bits(x)
        found = _known[key] = _plan(tuple(x.shape), is_channels_last(x), x.dtype, *given)
    return found


def forget() -> None:
    """Let every plan be made anew."""
    _known.clear()
    for function in (_plan, processors):
        function.cache_clear()


def needs_64_bits(x: Tensor) -> bool:
    """Say whether offsets into a tensor can exceed 32 bits."""
    return x.numel() >= 2**31


@lru_cache
def processors(device: torch.device) -> int:
    """Return the number of multiprocessors."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return PROCESSORS[device.type]


@lru_cache(maxsize=1024)
def _plan(
    shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype, processors: int, big: bool
) -> Plan:
    n, c, s = shape[0], shape[1], prod(shape[2:])
    if channels_last:
        n, s = n * s, 1
        columns = min(power_of_2(c), CHANNELS)
    else:
        columns = _columns(s)
    rows = min(power_of_2(n), TILE // columns)
    groups = -(-c // columns) if channels_last else c
    tiles = -(-n // rows) * (1 if channels_last else -(-s // columns))
    per_program = -(-tiles // min(-(-PROGRAMS * processors // groups), tiles, PARTS))
    return Plan(
        channels_last=channels_last,
        shape=(n, c, s),
        big=big,
        wide=wide(dtype),
        # Of several channels a thread holds more: half the values each, or it spills.
        tile=Tile(rows, columns, _warps(rows * columns * (2 if channels_last else 1), 16)),
        groups=groups,
        tiles=tiles,
        per_program=per_program,
        parts=-(-tiles // per_program),
        forward_once=_once(n, c, s, channels_last, dtype, FORWARD_ONCE),
        backward_once=_once(n, c, s, channels_last, dtype, BACKWARD_ONCE),
    )


def _once(
    n: int, c: int, s: int, channels_last: bool, dtype: torch.dtype, limit: int
) -> Tile | None:
    """Return the tile that holds all values of a group; None where it is above the limit."""
    double = dtype == torch.float64
    most_warps = limit // (2048 if channels_last and not double else 1024)
    if channels_last:
        limit //= 4 if c % 16 else 2
    elif dtype.itemsize > 2 or s % 16:
        limit //= 2
    if double:
        limit //= 4
    rows = power_of_2(n)
    if channels_last:
        # As few channels as memory allows, so that there are many programs.
        columns = min(power_of_2(c), max(SECTOR // dtype.itemsize, min(SMALL // rows, CHANNELS)))
    else:
        columns = power_of_2(s)
    size = rows * columns
    return Tile(rows, columns, _warps(size, most_warps)) if size <= limit else None


def _columns(s: int) -> int:
    """Return the widest power of 2 whose multiple is at most an eighth above s."""
    widest = min(power_of_2(s), TILE)
    narrowest = min(widest, 128)
    columns = widest
    while columns > narrowest and -(-s // columns) * columns > s + s // 8:
        columns //= 2
    return columns


def _warps(size: int, most: int) -> int:
    """Return warps that hold a tile with 16 values a thread or, at most warps, with more."""
    return max(1, min(size // 512, most))


def power_of_2(n: int) -> int:
    """Return the smallest power of 2 that is at least n."""
    return 1 << (n - 1).bit_length()
