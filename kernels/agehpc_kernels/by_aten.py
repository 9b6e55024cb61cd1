"""The fused operation in plain torch: what runs where no kernel does, and what kernels must equal.

Every backend is a module with these functions, on plain tensors, without autograd. N samples, C
channels, * any spatial dimensions (also none), u the input of the norm: x, or LeakyReLU(x) where
that comes first. float64 tensors are worked on in float64, all others in float32. `weight` and
`bias` are [C] of any floating dtype, or both None. Outputs have the shape, dtype and memory format
of x. `stats_3C` comes from :func:`agehpc_kernels.form.statistics`, or for evaluation from running
statistics; `kept` is x or y as `form.save` says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from agehpc_kernels.form import Form, statistics, wide


def refusal(x: Tensor, form: Form) -> str | None:
    """Return why this backend cannot take a tensor: it takes all of them."""
    return None


def slower(x: Tensor, form: Form) -> str | None:
    """Return why another backend is the better choice: it is the last one that is asked."""
    return None


def moments(x: Tensor, form: Form) -> Tensor:
    """Return float64 [3, C]: number of values of u, their mean, sum of squared deviations."""
    u = _input_of_norm(_wide(x), form)
    dims = [0, *range(2, x.dim())]
    count = x.numel() // max(x.shape[1], 1)
    if not count:
        return x.new_zeros(3, x.shape[1], dtype=torch.float64)
    # The mean of what is left after the first mean: its rounding would stay in large ones.
    first = u.mean(dims, keepdim=True)
    rest = u - first
    mean = first.flatten().double() + rest.mean(dims).double()
    squares = (rest - rest.mean(dims, keepdim=True)).square().sum(dims).double()
    return torch.stack([torch.full_like(mean, count), mean, squares])


def apply(
    x: Tensor, stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> Tensor:
    """Normalise by given statistics, scale, shift and activate: y."""
    z = _scaled(_normalised(_input_of_norm(_wide(x), form), stats_3C), weight, bias)
    return _output_of_norm(z, form).to(x.dtype)


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of x itself: y, the moments and the statistics."""
    found = moments(x, form)
    stats_3C = statistics(found, eps, wide(x.dtype))
    return apply(x, stats_3C, weight, bias, form), found, stats_3C


def backward_sums(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> Tensor:
    """Return float64 [2, C]: sums of g and of g * x_hat, g the gradient of weight * x_hat + bias.

    They are the gradients of bias and weight.
    """
    g, x_hat, _ = parts(dy, kept, stats_3C, weight, bias, form)
    dims = [0, *range(2, dy.dim())]
    return torch.stack([g.double().sum(dims), (g * x_hat).double().sum(dims)])


def backward_apply(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    means_2C: Tensor,
    form: Form,
) -> Tensor:
    """Return dx. `means_2C` float64: the sums over all ranks over their number of values.

    Zeros in evaluation, where the statistics do not depend on x.
    """
    g, x_hat, factor = parts(dy, kept, stats_3C, weight, bias, form)
    first, second = (_wide_as(means_2C, g)[i].view(_shape(g)) for i in range(2))
    inverse = stats_3C[2] if weight is None else stats_3C[2] * weight.to(stats_3C.dtype)
    return ((g - first - x_hat * second) * inverse.view(_shape(g)) * factor).to(dy.dtype)


def backward(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Return dx and the sums, for statistics of this x alone."""
    sums_2C = backward_sums(dy, kept, stats_3C, weight, bias, form)
    means_2C = sums_2C / max(dy.numel() // max(dy.shape[1], 1), 1)
    return backward_apply(dy, kept, stats_3C, weight, bias, means_2C, form), sums_2C


def backward_fixed(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Return dx and the sums, for statistics that do not depend on x (evaluation)."""
    sums_2C = backward_sums(dy, kept, stats_3C, weight, bias, form)
    means_2C = torch.zeros_like(sums_2C)
    return backward_apply(dy, kept, stats_3C, weight, bias, means_2C, form), sums_2C


def parts(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return g, x_hat, and the derivative of u by x: differentiable pieces of the backward."""
    g, kept = _wide(dy), _wide(kept)
    first = form.order == "activation_first"
    if form.save == "input":
        x_hat = _normalised(_input_of_norm(kept, form), stats_3C)
        sign = kept if first else _scaled(x_hat, weight, bias)
    else:
        z = kept if first else torch.where(kept > 0, kept, kept / form.slope)
        x_hat = _unscaled(z, weight, bias)
        sign = _restored(x_hat, stats_3C) if first else kept
    # torch's derivative at 0 is the slope.
    factor = torch.full_like(g, form.slope).masked_fill_(sign > 0, 1.0)
    return (g, x_hat, factor) if first else (g * factor, x_hat, 1.0)


def _wide(x: Tensor) -> Tensor:
    return x.to(wide(x.dtype))


def _wide_as(means_2C: Tensor, g: Tensor) -> Tensor:
    return means_2C.to(g.dtype)


def _shape(x: Tensor) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.dim() - 2)


def _input_of_norm(x: Tensor, form: Form) -> Tensor:
    return F.leaky_relu(x, form.slope) if form.order == "activation_first" else x


def _output_of_norm(z: Tensor, form: Form) -> Tensor:
    return z if form.order == "activation_first" else F.leaky_relu(z, form.slope)


def _normalised(u: Tensor, stats_3C: Tensor) -> Tensor:
    high, low, inverse = (row.view(_shape(u)) for row in stats_3C)
    return (u - high - low) * inverse


def _restored(x_hat: Tensor, stats_3C: Tensor) -> Tensor:
    high, low, inverse = (row.view(_shape(x_hat)) for row in stats_3C)
    return x_hat / inverse + low + high


def _scaled(x_hat: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None or bias is None:
        return x_hat
    weight, bias = (part.to(x_hat.dtype).view(_shape(x_hat)) for part in (weight, bias))
    return x_hat * weight + bias


def _unscaled(z: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None or bias is None:
        return z
    weight, bias = (part.to(z.dtype).view(_shape(z)) for part in (weight, bias))
    return (z - bias) / weight
