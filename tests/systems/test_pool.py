"""The pool of past images: what it shows, whatever the ranks, and what it remembers over a stop."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from agehpc.cluster.collectives import gather
from agehpc.config.systems import CycleganSystem
from agehpc.data.keyed import philox
from agehpc.systems import build_system
from agehpc.systems.base import Collectives
from agehpc.systems.pool import Pool
from tests.systems.scenes import config

BATCH = 4


def draws(pool: Pool, step: int, chosen: slice = slice(None)) -> Tensor:
    """As the trainer keys them: by a sample's global position."""
    positions = range(step * BATCH, (step + 1) * BATCH)[chosen]
    return pool.draw([philox(3, "pool a", position) for position in positions])


def images(step: int) -> Tensor:
    """Images [B, 1, 2, 2] that are full of their own number."""
    numbers = torch.arange(step * BATCH, (step + 1) * BATCH, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def shown(pool: Pool, steps: range, chosen: slice = slice(None)) -> list[list[float]]:
    """Numbers of the images that come back in each step."""
    found = []
    for step in steps:
        out = pool.exchange(images(step)[chosen], draws(pool, step, chosen))
        assert (out == out[:, :, :1, :1]).all()  # whole images
        found.append(out[:, 0, 0, 0].tolist())
    return found


def remembered(pool: Pool) -> list[float]:
    return dict(pool.state())["images"][:, 0, 0, 0].tolist()


def by_hand(size: int, steps: int) -> list[list[float]]:
    """ImagePool of Zhu et al. 2017, on numbers: the uniform that decides is below a half."""
    memory: list[float] = []
    found = []
    for step in range(steps):
        row = []
        for position in range(step * BATCH, (step + 1) * BATCH):
            which, decides = philox(3, "pool a", position).random(2, dtype=np.float32)
            if len(memory) < size:
                memory.append(float(position))
                row.append(float(position))
            elif decides < 0.5:
                index = int(which * size)
                row.append(memory[index])
                memory[index] = float(position)
            else:
                row.append(float(position))
        found.append(row)
    return found


@pytest.mark.parametrize("size", [1, 5, 50])
def test_it_is_the_pool_of_the_paper(size: int):
    assert shown(Pool(size, Collectives.alone()), range(30)) == by_hand(size, 30)


def test_half_of_what_is_shown_is_old_once_it_is_full():
    pool = Pool(20, Collectives.alone())
    filling = shown(pool, range(5))
    assert filling == [[float(4 * s + i) for i in range(4)] for s in range(5)]  # new ones alone
    old, waits = 0, []
    seen: list[float] = []
    for step in range(5, 505):
        ((*row,),) = shown(pool, range(step, step + 1))
        new = range(step * BATCH, (step + 1) * BATCH)
        for position, number in zip(new, row, strict=True):
            old += number != position
            waits.append(position - number)
            seen.append(number)
    assert old / 2000 == pytest.approx(0.5, abs=0.05)
    assert len(set(seen)) == len(seen)  # what was exchanged has left: nothing is shown twice
    # An image stays for 20 exchanges on average, which are 40 samples.
    assert np.mean([wait for wait in waits if wait]) == pytest.approx(40, rel=0.2)
    assert not set(remembered(pool)) & set(seen)
    assert len(remembered(pool)) == 20


def test_nothing_is_kept_of_a_pool_of_none():
    pool = Pool(0, Collectives.alone())
    x = images(0).requires_grad_(True)
    out = pool.exchange(x, draws(pool, 0))
    assert torch.equal(out, x)
    assert not out.requires_grad
    assert not dict(pool.state())


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_stop_changes_nothing(stop: int, tmp_path: Path):
    """Before the first image, while it fills, and after."""
    straight = shown(Pool(10, Collectives.alone()), range(15))
    pool = Pool(10, Collectives.alone())
    before = shown(pool, range(stop))
    save_file(dict(pool.state()), tmp_path / "state.safetensors")
    again = Pool(10, Collectives.alone())
    again.load(load_file(tmp_path / "state.safetensors"))
    assert before + shown(again, range(stop, 15)) == straight


@pytest.mark.parametrize(
    "now", [torch.empty(0, dtype=torch.float64), torch.empty(0, device="meta")], ids=str
)
def test_it_goes_on_at_the_device_and_precision_of_the_new_start(now: Tensor, tmp_path: Path):
    """Checkpoints are read on the CPU, and the precision may change between starts."""
    pool = Pool(BATCH, Collectives.alone())
    shown(pool, range(2))
    save_file(dict(pool.state()), tmp_path / "state.safetensors")
    again = Pool(BATCH, Collectives.alone())
    again.load(load_file(tmp_path / "state.safetensors"))
    out = again.exchange(images(2).to(now), draws(again, 2).to(now.device))
    assert (out.dtype, out.device) == (now.dtype, now.device)
    assert dict(again.state())["images"].device == now.device


def test_the_state_is_a_copy():
    pool = Pool(4, Collectives.alone())
    shown(pool, range(3))
    state = dict(pool.state())
    kept = state["images"].clone()
    again = Pool(4, Collectives.alone())
    again.load(state)
    shown(pool, range(3, 9))
    shown(again, range(3, 9))
    assert torch.equal(state["images"], kept)


class Consumed(dict[str, Tensor]):
    """A state that notes which of its keys were read."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)


def test_the_system_loses_neither_pool():
    conf = config(CycleganSystem(pool=6), norm="instance")
    system, again = (build_system(conf, Collectives.alone()) for _ in range(2))
    assert system.state() == {}
    for side, shift in (("a", 0), ("b", 100)):
        for step in range(4):
            pool = system.pools[side]  # type: ignore[attr-defined]
            pool.exchange(images(step) + shift, draws(pool, step))
    state = system.state()
    assert state.keys() == {"a.images", "b.images"}
    consumed = Consumed(state)
    again.load_state(consumed)
    assert consumed.read == state.keys()
    assert not torch.equal(state["a.images"], state["b.images"])
    for name, tensor in again.state().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.world_size(2)
def test_ranks_share_one_pool(ranks):
    """1 x 4 and 2 x 2 samples, also across a stop of the one and a start of the other."""
    alone = Pool(6, Collectives.alone())
    wanted = shown(alone, range(20))
    joined = Collectives(lambda z: (z, z), gather, dist.get_rank)
    mine = slice(2 * ranks.env.rank, 2 * ranks.env.rank + 2)
    pool = Pool(6, joined)
    assert shown(pool, range(12), mine) == [row[mine] for row in wanted[:12]]
    first = Pool(6, Collectives.alone())
    shown(first, range(12))
    assert remembered(pool) == remembered(first)
    again = Pool(6, joined)
    again.load(dict(first.state()))
    assert shown(again, range(12, 20), mine) == [row[mine] for row in wanted[12:]]
    assert remembered(again) == remembered(alone)
