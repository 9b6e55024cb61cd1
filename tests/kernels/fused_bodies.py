"""What the ranks of test_fused_ranks.py run."""

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.groups import Ranks
from agehpc_kernels import SyncBatchNormLeakyReLU, all_reduce_sum, bn_leaky_relu
from tests.kernels.forms import Case, Inputs, NoHost, fused, reference

Numbers = dict[str, list[float]]


def global_case(order: str, save: str, samples: int, channels: int = 65) -> Case:
    """A batch with a mean that is large beside its deviation, as moments of ranks must survive."""
    return Case((samples, channels, 3, 2), "contiguous", order, save)


def derivatives(ranks: Ranks, forms: list[list[str]], split: list[int]) -> list[Numbers]:
    """Output, first and second derivatives, statistics of this rank's share, for each form."""
    return [of_share(order, save, split, ranks.env.rank) for order, save in forms]


def of_share(order: str, save: str, split: list[int], rank: int | None) -> Numbers:
    """The same of one rank, or, for None, of the whole batch by F.batch_norm."""
    case = global_case(order, save, sum(split))
    whole = case.draw()
    x, dy = whole.x.detach() + 1e4, whole.dy
    if rank is not None:
        mine = slice(sum(split[:rank]), sum(split[: rank + 1]))
        x, dy = x[mine], dy[mine]
    inputs = Inputs(x.clone().requires_grad_(True), *whole.arguments()[1:], dy)
    if rank is None:
        y = reference(*inputs.arguments(), **case.options())
    else:
        y = fused(case, inputs, sync=True)
    (g,) = torch.autograd.grad((dy * y.square()).sum(), inputs.x, create_graph=True)
    # Scaled so that no term drowns another.
    penalty = (dy * g).sum() + (dy * y).sum() + g.square().sum()
    penalty.backward()
    names = ("x.grad", "weight.grad", "bias.grad")
    found: dict[str, Any] = {"y": y, "g": g}
    found |= {n: leaf.grad for n, leaf in zip(names, inputs.leaves(), strict=True)}
    found |= {"mean": inputs.running_mean, "var": inputs.running_var}
    return {name: t.detach().flatten().tolist() for name, t in found.items()}


def gradients_check(ranks: Ranks, splits: list[list[int]]) -> bool:
    """gradcheck and gradgradcheck of the global batch, every rank in step with the others.

    Averaging what comes in and gathering what goes out, both differentiably, makes the shares of
    all ranks one function of inputs that all ranks hold. In fast mode: random directions instead
    of whole Jacobians, as every evaluation takes a dozen collectives.
    """
    world = ranks.env.world_size
    forms = [(o, s) for o in ("norm_first", "activation_first") for s in ("input", "output")]
    for split in splits:
        mine = slice(sum(split[: ranks.env.rank]), sum(split[: ranks.env.rank + 1]))
        for order, save in forms:
            case = Case((sum(split), 2, 2), "contiguous", order, save, running=False)

            def f(*leaves: Tensor, case: Case = case, mine: slice = mine) -> Tensor:
                x, weight, bias = (all_reduce_sum(t) / world for t in leaves)
                y = fused(case, Inputs(x[mine], weight, bias, None, None, x), sync=True)
                rows = [torch.zeros_like(x[: mine.start]), y, torch.zeros_like(x[mine.stop :])]
                return all_reduce_sum(torch.cat(rows))

            torch.manual_seed(0)
            assert torch.autograd.gradcheck(f, case.draw().leaves(), fast_mode=True)
            assert torch.autograd.gradgradcheck(f, case.draw().leaves(), fast_mode=True)
    return True


def collectives(ranks: Ranks, split: list[int]) -> list[list[str]]:
    """The collectives of a forward and of a backward; nothing may wait for a value."""
    x = torch.randn(split[ranks.env.rank], 5, 4, requires_grad=True)
    weight, bias = (torch.ones(5, requires_grad=True) for _ in range(2))
    mean, var = torch.zeros(5), torch.ones(5)
    called: list[str] = []

    def noted(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return original(*args, **kwargs)

        return mock.patch.object(dist, name, call)

    names = ("all_gather", "all_gather_single", "all_reduce", "all_gather_into_tensor", "broadcast")
    patches = [noted(name, getattr(dist, name)) for name in names]
    for patch in patches:
        patch.start()
    with NoHost():
        y = bn_leaky_relu(x, weight, bias, mean, var, momentum=1 / torch.ones(()), sync=True)
        forward = called.copy()
        called.clear()
        y.sum().backward()
    for patch in patches:
        patch.stop()
    assert mean.isfinite().all()
    assert var.isfinite().all()
    return [forward, called]


def empty_everywhere(ranks: Ranks) -> list[list[float]]:
    """Statistics after a step without a single value."""
    module = SyncBatchNormLeakyReLU(2, momentum=None)
    x = torch.empty(0, 2, 4, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is not None
    return [module.running_mean.tolist(), module.running_var.tolist(), module.weight.grad.tolist()]


def one_value_each(ranks: Ranks) -> list[float]:
    """What a rank with one value a channel may do, if the others have some too."""
    module = SyncBatchNormLeakyReLU(1, eps=0.0, slope=1.0)
    return module(torch.tensor([[float(ranks.env.rank)]])).flatten().tolist()


def on_the_cpu(ranks: Ranks) -> list[str]:
    """What torch's SyncBatchNorm says to gloo and the CPU, beside what ours gives."""
    x = torch.randn(4, 3, 5)
    try:
        torch.nn.SyncBatchNorm(3)(x)
        theirs = "works"
    except ValueError as error:
        theirs = str(error)
    return [theirs, str(SyncBatchNormLeakyReLU(3)(x).device)]


def evaluation_is_local(ranks: Ranks) -> bool:
    """Only the first rank runs: a collective would hang."""
    if ranks.env.rank == 0:
        for track in (True, False):
            module = SyncBatchNormLeakyReLU(3, track_running_stats=track).eval()
            module(torch.randn(4, 3)).sum().backward()
    dist.barrier()
    return True


def everything(ranks: Ranks, forms: list[list[str]], splits: list[list[int]]) -> dict[str, Any]:
    """All that needs two ranks, in one start of them."""
    return {
        "derivatives": [derivatives(ranks, forms, split) for split in splits],
        "collectives": collectives(ranks, [3, 2]),
        "collectives, one empty": collectives(ranks, [3, 0]),
        "empty": empty_everywhere(ranks),
        "one value": one_value_each(ranks),
        "cpu": on_the_cpu(ranks),
        "evaluation": evaluation_is_local(ranks),
        "checks": gradients_check(ranks, [[2, 1], [3, 0]]),
    }
