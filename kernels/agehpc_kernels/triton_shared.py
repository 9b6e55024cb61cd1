"""Arithmetic that the Triton kernels of both layouts share, and the kernels that finish sums.

C channels, P parts that programs of a first kernel leave. Values of tensors are widened to ACC
(float32, or float64 for float64 tensors); what one program has summed up is finished in float64.
SLOPE, ACTIVATION_FIRST and FROM_OUTPUT are the fields of :class:`agehpc_kernels.form.Form`.
"""

import triton
import triton.language as tl


@triton.jit
def leaky_relu(x, SLOPE: tl.constexpr):
    """Return LeakyReLU(x), as torch: the slope's side at 0 and for NaN."""
    # A bare constant would be rounded to float32 before it meets float64.
    return tl.where(x > 0, x, x * tl.full([], SLOPE, x.dtype))


@triton.jit
def input_of_norm(x, SLOPE: tl.constexpr, ACTIVATION_FIRST: tl.constexpr):
    """Return u, what is normalised."""
    if ACTIVATION_FIRST:
        return leaky_relu(x, SLOPE)
    else:
        return x


@triton.jit
def of_channels(stats_ptr, weight_ptr, bias_ptr, c, mask, C, ACC: tl.constexpr):
    """Return high and low part of the mean, 1 / deviation, weight and bias of channels c."""
    high = tl.load(stats_ptr + c, mask, other=0).to(ACC)
    low = tl.load(stats_ptr + C + c, mask, other=0).to(ACC)
    inverse = tl.load(stats_ptr + 2 * C + c, mask, other=1).to(ACC)
    weight, bias = scale_and_shift(weight_ptr, bias_ptr, c, mask, ACC)
    return high, low, inverse, weight, bias


@triton.jit
def scale_and_shift(weight_ptr, bias_ptr, c, mask, ACC: tl.constexpr):
    """Return weight and bias of channels c; 1 and 0 where there are none."""
    if weight_ptr is None:
        return tl.full([], 1, ACC), tl.full([], 0, ACC)
    else:
        weight = tl.load(weight_ptr + c, mask, other=1).to(ACC)
        return weight, tl.load(bias_ptr + c, mask, other=0).to(ACC)


@triton.jit
def output(
    u, high, low, inverse, weight, bias, SLOPE: tl.constexpr, ACTIVATION_FIRST: tl.constexpr
):
    """Return y of u."""
    z = ((u - high) - low) * inverse * weight + bias
    if ACTIVATION_FIRST:
        return z
    else:
        return leaky_relu(z, SLOPE)


@triton.jit
def gradients(
    dy,
    kept,
    high,
    low,
    inverse,
    weight,
    bias,
    SLOPE: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
):
    """Return g, the gradient of weight * x_hat + bias; x_hat; and the derivative of u by x."""
    slope = tl.full([], SLOPE, dy.dtype)
    one = tl.full([], 1, dy.dtype)
    if FROM_OUTPUT:
        if ACTIVATION_FIRST:
            x_hat = (kept - bias) * (one / weight)
            positive = x_hat * (one / inverse) + low + high > 0
        else:
            z = tl.where(kept > 0, kept, kept * (one / slope))
            x_hat = (z - bias) * (one / weight)
            positive = kept > 0
    else:
        u = input_of_norm(kept, SLOPE, ACTIVATION_FIRST)
        x_hat = ((u - high) - low) * inverse
        positive = kept > 0 if ACTIVATION_FIRST else x_hat * weight + bias > 0
    factor = tl.where(positive, one, slope)
    if ACTIVATION_FIRST:
        return dy, x_hat, factor
    else:
        return dy * factor, x_hat, one


@triton.jit
def mean_and_squares(n, pivot, s1, s2):
    """Return mean and squares, all float64: of sums of n values' distances from a pivot.

    The sums are of about the size of the deviation and its square, so float32 kept their digits
    however large the mean is. A division in float64 is a call, around which registers are spilled:
    the only one here is by n, which is one number where all channels have as many values.
    """
    shift = s1 * (1.0 / n)
    squares = s2 - s1 * shift
    # Not a maximum, which would hide NaN.
    return pivot + shift, tl.where(squares < 0, 0.0, squares)


@triton.jit
def split_statistics(n, mean, squares, EPS: tl.constexpr, ACC: tl.constexpr):
    """Return high and low part of the mean, and 1 / deviation, as form.statistics."""
    high = mean.to(ACC)
    low = (mean - high.to(tl.float64)).to(ACC)
    variance = squares * (1.0 / n)
    inverse = tl.rsqrt(variance + tl.full([], EPS, tl.float64))
    return high, low, inverse.to(ACC)  # type: ignore[arg-type]


@triton.jit
def store_rows_3(ptr, c, mask, C, first, second, third):
    """Store three values a channel in [3, C]."""
    tl.store(ptr + c, first, mask)
    tl.store(ptr + C + c, second, mask)
    tl.store(ptr + 2 * C + c, third, mask)


@triton.jit
def unbiased(n, squares, ACC: tl.constexpr):
    """Return the variance over n - 1."""
    return (squares * (1.0 / tl.maximum(n - 1, 1.0))).to(ACC)


@triton.jit
def move(mean_ptr, var_ptr, momentum, c, mask, mean, var):
    """Move float32 running statistics towards those of a batch."""
    old = tl.load(mean_ptr + c, mask, other=0)
    tl.store(mean_ptr + c, old + momentum * (mean.to(tl.float32) - old), mask)
    old = tl.load(var_ptr + c, mask, other=0)
    tl.store(var_ptr + c, old + momentum * (var.to(tl.float32) - old), mask)


@triton.jit
def combine(
    parts_ptr,
    moments_ptr,
    stats_ptr,
    running_mean_ptr,
    running_var_ptr,
    C,
    P,
    momentum,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Combine parts [P, 4, C] to moments and statistics [3, C], and move running ones.

    Not those whose pointer is None. A part is a number of values, a pivot, and the sums of
    distances from it and of their squares.

    After Chan, Golub and LeVeque (1979), in float64 and in an order that never changes.
    """
    p = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < C
    mask = (p < P) & inside[None, :]
    at = parts_ptr + p * 4 * C + c[None, :]
    n = tl.load(at, mask, other=0).to(tl.float64)
    pivot = tl.load(at + C, mask, other=0).to(tl.float64)
    s1 = tl.load(at + 2 * C, mask, other=0).to(tl.float64)
    s2 = tl.load(at + 3 * C, mask, other=0).to(tl.float64)
    # Around the first part's pivot: a sum of large means would lose the digits that differ. Parts
    # are not divided by their numbers: registers are spilled around divisions in float64.
    first = tl.load(parts_ptr + C + c, inside, other=0).to(tl.float64)
    away = tl.where(mask, pivot - first[None, :], 0.0)
    count = tl.where(inside, tl.sum(n, 0), 1.0)
    s2 = tl.sum(s2 + away * (2 * s1 + n * away), 0)
    s1 = tl.sum(s1 + n * away, 0)
    mean, squares = mean_and_squares(count, first, s1, s2)
    if moments_ptr is not None:
        store_rows_3(moments_ptr, c, inside, C, count, mean, squares)
    if stats_ptr is not None:
        high, low, inverse = split_statistics(count, mean, squares, EPS, ACC)
        store_rows_3(stats_ptr, c, inside, C, high, low, inverse)
    if running_mean_ptr is not None:
        var = unbiased(count, squares, ACC)
        move(running_mean_ptr, running_var_ptr, momentum, c, inside, mean, var)


@triton.jit
def move_by(moments_ptr, mean_ptr, var_ptr, C, momentum, COLUMNS: tl.constexpr):
    """Move running statistics by given moments [3, C]."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < C
    n = tl.load(moments_ptr + c, inside, other=2)
    mean = tl.load(moments_ptr + C + c, inside, other=0)
    squares = tl.load(moments_ptr + 2 * C + c, inside, other=0)
    var = unbiased(n, squares, tl.float32)  # type: ignore[arg-type]
    move(mean_ptr, var_ptr, momentum, c, inside, mean, var)


@triton.jit
def add_up(
    parts_ptr,
    sums_ptr,
    means_ptr,
    C,
    P,
    count,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add parts [P, 2, C] to sums [2, C], and to float64 means [2, C], the sums over count."""
    p = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < C
    mask = (p < P) & inside[None, :]
    for row in range(2):
        part = tl.load(parts_ptr + (p * 2 + row) * C + c[None, :], mask, other=0)
        total = tl.sum(part.to(tl.float64), 0)
        tl.store(sums_ptr + row * C + c, total, inside)
        tl.store(means_ptr + row * C + c, total / tl.cast(count, tl.float64), inside)
