"""Twenty grey images of 8 x 8, each of one level, in shards of four: quick to read and to tell."""

import contextlib
import itertools
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.index import Member, read_index
from agehpc.data.loader import Batch, train_batches
from agehpc.data.shards import read_manifest

SEED = 7
Found = dict[int, tuple[bytes, int]]
"""Pixels and label by position."""


def levels_shards(folder: Path, *more: str) -> Path:
    """Pack them: 18 to train on in 5 shards, 2 held out; classes dark and light."""
    for level in range(0, 200, 10):
        images = folder / "images" / ("dark" if level < 100 else "light")
        images.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(images / f"{level}.png")
    flags = ["--size", "8", "--image-format", "png", "--samples-per-shard", "4"]
    assert main(["pack", str(folder / "images"), str(folder / "shards"), *flags, *more]) == 0
    return folder / "shards"


def damage(shards: Path, shard: int, index: int, member: Member | None = None) -> None:
    """Flip a bit of a training sample's media, or of another member of its shard."""
    path = shards / f"train-{shard:06d}.tar"
    member = read_index(shards, path.name).samples[index].media if member is None else member
    content = bytearray(path.read_bytes())
    content[member.offset + member.size // 2] ^= 1
    path.write_bytes(content)


def levels_config(shards: Path, **values: object) -> DataConfig:
    """Their configuration, checked."""
    made = {"kind": "image", "shards": str(shards), "size": 8, "frames": 1}
    return check(DataConfig.model_validate(made | values), read_manifest(shards))


def stream(
    data: DataConfig,
    total: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    seed: int = SEED,
    **told: Any,
) -> Generator[Batch, None, None]:
    """One rank's batches."""
    return train_batches(
        data,
        seed,
        start=start,
        global_batch=total,
        micro_batch=total // ranks,
        accumulation=1,
        rank=rank,
        world_size=ranks,
        **told,
    )


def contents(batches: Iterable[Batch]) -> Found:
    """What batches hold."""
    found: Found = {}
    for batch in batches:
        for i, position in enumerate(batch.positions.tolist()):
            assert position not in found
            found[position] = batch.pixels[i].numpy().tobytes(), int(batch.labels[i])
    return found


def read(
    data: DataConfig,
    total: int,
    batches: int,
    *,
    ranks: int = 1,
    only: int | None = None,
    **told: Any,
) -> Found:
    """What `batches` global batches of `total` samples hold, over all ranks or of one."""
    found: Found = {}
    for rank in range(ranks) if only is None else (only,):
        with contextlib.closing(stream(data, total, rank=rank, ranks=ranks, **told)) as opened:
            found |= contents(itertools.islice(opened, batches))
    return found
