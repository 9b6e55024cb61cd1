"""How Triton programs cover a tensor [N, C, S] with tiles, in either layout.

A tile is [ROWS, COLUMNS], a group the channels that one program treats. With CHANNELS_LAST (memory
is [N, C], S is 1) a tile is samples x channels and a group COLUMNS channels; else (memory is
[N, C, S]) a tile is samples x positions of the one channel of its group. BIG: offsets need 64 bits.
"""

import triton
import triton.language as tl


@triton.jit
def channels(group, C, COLUMNS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Return the channels of a group, [COLUMNS] or one, and whether they are inside."""
    if CHANNELS_LAST:
        c = group * COLUMNS + tl.arange(0, COLUMNS)
        return c, c < C
    else:
        return group, group < C


@triton.jit
def sum_of_channels(values, CHANNELS_LAST: tl.constexpr):
    """Add up a tile: [COLUMNS] or one value, as `channels`."""
    if CHANNELS_LAST:
        return tl.sum(values, 0)
    else:
        return tl.sum(values)


@triton.jit
def corner(tile, S, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Return the sample and the position where a tile of a group begins."""
    if CHANNELS_LAST:
        return tile * ROWS, 0
    else:
        across = tl.cdiv(S, COLUMNS)
        return (tile // across) * ROWS, (tile % across) * COLUMNS


@triton.jit
def place(
    tile,
    group,
    N,
    C,
    S,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
):
    """Return offsets of a tile's values, which of them are inside, and how many a channel."""
    n0, s0 = corner(tile, S, ROWS, COLUMNS, CHANNELS_LAST)
    n = n0 + tl.arange(0, ROWS)[:, None]
    inside = n < N
    count = tl.minimum(N - n0, ROWS)
    if BIG:
        n = n.to(tl.int64)
        count = count.to(tl.int64)
    if CHANNELS_LAST:
        c = group * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        return n * C + c, inside & (c < C), count
    else:
        s = s0 + tl.arange(0, COLUMNS)[None, :]
        count = count * tl.minimum(S - s0, COLUMNS)
        return (n * C + group) * S + s, inside & (s < S), count


@triton.jit
def load(ptr, mask, ACC: tl.constexpr):
    """Load a tile that the cache shall keep."""
    return tl.load(ptr, mask, other=0, eviction_policy="evict_last").to(ACC)


@triton.jit
def load_last(ptr, mask, ACC: tl.constexpr):
    """Load a tile for the last time."""
    return tl.load(ptr, mask, other=0, eviction_policy="evict_first").to(ACC)


@triton.jit
def first_of_channels(
    x_ptr,
    tile,
    group,
    C,
    S,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
):
    """Load each channel's first value of a tile."""
    n0, s0 = corner(tile, S, ROWS, COLUMNS, CHANNELS_LAST)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    if BIG:
        n0 = tl.cast(n0, tl.int64)
    return tl.load(x_ptr + (n0 * C + c) * S + s0, inside, other=0)


@triton.jit
def against_memory(C, S, COLUMNS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Return this program's group and tile: the last of memory first."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    if CHANNELS_LAST:
        groups = tl.cdiv(C, COLUMNS)
        return program % groups, program // groups
    else:
        across = tl.cdiv(S, COLUMNS)
        row = program // across
        return row % C, (row // C) * across + program % across
