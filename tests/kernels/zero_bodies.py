"""What the ranks of test_fused_zero.py run: training under ZeRO-3 with parameters really freed."""

from typing import Any
from unittest import mock

import torch
from torch import nn

from agehpc.cluster.groups import Ranks
from agehpc.config.plan import Plan
from agehpc.config.schema import OptimConfig, PlayerConfig, ZeroConfig
from agehpc.train import engines
from agehpc_kernels import SyncBatchNormLeakyReLU, fuse

BATCH, STEPS = 8, 5
Numbers = dict[str, list[float]]


def network(kind: str) -> nn.Module:
    """Convolutions and norms of every order; `plain`, fused by what is kept, or over ranks."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 7, 3, bias=False),
        nn.BatchNorm2d(7),
        nn.LeakyReLU(0.2),
        nn.Conv2d(7, 5, 3),
        nn.LeakyReLU(0.2),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(45, 1),
    )
    if kind in ("input", "output"):
        fuse(net, save=kind)  # type: ignore[arg-type]
    elif kind == "sync":
        for i, order in ((1, "norm_first"), (5, "activation_first")):
            old: Any = net[i]
            net[i] = SyncBatchNormLeakyReLU(old.num_features, order=order)  # type: ignore[arg-type]
            net[2 if i == 1 else 4] = nn.Identity()
    return net


def batch(step: int) -> torch.Tensor:
    """The global batch of a step."""
    return torch.randn(BATCH, 3, 7, 7, generator=torch.Generator().manual_seed(step))


def trained(ranks: Ranks, kind: str) -> Numbers:
    """Weights and buffers after some steps at stage 3."""
    share = BATCH // ranks.env.world_size
    plan = Plan(
        world_size=ranks.env.world_size,
        micro_batch=share,
        accumulation=1,
        batches=1,
        samples_per_step=BATCH,
        global_batch=BATCH,
        samples=BATCH,
        steps=1,
        shared_forward=False,
    )
    player = PlayerConfig(optim=OptimConfig(lr=0.01), zero=ZeroConfig(stage=3))
    config = engines.deepspeed_config(player, plan, "fp32", parameters=1000)
    # Small parameters would otherwise stay gathered for good.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    with mock.patch.object(engines, "deepspeed_config", return_value=config):
        engine = engines.Engine("player", network(kind), player, plan, "fp32", ranks.device)
    for step in range(STEPS):
        mine = batch(step)[share * ranks.env.rank :][:share]
        engine.backward(engine.forward(mine).square().mean())  # type: ignore[attr-defined]
        assert all(p.numel() == 0 for p in engine.module.parameters())
        engine.step()
    found = engine.weights() | engine.buffers()
    return {name: t.detach().double().flatten().tolist() for name, t in found.items()}


def alone() -> Numbers:
    """The same on the whole batch in plain torch."""
    net = network("plain").train()
    optim = OptimConfig(lr=0.01)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        net(batch(step)).square().mean().backward()
        optimizer.step()
    return {n: t.detach().double().flatten().tolist() for n, t in net.state_dict().items()}


def kinds(ranks: Ranks, names: list[str]) -> dict[str, Numbers]:
    """Train each kind of network."""
    return {name: trained(ranks, name) for name in names}
