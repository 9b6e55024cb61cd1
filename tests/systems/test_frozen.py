"""Who stands still in a turn: no gradient, no statistics, no vectors of spectral normalisation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from agehpc.config.systems import (
    AgeMomentsSystem,
    AgeSystem,
    CycleganSystem,
    GanSystem,
    Pix2pixSystem,
    WganSystem,
)
from tests.systems.scenes import Scene, config

RICH: dict[str, Any] = {"reconstruction_fake_weight": 1.0, "feature_weight": 1.0, "r1_gamma": 1.0}
SYSTEMS: dict[str, Any] = {
    "gan": GanSystem(r1_gamma=1.0),
    "gan finite": GanSystem(r1_gamma=1.0, r1_form="finite_difference"),
    "wgan": WganSystem(n_critic=2),
    "pix2pix": Pix2pixSystem(),
    "cyclegan": CycleganSystem(),
    "age": AgeSystem(**RICH),
    "age vae": AgeSystem(**RICH, encoder="vae"),
    "age joint": AgeSystem(**RICH, joint=True),
    "moments": AgeMomentsSystem(generator_reconstruction_weight=1.0, encoder_cycle_weight=1.0),
}


def buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in module.named_buffers()}


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_others_stand_still(system: Any):
    scene = Scene(config(system, spectral=True))
    for turn in scene.system.turns:
        before = {name: buffers(player) for name, player in scene.players.items()}
        (taken, *_) = scene.run(turns=(replace(turn, repeats=1),))
        assert taken.player == turn.player
        assert all(slope is not None for slope in taken.gradients.values())
        for name, player in scene.players.items():
            assert before[name], name  # there is something that could move
            moved = [n for n, b in buffers(player).items() if not torch.equal(b, before[name][n])]
            if name == turn.player:
                assert moved, name
                continue
            assert not moved, (turn.player, name, moved)
            for parameter in player.parameters():
                assert parameter.grad is None
                assert parameter.requires_grad  # again, for its own turn


@pytest.mark.parametrize("name", [n for n, s in SYSTEMS.items() if s.batches == 1])
def test_a_shared_forward_counts_once(name: str):
    """A step moves the makers' statistics as often as its own turn would."""
    counts = []
    for shared in (False, True):
        scene = Scene(config(SYSTEMS[name], spectral=True))
        scene.run(shared_forward=shared)
        counts.append({p: buffers(player) for p, player in scene.players.items()})
    for player in counts[0]:
        for buffer, value in counts[0][player].items():
            torch.testing.assert_close(counts[1][player][buffer], value, rtol=1e-9, atol=1e-9)
    tracked = [b for p in counts[0].values() for n, b in p.items() if n.endswith("batches_tracked")]
    assert tracked
