"""The fused modules beside torch's, and the conversion between them."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agehpc_kernels import (
    BatchNormLeakyReLU1d,
    BatchNormLeakyReLU2d,
    BatchNormLeakyReLU3d,
    SyncBatchNormLeakyReLU,
    backend,
    fuse,
    unfuse,
)
from tests.kernels.forms import NoHost

PAIRS = [
    (BatchNormLeakyReLU1d, nn.BatchNorm1d, (6, 5)),
    (BatchNormLeakyReLU1d, nn.BatchNorm1d, (6, 5, 4)),
    (BatchNormLeakyReLU2d, nn.BatchNorm2d, (6, 5, 4, 3)),
    (BatchNormLeakyReLU3d, nn.BatchNorm3d, (6, 5, 4, 3, 2)),
    (SyncBatchNormLeakyReLU, nn.BatchNorm2d, (6, 5, 4, 3)),
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"track_running_stats": False},
    {"affine": False, "momentum": 0.3},
    {"bias": False, "eps": 0.1},
]


@pytest.fixture(autouse=True, scope="module", params=["aten", "auto"])
def by(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernels' formulas, and what is chosen."""
    with backend(request.param):
        yield


def randomise(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.normal_(p)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("ours", "theirs", "shape"), PAIRS)
def test_trains_and_evaluates_as_torch(
    ours: Any, theirs: Any, shape: tuple[int, ...], settings: dict[str, Any]
):
    torch.manual_seed(0)
    mine = ours(5, **settings, slope=0.1).double()
    plain = theirs(5, **settings).double()
    randomise(mine)
    assert plain.load_state_dict(mine.state_dict(), strict=True)
    for training in (True, True, True, False):
        x = torch.randn(shape, dtype=torch.float64) * 2 + 1
        results = []
        for module in (mine, nn.Sequential(plain, nn.LeakyReLU(0.1))):
            module.train(training)
            leaf = x.clone().requires_grad_(True)
            y = module(leaf)
            inputs = [leaf, *module.parameters()]
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
    there, here = plain.state_dict(), mine.state_dict()
    assert list(here) == list(there)
    for name, value in there.items():
        torch.testing.assert_close(here[name], value)
    assert mine.load_state_dict(there, strict=True)


def test_tracking_switched_off_later():
    x = torch.randn(8, 3)
    for track in (True, False):
        module, plain = BatchNormLeakyReLU1d(3, slope=1.0), nn.BatchNorm1d(3)
        for m in (module, plain):
            m(x)
            m.track_running_stats = track
            if not track:
                m(x * float("nan"))
        torch.testing.assert_close(module(2 * x), plain(2 * x))
        for m in (module, plain):
            m.eval()
        torch.testing.assert_close(module(x), plain(x))
        torch.testing.assert_close(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
class TestCasts:
    """Running statistics keep their bits."""

    def trained(self) -> BatchNormLeakyReLU2d:
        module = BatchNormLeakyReLU2d(3)
        module(torch.randn(4, 3, 5, 5) + 1.2345678)
        return module

    def test_a_cast_takes_the_parameters_only(self, narrow: torch.dtype):
        module = self.trained()
        before = {name: b.clone() for name, b in module.named_buffers()}
        net = nn.Sequential(module).to(narrow)
        assert module.weight.dtype == narrow
        for name, b in module.named_buffers():
            assert b.dtype == before[name].dtype
            assert torch.equal(b, before[name])
        x = torch.randn(4, 3, 5, 5).to(narrow)
        net(x).float().sum().backward()
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == narrow
        assert module.running_mean is not None
        assert module.running_mean.dtype == torch.float32
        # Less than bfloat16 could hold.
        wanted = 0.9 * before["running_mean"] + 0.1 * x.float().mean((0, 2, 3))
        torch.testing.assert_close(module.running_mean, wanted, rtol=1e-5, atol=1e-6)

    def test_made_narrow_and_checkpoints_of_it(self, narrow: torch.dtype):
        module = BatchNormLeakyReLU2d(3, dtype=narrow)
        assert module.weight.dtype == narrow
        for buffer in (module.running_mean, module.running_var):
            assert buffer is not None
            assert buffer.dtype == torch.float32
        whole = self.trained()
        module.load_state_dict(whole.state_dict())
        assert torch.equal(module.running_mean, whole.running_mean)  # type: ignore[arg-type]

    def test_double_widens_and_a_narrow_cast_goes_back_to_float32(self, narrow: torch.dtype):
        module = self.trained()
        before = module.running_mean.clone()  # type: ignore[union-attr]
        for dtype, wanted in ((torch.float64, torch.float64), (narrow, torch.float32)):
            module.to(dtype)
            assert module.running_mean is not None
            assert module.running_mean.dtype == wanted
            assert torch.equal(module.running_mean.float(), before)

    def test_moves_with_the_module(self, narrow: torch.dtype):
        module = self.trained().to("meta", narrow)
        devices = {t.device.type for t in [*module.parameters(), *module.buffers()]}
        assert devices == {"meta"}
        assert module.running_var is not None
        assert module.running_var.dtype == torch.float32
        empty = module.to_empty(device="cpu")
        assert empty.running_var is not None
        assert (empty.running_var.dtype, empty.running_var.device.type) == (torch.float32, "cpu")


def test_copies_and_pickles():
    module = BatchNormLeakyReLU2d(3, slope=0.3, order="activation_first", save="output", eps=0.1)
    x = torch.randn(4, 3, 2, 2)
    module(x)
    module.eval()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
        assert repr(other) == repr(module)
        other.train()(x)
        assert not torch.equal(other.running_mean, module.running_mean)
    assert "slope=0.3, order=activation_first, save=output" in repr(module)


@pytest.mark.parametrize(("ours", "theirs", "shape"), PAIRS[:-1])
def test_wrong_dimensions(ours: Any, theirs: Any, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"BatchNormLeakyReLU\dd takes .*D input, got \[2, 5, 1"):
        ours(5)(torch.randn(2, 5, *[1] * (5 if len(shape) < 5 else 1)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_training_copies_nothing_to_the_host(momentum: float | None):
    module = SyncBatchNormLeakyReLU(3, momentum=momentum)
    with NoHost():
        module(torch.randn(4, 3, 2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiles_as_one_graph(momentum: float | None):
    torch.compiler.reset()
    modules = [BatchNormLeakyReLU2d(3, momentum=momentum) for _ in range(2)]
    compiled = torch.compile(modules[0], fullgraph=True, backend="aot_eager")
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.randn(4, 3, 5, 5)
        grads = []
        for run in (compiled, modules[1]):
            leaf = x.clone().requires_grad_(True)
            run(leaf).square().sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(modules[0].state_dict(), modules[1].state_dict())


def network() -> nn.Sequential:
    torch.manual_seed(3)
    inner = nn.Sequential(nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4, momentum=None), nn.ReLU())
    return nn.Sequential(
        nn.Conv3d(3, 4, 3),
        nn.BatchNorm3d(4, eps=0.01),
        nn.LeakyReLU(0.3, inplace=True),
        inner,
        nn.LeakyReLU(0.1),
        nn.BatchNorm3d(4, affine=False),
        nn.Conv3d(4, 2, 1),
        nn.BatchNorm3d(2),
        nn.Sigmoid(),
    )


def outputs(net: nn.Module, training: bool) -> Tensor:
    torch.manual_seed(4)
    return net.train(training)(torch.randn(4, 3, 5, 5, 5))


class TestConversion:
    """fuse and unfuse."""

    @pytest.mark.parametrize("save", ["input", "output"])
    def test_there_and_back(self, save: Any):
        plain, net = network(), network()
        before = dict(net.named_parameters())
        assert fuse(net, save=save) is net
        assert [type(m).__name__ for m in net] == [
            "Conv3d",
            "BatchNormLeakyReLU3d",
            "Identity",
            "Sequential",
            "Identity",
            "BatchNormLeakyReLU3d",
            "Conv3d",
            "BatchNorm3d",  # no LeakyReLU beside it
            "Sigmoid",
        ]
        one, relu, last = net[1], net[3].get_submodule("1"), net[5]
        assert (one.slope, one.order, one.eps, one.save) == (0.3, "norm_first", 0.01, save)
        assert (relu.slope, relu.momentum, relu.save) == (0.0, None, "input")
        assert (last.slope, last.order, last.affine) == (0.1, "activation_first", False)
        assert all(before[name] is p for name, p in net.named_parameters())
        for training in (True, False):
            torch.testing.assert_close(outputs(net, training), outputs(plain, training))
        torch.testing.assert_close(net.state_dict(), plain.state_dict())
        again = unfuse(net)
        assert repr(again) == repr(plain).replace(", inplace=True", "")
        assert all(before[name] is p for name, p in again.named_parameters())
        for training in (True, False):
            torch.testing.assert_close(outputs(again, training), outputs(plain, training))

    def test_the_mode_and_the_ranks_are_kept(self):
        group: Any = object()
        net = nn.Sequential(nn.SyncBatchNorm(4, process_group=group), nn.ReLU()).eval()
        assert isinstance(fuse(net)[0], SyncBatchNormLeakyReLU)
        assert net[0].process_group is group
        assert not net[0].training
        assert isinstance(unfuse(net)[0], nn.SyncBatchNorm)
        assert net[0].process_group is group

    def test_narrow_statistics_become_float32(self):
        net = fuse(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()).bfloat16())
        assert net[0].weight.dtype == torch.bfloat16
        assert net[0].running_var.dtype == torch.float32

    def test_norm_first_wins(self):
        net = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3), nn.LeakyReLU(0.1))
        assert [type(m).__name__ for m in fuse(net)] == ["ReLU", "BatchNormLeakyReLU1d", "Identity"]

    def test_hooks_and_subclasses_are_left_alone(self):
        class Own(nn.BatchNorm1d):
            pass

        hooked = nn.BatchNorm1d(3)
        hooked.register_forward_hook(lambda *_: None)
        net = nn.Sequential(Own(3), nn.ReLU(), hooked, nn.Identity(), nn.BatchNorm1d(3), nn.PReLU())
        before = [type(m) for m in net]
        assert [type(m) for m in fuse(net)] == before

    def test_torchs_conversion_to_ranks_drops_no_activation(self):
        """It replaces every module of the class _BatchNorm by a norm alone."""
        net = fuse(nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU(0.2)))
        x = torch.randn(4, 3, 2, 2)
        wanted = net(x)
        assert torch.equal(nn.SyncBatchNorm.convert_sync_batchnorm(net)(x), wanted)
