"""NormLeakyReLU against torch's own norms, in one, two and four dimensions of space and time."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agehpc_kernels import NormLeakyReLU, calibrating, frozen_statistics
from tests.kernels.bodies import SHAPE, derivatives, inputs
from tests.ranks import run_ranks

SHAPES = [(8, 6), (4, 6, 5, 7), (3, 6, 4, 5, 2)]
BATCH_NORMS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS = {4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
FORMS = ["batch", "sync_batch", "group", "instance"]


def draw(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype) * 3 + 1


def randomise(module: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def torchs(norm: str, shape: tuple[int, ...], momentum: float = 0.1) -> nn.Module:
    channels = shape[1]
    if norm == "group":
        return nn.GroupNorm(2, channels).double()
    if norm == "instance":
        return INSTANCE_NORMS[len(shape)](channels, affine=True).double()
    return BATCH_NORMS[len(shape)](channels, momentum=momentum).double()


@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("slope", [0.2, 1.0, 0.0])
@pytest.mark.parametrize(
    ("norm", "shape"),
    # One value a channel has no variance: no instance norm without space.
    [(n, s) for n in FORMS for s in SHAPES if n != "instance" or len(s) > 2],
)
def test_equals_torch(norm: str, shape: tuple[int, ...], slope: float, order: str):
    momentum = 0.1 if order == "norm_first" else 0.3
    ours: Any = NormLeakyReLU(norm, shape[1], slope=slope, order=order, momentum=momentum).double()  # type: ignore[arg-type]
    parts = [torchs(norm, shape, momentum), nn.LeakyReLU(slope)]
    theirs = nn.Sequential(*(parts if order == "norm_first" else parts[::-1]))
    randomise(ours)
    randomise(theirs)
    for seed in range(3):
        x = draw(shape, seed)
        a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        y, wanted = ours(a), theirs(b)
        assert y.dtype == torch.float64
        torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
        for out in (y, wanted):
            (out**3).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10)
    if norm in ("batch", "sync_batch"):
        torch.testing.assert_close(ours.running_mean[0], parts[0].running_mean)
        torch.testing.assert_close(ours.running_var[0], parts[0].running_var)
        assert int(ours.batches_tracked[0]) == 3
    ours.eval()
    theirs.eval()
    x = draw(shape, 9)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_none_is_leaky_relu():
    module = NormLeakyReLU("none", 6)
    x = draw(SHAPES[1])
    assert torch.equal(module(x), torch.where(x > 0, x, 0.2 * x))
    assert not list(module.parameters())
    assert not list(module.buffers())


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (8, 8), (12, 4), (64, 8), (5, 1)])
def test_groups_divide_the_channels(channels: int, groups: int):
    assert NormLeakyReLU("group", channels).groups == groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", FORMS)
def test_low_precision_is_computed_in_float32(norm: str, dtype: torch.dtype):
    module = NormLeakyReLU(norm, 6)  # type: ignore[arg-type]
    exact = NormLeakyReLU(norm, 6).double()  # type: ignore[arg-type]
    x = draw(SHAPES[1]).to(dtype)
    y, wanted = module(x), exact(x.double())
    assert y.dtype == dtype
    assert module.weight.dtype == torch.float32
    torch.testing.assert_close(y, wanted.to(dtype))
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffer, exact.get_buffer(name), check_dtype=False)


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_a_large_mean_costs_no_precision(norm: str):
    x = draw((64, 4, 8, 8))
    y = NormLeakyReLU(norm, 4, slope=1.0)((x + 1000).float())  # type: ignore[arg-type]
    wanted = NormLeakyReLU(norm, 4, slope=1.0).double()(x)  # type: ignore[arg-type]
    assert (y - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_banks_are_separate(norm: str):
    module = NormLeakyReLU(norm, 6, banks=2).double()  # type: ignore[arg-type]
    alone = [NormLeakyReLU(norm, 6).double() for _ in range(2)]  # type: ignore[arg-type]
    for seed, bank in enumerate([0, 1, 1, 0, 1]):
        x = draw(SHAPES[1], seed) * (1 + bank)
        assert torch.equal(module(x, bank), alone[bank](x))
    module.eval()
    for bank in (0, 1):
        assert torch.equal(module.running_mean[bank], alone[bank].running_mean[0])
        assert torch.equal(module.running_var[bank], alone[bank].running_var[0])
        x = draw(SHAPES[1], 7)
        assert torch.equal(module(x, bank), alone[bank].eval()(x))
    assert module.batches_tracked.tolist() == [2, 3]
    assert not torch.allclose(module(x, 0), module(x, 1))


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group"])
def test_frozen_statistics(norm: str):
    net = nn.Sequential(NormLeakyReLU(norm, 6), NormLeakyReLU("none", 6)).double()  # type: ignore[arg-type]
    x = draw(SHAPES[1])
    wanted = net(x)
    before = {name: b.clone() for name, b in net.named_buffers()}
    with frozen_statistics(net):
        assert torch.equal(net(x), wanted)
        with frozen_statistics(net):
            net(x)
        net(x)  # the inner block left the outer one as it was
    for name, b in net.named_buffers():
        assert torch.equal(b, before[name])
    net(x)
    assert all(not torch.equal(b, before[name]) for name, b in net.named_buffers())


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_calibrating_takes_the_plain_mean(norm: str):
    module = NormLeakyReLU(norm, 6, banks=2).double()  # type: ignore[arg-type]
    for seed in range(3):
        module(draw(SHAPES[1], 20 + seed))  # statistics of before, which calibration forgets
    untouched = module.running_mean[1].clone()
    module.eval()
    batches = [draw(SHAPES[1], seed) for seed in range(4)]
    with calibrating(module):
        for x in batches:
            assert not module(x).requires_grad
    assert not module.training
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(module.running_mean[0], means)
    torch.testing.assert_close(module.running_var[0], variances)
    assert torch.equal(module.running_mean[1], untouched)
    module.train()
    module(batches[0])  # afterwards it is a moving average again
    torch.testing.assert_close(
        module.running_mean[0], 0.9 * means + 0.1 * batches[0].mean((0, 2, 3))
    )


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("norm", FORMS)
def test_derivatives(norm: str, order: str, classes: int | None):
    module = NormLeakyReLU(norm, 2, order=order, classes=classes).double()  # type: ignore[arg-type]
    randomise(module)
    x = draw((3, 2, 2, 2)).requires_grad_(True)
    labels = None if classes is None else torch.tensor([2, 0, 2])

    def f(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        with frozen_statistics(module):
            return torch.func.functional_call(module, parameters, (x, 0, labels))

    arguments = (x, *module.parameters())
    assert torch.autograd.gradcheck(f, arguments)
    assert torch.autograd.gradgradcheck(f, arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("norm", FORMS)
def test_classes_have_their_own_scale_and_shift(norm: str, order: str, training: bool):
    """Against a loop over samples, on what the norm gives without scale and shift."""
    shape, labels = (5, 6, 3, 4), torch.tensor([1, 3, 0, 1, 1])
    module: Any = NormLeakyReLU(norm, 6, banks=2, order=order, classes=4).double()  # type: ignore[arg-type]
    plain: Any = NormLeakyReLU(norm, 6, banks=2, slope=1.0).double()  # type: ignore[arg-type]
    assert (module.weight == 1).all()
    assert not module.bias.any()
    randomise(module)

    def before(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) if order == "activation_first" else x

    for bank in (0, 1):
        x = draw(shape, bank)
        module(x, bank, labels)
        plain(before(x), bank)
    module.train(training)
    plain.train(training)
    x = draw(shape, 5)
    found, y = module(x, 1, labels), plain(before(x), 1)
    for n, label in enumerate(labels):
        for c in range(6):
            wanted = y[n, c] * module.weight[label, c] + module.bias[label, c]
            if order == "norm_first":
                wanted = F.leaky_relu(wanted, 0.2)
            torch.testing.assert_close(found[n, c], wanted)


def test_sync_batch_of_two_ranks_equals_one_process():
    together = run_ranks(2, "tests.kernels.bodies:sync_batch")
    alone = derivatives("batch", *inputs())
    half = math.prod(SHAPE) // 2
    for rank, found in enumerate(together):
        mine = slice(rank * half, (rank + 1) * half)
        for name in ("y", "g", "x.grad"):
            assert found[name] == pytest.approx(alone[name][mine], rel=1e-12, abs=1e-12), name
        for name in ("mean", "var"):
            assert found[name] == pytest.approx(alone[name], rel=1e-12, abs=1e-12), name
    for name in ("weight.grad", "bias.grad"):
        total = [a + b for a, b in zip(*(f[name] for f in together), strict=True)]
        assert total == pytest.approx(alone[name], rel=1e-12, abs=1e-12), name
