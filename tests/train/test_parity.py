"""DeepSpeed is exact: two ranks under ZeRO against one process of plain torch.

The reference below knows neither engines nor turns nor ranks: autograd.grad of formulas written
anew (tests/systems/reference.py), torch's Adam, and running statistics put back by hand.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from agehpc.systems import build_system
from agehpc.systems.base import Collectives
from tests.ranks import run_ranks
from tests.systems.reference import autoencoder_objective, critics_objective
from tests.train.parity import BATCH, WORLD, Case, config_of, micro

TOLERANCE = 1e-5

EXACT = [
    Case(0, 0),
    Case(1, 1, r1=True),
    Case(2, 2, r1=True),
    Case(3, 2, r1=True),
    Case(2, 0, accumulation=2, r1=True),
    Case(3, 1, accumulation=2, r1=True),
    Case(1, 2, accumulation=2, norm="group"),
    Case(2, 2, clip=0.05, weight_decay=0.1, r1=True),
    Case(3, 0, clip=0.05, weight_decay=0.1, r1=True),
    Case(2, 2, r1=True, shared=False),
    Case(0, 0, accumulation=2, warmup=True),
    Case(2, 2, video=True, r1=True, steps=8),
    Case(3, 0, video=True, accumulation=2, norm="group", r1=True, steps=8),
]
# The networks as they are trained, for as few steps as rounding allows.
KINKED = [
    Case(2, 2, accumulation=2, r1=True, smooth=False, steps=3),
    Case(3, 1, r1=True, smooth=False, steps=3),
]
BROKEN = [
    Case(0, 0, r1=True, steps=4, broken="not frozen"),
    Case(2, 2, r1=True, shared=False, steps=4, broken="statistics not frozen"),
    Case(2, 2, accumulation=2, r1=True, steps=4, broken="not divided"),
    Case(2, 2, accumulation=2, r1=True, steps=4, broken="wrong order"),
    Case(2, 2, r1=True, steps=4, broken="local moments"),
]
BF16 = [
    Case(stage, min(stage, 2), r1=True, smooth=False, steps=6, precision="bf16")
    for stage in range(4)
]
EVERYTHING = [
    Case(autoencoder, critics, accumulation=accumulation, r1=r1, norm=norm)
    for autoencoder, critics, accumulation, r1, norm in itertools.product(
        range(4), range(3), (1, 2), (False, True), ("sync_batch", "group")
    )
] + [
    Case(2, 1, norm="group", r1=True, eps=1e-8),
    Case(0, 0, clip=0.05, weight_decay=0.1, r1=True),
    Case(3, 2, warmup=True),
]


def names(cases: list[Case]) -> dict[str, Any]:
    return {"argvalues": cases, "ids": [case.name for case in cases]}


def spawn(folder: Path, cases: list[Case], timeout: float) -> Path:
    run_ranks(
        WORLD,
        "tests.train.parity:train_all",
        str(folder),
        [asdict(case) for case in cases],
        timeout=timeout,
    )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spawn(tmp_path_factory.mktemp("parity"), EXACT + KINKED + BROKEN + BF16, 550)


@pytest.fixture(scope="module")
def trained_everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spawn(tmp_path_factory.mktemp("everything"), EVERYTHING, 1500)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_ranks(folder: Path, case: Case) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{case.name} rank {rank}.safetensors") for rank in range(WORLD)]


@functools.cache
def plain(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, statistics and moments after one process trained on the global batches.

    And the weights it started from.
    """
    config, s = config_of(case), config_of(case).system
    torch.manual_seed(0)
    players: dict[str, Any] = build_system(config, Collectives.alone()).build()
    start = {f"{p}.{n}": w.detach().clone() for p, n, w in weights(players)}
    optimizers = {name: optimizer(case, module) for name, module in players.items()}
    for step in range(case.steps):
        for name in ("critics", "autoencoder"):
            other = players["critics" if name == "autoencoder" else "autoencoder"]
            parameters = list(players[name].parameters())
            total = [torch.zeros_like(p) for p in parameters]
            for k in range(case.accumulation):
                share = BATCH // case.accumulation
                part = micro(case, step, slice(k * share, (k + 1) * share))
                statistics = {n: b.clone() for n, b in other.named_buffers()}
                if name == "critics":
                    loss = critics_objective(s, *players.values(), part)
                else:
                    loss = autoencoder_objective(s, (0.0, 1.0), *players.values(), part)
                for n, b in other.named_buffers():
                    b.copy_(statistics[n])
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
                total = [t + g / case.accumulation for t, g in zip(total, gradients, strict=True)]
            for p, gradient in zip(parameters, total, strict=True):
                p.grad = gradient
            if case.clip:
                nn.utils.clip_grad_norm_(parameters, case.clip)
            optimizers[name].step()
    end = {f"weight/{p}.{n}": w.detach() for p, n, w in weights(players)}
    for player, module in players.items():
        end |= {f"buffer/{player}.{n}": b for n, b in module.named_buffers()}
        for n, p in module.named_parameters():
            state = optimizers[player].state[p]
            for key in ("exp_avg", "exp_avg_sq"):
                end[f"moment/{player}.{n}.{key}"] = state[key]
    return start, end


def weights(players: dict[str, nn.Module]) -> list[tuple[str, str, Tensor]]:
    return [(player, n, p) for player, m in players.items() for n, p in m.named_parameters()]


def optimizer(case: Case, module: nn.Module) -> torch.optim.Optimizer:
    options: Any = {"lr": 1e-3, "betas": (0.5, 0.999), "eps": case.eps}
    if case.weight_decay:
        return torch.optim.AdamW(module.parameters(), weight_decay=case.weight_decay, **options)
    return torch.optim.Adam(module.parameters(), **options)


def differences(case: Case, found: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference to the reference among weights, statistics and moments.

    Absolute; for moments, which have the gradient's scale, by a tensor's largest if over 1.
    """
    _, end = plain(case.mathematics)
    assert found.keys() == end.keys()
    worst: dict[str, float] = {}
    for name, tensor in end.items():
        kind = name.split("/")[0]
        distance = (found[name] - tensor).abs().max().item()
        if kind == "moment":
            distance /= max(1.0, tensor.abs().max().item())
        worst[kind] = max(worst.get(kind, 0.0), distance)
    return worst


def movements(case: Case, found: dict[str, Tensor]) -> dict[str, float]:
    """Largest change of a weight, by player."""
    start, _ = plain(case.mathematics)
    moved: dict[str, float] = {}
    for name, tensor in start.items():
        player = name.split(".")[0]
        distance = (found[f"weight/{name}"] - tensor).abs().max().item()
        moved[player] = max(moved.get(player, 0.0), distance)
    return moved


def check(folder: Path, case: Case) -> None:
    for found in on_ranks(folder, case):
        found_off = differences(case, found)
        for what, off in found_off.items():
            # Moments are sums of gradients, of which rounding leaves a little more.
            assert off <= (3 if what == "moment" else 1) * TOLERANCE, found_off
        assert min(movements(case, found).values()) >= 100 * TOLERANCE


@pytest.mark.parametrize("case", **names(EXACT))
def test_two_ranks_train_as_one_process(trained: Path, case: Case):
    check(trained, case)


@pytest.mark.parametrize("case", **names(KINKED))
def test_networks_as_they_are(trained: Path, case: Case):
    check(trained, case)


@pytest.mark.parametrize("case", **names(BROKEN))
def test_a_broken_trainer_is_seen(trained: Path, case: Case):
    for found in on_ranks(trained, case):
        worst = differences(case, found)
        assert max(worst.values()) > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", **names(EVERYTHING))
def test_every_combination(trained_everything: Path, case: Case):
    check(trained_everything, case)


def test_shared_forward_changes_nothing(trained: Path):
    shared, separate = Case(2, 2, r1=True), Case(2, 2, r1=True, shared=False)
    assert shared in EXACT
    assert separate in EXACT
    for one, other in zip(on_ranks(trained, shared), on_ranks(trained, separate), strict=True):
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", **names(BF16))
def test_bf16_stays_close(trained: Path, case: Case):
    start, end = plain(case.mathematics)
    for found in on_ranks(trained, case):
        for player in ("autoencoder", "critics"):
            mine = [name for name in start if name.startswith(player)]
            moved = torch.cat([(end[f"weight/{n}"] - start[n]).flatten() for n in mine])
            off = torch.cat([(found[f"weight/{n}"] - end[f"weight/{n}"]).flatten() for n in mine])
            assert all(found[f"weight/{n}"].dtype == torch.float32 for n in mine)
            assert 1e-4 < off.norm() / moved.norm() < 0.5
