"""The Triton kernels of normalisation + LeakyReLU, forward and backward, for every layout.

Tensors are [N, C, S]; `triton_tiles` says what tiles and groups are, `triton_shared` what the
capitals mean. P parts a group, of `per_program` of its `tiles` tiles each. Masked lanes hold 0.
The kernels that read a tensor the first time ask the cache to keep it (evict_last); those that read
it the last time begin with the tiles that came last, the ones still kept, and let them go
(evict_first).
"""

import triton
import triton.language as tl

from agehpc_kernels.triton_shared import (
    gradients,
    input_of_norm,
    mean_and_squares,
    move,
    of_channels,
    output,
    scale_and_shift,
    split_statistics,
    store_rows_3,
    unbiased,
)
from agehpc_kernels.triton_tiles import (
    against_memory,
    channels,
    first_of_channels,
    load,
    load_last,
    place,
    sum_of_channels,
)


@triton.jit
def moments(
    x_ptr,
    parts_ptr,
    N,
    C,
    S,
    tiles,
    per_program,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write parts [P, 4, C]: how many values, a pivot, sums of distances from it and squares."""
    groups = tl.cdiv(C, COLUMNS) if CHANNELS_LAST else C
    group, part = tl.program_id(0) % groups, tl.program_id(0) // groups
    begin = part * per_program
    at, mask, count = place(begin, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    x = load(x_ptr + at, mask, ACC)
    u = input_of_norm(x, SLOPE, ACTIVATION_FIRST)
    first = first_of_channels(x_ptr, begin, group, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    first = input_of_norm(first.to(ACC), SLOPE, ACTIVATION_FIRST)
    # About the mean; around the first value, so that it is exact where u is constant.
    pivot = first + sum_of_channels(tl.where(mask, u - first, 0.0), CHANNELS_LAST) / count
    s1 = tl.where(mask, u - pivot, 0.0)
    s2 = s1 * s1
    for tile in range(begin + 1, tl.minimum(begin + per_program, tiles)):
        at, mask, more = place(tile, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
        x = load(x_ptr + at, mask, ACC)
        rest = tl.where(mask, input_of_norm(x, SLOPE, ACTIVATION_FIRST) - pivot, 0.0)
        s1 += rest
        s2 += rest * rest
        count += more
    s1, s2 = sum_of_channels(s1, CHANNELS_LAST), sum_of_channels(s2, CHANNELS_LAST)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    # Exact up to 2^24 values of a part in float32, and rounded beyond, where it is of no account.
    tl.store(parts_ptr + part * 4 * C + c, tl.cast(count, tl.float64).to(ACC), inside)
    store_rows_3(parts_ptr + (part * 4 + 1) * C, c, inside, C, pivot, s1, s2)


@triton.jit
def apply(
    x_ptr,
    y_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    N,
    C,
    S,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write y, by given statistics, of one tile."""
    group, tile = against_memory(C, S, COLUMNS, CHANNELS_LAST)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    high, low, inverse, weight, bias = of_channels(
        stats_ptr, weight_ptr, bias_ptr, c, inside, C, ACC
    )
    at, mask, _ = place(tile, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    x = load_last(x_ptr + at, mask, ACC)
    u = input_of_norm(x, SLOPE, ACTIVATION_FIRST)
    y = output(u, high, low, inverse, weight, bias, SLOPE, ACTIVATION_FIRST)
    tl.store(y_ptr + at, y, mask)


@triton.jit
def forward_once(
    x_ptr,
    y_ptr,
    moments_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    running_mean_ptr,
    running_var_ptr,
    N,
    C,
    S,
    momentum,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write y, moments and statistics of a group that is one tile; move running statistics.

    Moments and running statistics unless their pointers are None.
    """
    group = tl.program_id(0)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    at, mask, count = place(0, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    x = load_last(x_ptr + at, mask, ACC)
    u = input_of_norm(x, SLOPE, ACTIVATION_FIRST)
    first = first_of_channels(x_ptr, 0, group, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    first = input_of_norm(first.to(ACC), SLOPE, ACTIVATION_FIRST)
    pivot = first + sum_of_channels(tl.where(mask, u - first, 0.0), CHANNELS_LAST) / count
    s1 = sum_of_channels(tl.where(mask, u - pivot, 0.0), CHANNELS_LAST)
    # The same differences, written otherwise: else the compiler keeps them, a tile beside u, until
    # the first sum is through, and spills.
    rest = tl.where(mask, u, pivot) - pivot
    s2 = sum_of_channels(rest * rest, CHANNELS_LAST)
    n = tl.cast(count, tl.float64)
    mean, squares = mean_and_squares(n, pivot.to(tl.float64), s1.to(tl.float64), s2.to(tl.float64))
    if moments_ptr is not None:
        store_rows_3(moments_ptr, c, inside, C, n, mean, squares)
    high, low, inverse = split_statistics(n, mean, squares, EPS, ACC)
    store_rows_3(stats_ptr, c, inside, C, high, low, inverse)
    var = unbiased(n, squares, ACC)
    weight, bias = scale_and_shift(weight_ptr, bias_ptr, c, inside, ACC)
    y = output(u, high, low, inverse, weight, bias, SLOPE, ACTIVATION_FIRST)
    tl.store(y_ptr + at, y, mask)
    # Here, where registers are free again.
    if running_mean_ptr is not None:
        move(running_mean_ptr, running_var_ptr, momentum, c, inside, high, var)


@triton.jit
def sums(
    dy_ptr,
    kept_ptr,
    dx_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    parts_ptr,
    N,
    C,
    S,
    tiles,
    per_program,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write parts [P, 2, C]: the sums of g and of g * x_hat.

    And dx for statistics that do not depend on x, unless its pointer is None: the last use.
    """
    groups = tl.cdiv(C, COLUMNS) if CHANNELS_LAST else C
    group, part = tl.program_id(0) % groups, tl.program_id(0) // groups
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    high, low, inverse, weight, bias = of_channels(
        stats_ptr, weight_ptr, bias_ptr, c, inside, C, ACC
    )
    s1 = tl.zeros([ROWS, COLUMNS], ACC)
    s2 = tl.zeros([ROWS, COLUMNS], ACC)
    begin = part * per_program
    for tile in range(begin, tl.minimum(begin + per_program, tiles)):
        at, mask, _ = place(tile, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
        if dx_ptr is None:
            dy = load(dy_ptr + at, mask, ACC)
            kept = load(kept_ptr + at, mask, ACC)
        else:
            dy = load_last(dy_ptr + at, mask, ACC)
            kept = load_last(kept_ptr + at, mask, ACC)
        g, x_hat, factor = gradients(
            dy, kept, high, low, inverse, weight, bias, SLOPE, ACTIVATION_FIRST, FROM_OUTPUT
        )
        s1 += g
        s2 += g * x_hat
        if dx_ptr is not None:
            tl.store(dx_ptr + at, g * (inverse * weight) * factor, mask)
    s1, s2 = sum_of_channels(s1, CHANNELS_LAST), sum_of_channels(s2, CHANNELS_LAST)
    tl.store(parts_ptr + part * 2 * C + c, s1, inside)
    tl.store(parts_ptr + (part * 2 + 1) * C + c, s2, inside)


@triton.jit
def apply_backward(
    dy_ptr,
    kept_ptr,
    dx_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    means_ptr,
    N,
    C,
    S,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write dx, by given means [2, C] of g and of g * x_hat, of one tile."""
    group, tile = against_memory(C, S, COLUMNS, CHANNELS_LAST)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    high, low, inverse, weight, bias = of_channels(
        stats_ptr, weight_ptr, bias_ptr, c, inside, C, ACC
    )
    first = tl.load(means_ptr + c, inside, other=0).to(ACC)
    second = tl.load(means_ptr + C + c, inside, other=0).to(ACC)
    at, mask, _ = place(tile, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    dy = load_last(dy_ptr + at, mask, ACC)
    kept = load_last(kept_ptr + at, mask, ACC)
    g, x_hat, factor = gradients(
        dy, kept, high, low, inverse, weight, bias, SLOPE, ACTIVATION_FIRST, FROM_OUTPUT
    )
    tl.store(dx_ptr + at, (g - first - x_hat * second) * (inverse * weight) * factor, mask)


@triton.jit
def backward_once(
    dy_ptr,
    kept_ptr,
    dx_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    sums_ptr,
    N,
    C,
    S,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIG: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write dx and the sums [2, C] of a group that is one tile."""
    group = tl.program_id(0)
    c, inside = channels(group, C, COLUMNS, CHANNELS_LAST)
    high, low, inverse, weight, bias = of_channels(
        stats_ptr, weight_ptr, bias_ptr, c, inside, C, ACC
    )
    at, mask, count = place(0, group, N, C, S, ROWS, COLUMNS, CHANNELS_LAST, BIG)
    dy = load_last(dy_ptr + at, mask, ACC)
    kept = load_last(kept_ptr + at, mask, ACC)
    g, x_hat, factor = gradients(
        dy, kept, high, low, inverse, weight, bias, SLOPE, ACTIVATION_FIRST, FROM_OUTPUT
    )
    s1 = sum_of_channels(g, CHANNELS_LAST)
    s2 = sum_of_channels(g * x_hat, CHANNELS_LAST)
    tl.store(sums_ptr + c, s1, inside)
    tl.store(sums_ptr + C + c, s2, inside)
    # One division for all the channels that a thread finishes, or registers spill around them.
    share = tl.full([], 1, ACC) / count
    first, second = s1 * share, s2 * share
    tl.store(dx_ptr + at, (g - first - x_hat * second) * (inverse * weight) * factor, mask)
