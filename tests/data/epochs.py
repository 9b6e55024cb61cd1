"""Epochs read from folders and URLs, to be compared."""

import itertools
from pathlib import Path

import torch

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.loader import Batch, train_batches
from agehpc.data.mixture import read_shards
from agehpc.data.pool import Figures
from agehpc.data.shards import read_manifest


def settings(url: str | Path, **values: object) -> DataConfig:
    made = {"kind": "image", "shards": str(url), "frames": 1, "size": 8, "interleave": 2}
    return DataConfig.model_validate(made | values)


def config(url: str | Path, **values: object) -> DataConfig:
    data = settings(url, **values)
    return check(data, read_manifest(data))


def mixture(shards: tuple[str, ...], **values: object) -> DataConfig:
    data = settings("", **values | {"shards": shards})
    return check(data, read_shards(data))


def epoch(data: DataConfig, figures: Figures | None = None) -> list[Batch]:
    stream = train_batches(
        data,
        7,
        start=0,
        global_batch=4,
        micro_batch=4,
        accumulation=1,
        rank=0,
        world_size=1,
        figures=figures,
    )
    batches = list(itertools.islice(stream, 5))
    stream.close()
    return batches


def same(one: list[Batch], two: list[Batch]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels) for a, b in pairs
    )
