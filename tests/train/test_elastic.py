"""One training on changing numbers of ranks, ZeRO stages and micro-batches: the same training.

What is smooth alone is compared: rounding that crosses a kink makes any two runs differ.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from agehpc.train import intake
from tests.latent.runs import pack_images
from tests.train.runs import SMOOTH, newest, stages, state, tensors, train_in_forks
from tests.train.small import flags

IDS = "AGEHPC_TEST_IDS"
BATCH = 8
TOLERANCE = 1e-5
# A start's end alone ticks and saves.
PACE = [*("--train.save-every-kimg", "100"), *("--observe.tick-kimg", "100")]
OPTIM = [
    f"--players.{name}.optim.{key}={value}"
    for name in ("autoencoder", "critics")
    for key, value in (("eps", "1e-4"), ("lr", "1e-3"))
]


class Start(NamedTuple):
    """Some steps of a training."""

    ranks: int
    stages: tuple[int, int]
    micro: int
    until: int


# World size 1 -> 2 -> 4 -> 2 and ZeRO 0 -> 2 -> 3 -> 1. Micro-batch times ranks is 4, 4, 8 and 8,
# which a norm over single samples does not notice.
GROUP = [
    Start(1, (0, 0), 4, 3),
    Start(2, (2, 1), 2, 6),
    Start(4, (3, 2), 2, 9),
    Start(2, (1, 0), 4, 12),
]
SYNC = [start._replace(micro=BATCH // start.ranks) for start in GROUP]
SHORT = [Start(1, (0, 0), 4, 2), Start(2, (3, 2), 4, 4)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


def note_samples() -> None:
    """Write down what each step of this rank trains on: positions, and a sum of their pixels."""
    make = intake.to_micro
    path = Path(os.environ[IDS]) / f"{os.getpid()}.jsonl"

    def noted(batch: Any, *more: Any, step: int, **given: Any) -> Any:
        sums = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in batch.pixels]
        with path.open("a") as file:
            file.write(json.dumps([step, batch.positions.tolist(), sums]) + "\n")
        return make(batch, *more, step=step, **given)

    intake.to_micro = noted


def seen(folder: Path) -> dict[int, dict[int, str]]:
    """Position to pixels of the samples of every step, over all ranks; each once."""
    found: dict[int, dict[int, str]] = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            step, positions, sums = json.loads(line)
            for position, pixels in zip(positions, sums, strict=True):
                assert position not in found.setdefault(step, {})
                found[step][position] = pixels
    return dict(sorted(found.items()))


def train(
    shards: Path, folder: Path, starts: list[Start], norm: str, batch: int = BATCH
) -> list[str]:
    """Train in starts; what rank 0 said in each."""
    ids = folder / "ids"
    ids.mkdir(parents=True, exist_ok=True)
    # Moments of the latents are taken over a micro-batch of all ranks, as `sync_batch`'s are.
    moments = ["--system.moment-weight", "0"] if norm == "group" else []
    parts = ("encoder", "generator", "discriminator")
    norms = [f"--model.{part}.norm={norm}" for part in parts]
    told = []
    for number, (ranks, zero, micro, until) in enumerate(starts):
        more = [*("--train.global-batch", str(batch), "--train.kimg", str(until * batch / 1000))]
        more += ["--train.micro-batch", str(micro), *stages(*zero), *SMOOTH, *PACE, *OPTIM]
        ended = train_in_forks(
            flags(shards, folder / "run", 1, *norms, *moments, *more),
            folder / f"{number}.log",
            ranks,
            timeout=300,
            patch=note_samples,
            env={IDS: str(ids)},
        )
        assert [code for code, _, _ in ended] == [0] * ranks, ended
        told.append(ended[0][1])
    return told


def trained(run: Path) -> dict[str, Tensor]:
    return {name: t for name, t in tensors(newest(run)).items() if "batches_tracked" not in name}


def assert_the_same(shards: Path, tmp_path: Path, starts: list[Start], norm: str) -> None:
    steps = starts[-1].until
    constant = [Start(1, (0, 0), BATCH, steps)]
    train(shards, tmp_path / "constant", constant, norm)
    told = train(shards, tmp_path / "changing", starts, norm)
    for before, now, said in zip(starts, starts[1:], told[1:], strict=False):
        assert f"resumed from step-{before.until:08d}" in said
        assert f"{now.ranks} ranks after {before.ranks}" in said
        assert "global batch" not in said
    order = seen(tmp_path / "constant" / "ids")
    assert [sorted(step) for step in order.values()] == [
        list(range(i * BATCH, (i + 1) * BATCH)) for i in range(steps)
    ]
    assert seen(tmp_path / "changing" / "ids") == order
    wanted, found = (trained(tmp_path / name / "run") for name in ("constant", "changing"))
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=TOLERANCE, msg=name)
    ends = [state(newest(tmp_path / name / "run")) for name in ("constant", "changing")]
    assert ends[0] == ends[1]


def test_other_ranks_stages_and_accumulation(shards: Path, tmp_path: Path):
    assert_the_same(shards, tmp_path, SHORT, "group")


@pytest.mark.slow  # nine ranks at a time on few cores
@pytest.mark.parametrize("norm", ["group", "sync_batch"])
def test_a_long_chain(shards: Path, tmp_path: Path, norm: str):
    assert_the_same(shards, tmp_path, GROUP if norm == "group" else SYNC, norm)


def test_another_global_batch(shards: Path, tmp_path: Path):
    """No sample is lost or repeated; progress is counted in samples; the start says so."""
    train(shards, tmp_path, [Start(1, (0, 0), 8, 3)], "group")
    (told,) = train(shards, tmp_path, [Start(2, (2, 2), 6, 5)], "group", batch=12)
    assert "2 ranks after 1, global batch 12 after 8 (samples go on in their order, " in told
    assert [sorted(step) for step in seen(tmp_path / "ids").values()] == [
        *(list(range(first, first + 8)) for first in (0, 8, 16)),
        *(list(range(first, first + 12)) for first in (24, 36, 48)),
    ]
    found = state(newest(tmp_path / "run"))
    assert (found["step"], found["samples_seen"], found["global_batch"]) == (6, 60, 12)
