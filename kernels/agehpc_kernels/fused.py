"""BatchNorm + LeakyReLU as one function."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from agehpc_kernels import ranks
from agehpc_kernels.choice import Way, layer, way
from agehpc_kernels.derivatives import Forward, Setting, filled
from agehpc_kernels.form import Form, Order, Save, statistics, wide
from agehpc_kernels.ops import dense

_WIDE = (torch.float32, torch.float64)


def bn_leaky_relu(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    slope: float = 0.2,
    order: Order = "norm_first",
    save: Save = "input",
    sync: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Normalise each channel, scale, shift and apply LeakyReLU (or LeakyReLU first): y.

    As F.leaky_relu(F.batch_norm(x, ...), slope), differentiable twice. Statistics are float32
    (float64 for float64 inputs) whatever the input.

    `save="output"` keeps y for backward instead of x, which the next layer keeps anyway; x is not
    touched. x is rebuilt from y, so rounding of y comes back multiplied by about |bias / weight|:
    as exact as keeping x while |bias| <= |weight|, and at bias / weight = 10 (100) the rebuilt
    normalised values are off by 2% (14%) in bfloat16, 0.2% (2%) in float16. Where `order` is
    `activation_first`, values whose distance from 0 is within that rounding may get the other
    slope. No element of `weight` may be 0, or the gradients of its channel are not finite.

    Args:
        x: [N, C, *], any floating dtype; contiguous or channels_last, others are copied. Without
            values (N = 0) y has none either and running statistics stay.
        weight: [C], any floating dtype; None is 1.
        bias: [C], any floating dtype; None is 0.
        running_mean: [C], best float32; updated in place in training, used in evaluation.
        running_var: [C], likewise; takes the unbiased variance.
        training: whether to normalise by the statistics of x.
        momentum: weight of this batch in the running statistics; a tensor without dimensions keeps
            a cumulative average off the host.
        eps: added to the variance.
        slope: negative slope; 0 is ReLU, 1 leaves the norm alone. Above 0 with `save="output"`.
        order: whether the norm or LeakyReLU comes first.
        save: what backward keeps.
        sync: statistics over all ranks in training: collective, in forward and every backward
            pass. Ranks may hold unequally many samples or none. The gradient of x is that of the
            sum of all ranks' losses, those of weight and bias are this rank's part, as in
            torch.nn.SyncBatchNorm.
        group: the ranks to share with; None is the default group.

    Returns:
        [N, C, *] in the dtype and memory format of `x`.

    Raises:
        ValueError: arguments that do not fit together, or one value per channel in training.
    """
    _check(x, weight, bias, running_mean, running_var, training, slope, order, save)
    sync = sync and training and ranks.shared(group)
    values = x.numel() // max(x.shape[1], 1)
    if training and values == 1 and not sync:
        raise ValueError(
            "expected more than 1 value per channel when training, got input size "
            f"{list(x.shape)}; use a larger batch, or .eval()"
        )
    by = "operators" if sync else way(x, slope, order, save)
    x = dense(x)
    if by == "torch":
        given = x, weight, bias, running_mean, running_var
        return _by_torch(*given, training, momentum, eps, slope, order)
    # Not for a tensor that stands for another, as a FakeTensor, nor under a mode that traces: it
    # would see memory being made and not what is written there. Nor for statistics kept narrow.
    plain = type(x) is Tensor and not is_in_torch_dispatch_mode()
    own = training and plain and by != "operators"
    if own and _moves(by, running_mean, running_var, momentum):
        first, output = order == "activation_first", save == "output"
        given = x, weight, bias, running_mean, running_var
        return layer(by)(*given, momentum, eps, slope, first, output)
    form = Form(slope, order, save)
    setting = Setting(form, eps, not training, sync, group)
    fixed_3C = None if training else _of_running(running_mean, running_var, eps, x.dtype)
    # Outside the Function: what it keeps is then the one dense copy.
    y, _, moments_3C = Forward.apply(x, *filled(weight, bias), fixed_3C, setting)  # type: ignore[misc]
    if training and running_mean is not None and running_var is not None and (values or sync):
        _track(running_mean, running_var, moments_3C, momentum, sync)
    return y


def _moves(by: Way, mean: Tensor | None, var: Tensor | None, momentum: float | Tensor) -> bool:
    """Return whether a backend's own layer can move these statistics."""
    if isinstance(momentum, Tensor):
        return False
    if mean is None or var is None:
        return True
    if by == "cpp":
        return mean.dtype in _WIDE and var.dtype in _WIDE
    # A kernel's momentum is float32.
    return mean.dtype == var.dtype == torch.float32 and mean.is_contiguous() and var.is_contiguous()


def _by_torch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    slope: float,
    order: Order,
) -> Tensor:
    """Run torch's own functions, with dtypes that they take together."""

    def widened(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(wide(x.dtype))

    u = F.leaky_relu(x, slope) if order == "activation_first" else x
    given = widened(weight), widened(bias)
    # torch.batch_norm, which F.batch_norm calls after checks that were made here.
    last = eps, torch.backends.cudnn.enabled
    if not training or running_mean is None or running_var is None:
        running = widened(running_mean), widened(running_var)
        y = torch.batch_norm(u, *given, *running, training, 0.0, *last)
    elif running_mean.dtype == running_var.dtype == wide(x.dtype) and not isinstance(
        momentum, Tensor
    ):
        # Aliases: torch keeps them for a backward that does not use them, and would refuse it once
        # the statistics are moved again.
        mean, var = running_mean.data, running_var.data
        y = torch.batch_norm(u, *given, mean, var, True, momentum, *last)
    else:
        # Of this batch alone: momentum may be a tensor, and the statistics of another dtype.
        mean, var = (torch.zeros(x.shape[1], dtype=wide(x.dtype), device=x.device) for _ in "mv")
        y = torch.batch_norm(u, *given, mean, var, True, 1.0, *last)
        _move(running_mean, running_var, mean, var, momentum)
    return y if order == "activation_first" else F.leaky_relu(y, slope)


def _of_running(mean: Tensor | None, var: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Return [3, C] statistics for evaluation."""
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        mean, var = mean.double(), var.double()
        # One value, whose squared deviation is the variance.
        return statistics(torch.stack([torch.ones_like(mean), mean, var]), eps, wide(dtype))


@torch.no_grad()
def _track(
    running_mean: Tensor,
    running_var: Tensor,
    moments_3C: Tensor,
    momentum: float | Tensor,
    sync: bool,
) -> None:
    count, mean, squares = moments_3C
    unbiased = squares / (count - 1).clamp(min=1)
    # Whether any rank holds values is known on the device alone.
    share = (count > 0).double() * momentum if sync else momentum
    _move(running_mean, running_var, mean, unbiased, share)


@torch.no_grad()
def _move(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, share: float | Tensor
) -> None:
    for running, new in ((running_mean, mean), (running_var, var)):
        weight = share.to(running.dtype) if isinstance(share, Tensor) else share
        running.lerp_(new.to(running.dtype), weight)


def _check(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    slope: float,
    order: str,
    save: str,
) -> None:
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"x must be a floating [N, C, *], got {x.dtype} {list(x.shape)}; "
            "convert it, or add the missing dimension"
        )
    if order not in ("norm_first", "activation_first"):
        raise ValueError(f"order must be norm_first or activation_first, got {order!r}")
    if save not in ("input", "output"):
        raise ValueError(f"save must be input or output, got {save!r}")
    if save == "output" and slope <= 0:
        raise ValueError(
            f"save='output' rebuilds x from y, which a slope of {slope} cannot give back; "
            "use a slope above 0, or save='input'"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var go together: give both or neither")
    if not training and running_mean is None:
        raise ValueError("evaluation needs running_mean and running_var; give both, or training")
    wanted = (x.shape[1],)
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None and tensor.shape != wanted:
            given = {"weight": weight, "bias": bias, "running_mean": running_mean}
            name = next((n for n, t in given.items() if t is tensor), "running_var")
            raise ValueError(
                f"{name} must be [{wanted[0]}], one value a channel of x, got {list(tensor.shape)}"
            )
