import itertools
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.commands import main
from agehpc.data.index import read_index
from agehpc.data.loader import Batch, train_batches, validation_batches
from agehpc.data.order import Order
from agehpc.data.shards import read_manifest
from agehpc.errors import DataError
from tests.data.samples import decode_pyav


def config(folder: Path, **values: object) -> DataConfig:
    made = {"kind": "video", "shards": str(folder), "frames": 8, "strides": (1, 2)}
    data = DataConfig.model_validate(made | {"short_clips": "loop", "shift": 2} | values)
    return check(data, read_manifest(folder))


def batches(
    data: DataConfig,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    total: int = 12,
    start: int = 5,
) -> Iterator[Batch]:
    return train_batches(
        data,
        7,
        start=start,
        global_batch=total,
        micro_batch=total // world // accumulation,
        accumulation=accumulation,
        rank=rank,
        world_size=world,
    )


def steps(data: DataConfig, count: int, **grouping: int) -> dict[int, tuple[bytes, int]]:
    """Pixels and label by global position, over `count` optimizer steps of all ranks."""
    found: dict[int, tuple[bytes, int]] = {}
    for rank in range(grouping.get("world", 1)):
        stream = batches(data, rank, **grouping)
        for batch in itertools.islice(stream, count * grouping.get("accumulation", 1)):
            for i, position in enumerate(batch.positions.tolist()):
                assert position not in found
                found[position] = batch.pixels[i].numpy().tobytes(), int(batch.labels[i])
        stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    return found


def test_batches_do_not_depend_on_who_reads_them(demo_shards: Path):
    """World size, accumulation and workers share the same samples out differently."""
    data = config(demo_shards, colour=0.2)
    alone = steps(data, 2)
    assert sorted(alone) == list(range(5, 29))
    assert steps(data, 2, world=2) == alone
    assert steps(data, 2, world=3, accumulation=2) == alone
    assert steps(data, 2, accumulation=4) == alone
    for workers in (1, 2):
        assert steps(data.model_copy(update={"workers": workers}), 2) == alone


def test_micro_batches_take_the_documented_positions(demo_shards: Path):
    """Micro-batch k of rank r takes c + k M W + r M + [0, M)."""
    data = config(demo_shards)
    micro, world, accumulation = 2, 3, 2
    for rank in range(world):
        stream = batches(data, rank, world, accumulation, micro * world * accumulation, start=100)
        for step, k in itertools.product(range(2), range(accumulation)):
            first = 100 + step * 12 + k * micro * world + rank * micro
            assert next(stream).positions.tolist() == [first, first + 1]


def test_starting_later_continues_the_same_sequence(demo_shards: Path):
    data = config(demo_shards)
    through = steps(data, 3)
    resumed = steps(data, 2, start=17)
    assert resumed == {p: v for p, v in through.items() if p >= 17}


def test_pixels_are_a_clip_of_the_right_source(demo_shards: Path):
    """Against tarfile and PyAV: each clip is a strided run of its source, maybe mirrored."""
    manifest = read_manifest(demo_shards)
    data = config(demo_shards, shift=0)
    index = read_index(demo_shards, "train-000000.tar")
    order = Order(manifest.dataset_id, 7, (8,), data.interleave)
    with tarfile.open(demo_shards / "train-000000.tar") as tar:
        sources = [decode_pyav(tar.extractfile(s.media.name).read()) for s in index.samples]  # pyright: ignore
    stream = batches(data)
    seen = set()
    for batch in itertools.islice(stream, 4):
        assert batch.pixels.shape == (12, 3, 8, 64, 64)
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.is_contiguous()
        for pixels, position in zip(batch.pixels.numpy(), batch.positions.tolist(), strict=True):
            source = sources[order.place(position).index]
            clip = pixels.transpose(1, 2, 3, 0)
            matches = [
                (start, stride, step)
                for stride in (1, 2)
                for start in range(len(source) - 7 * stride)
                for step in (1, -1)
                if np.array_equal(clip, source[start : start + 7 * stride + 1 : stride, :, ::step])
            ]
            assert matches
            seen.add(matches[0][1:])
    assert seen == {(1, 1), (1, -1), (2, 1), (2, -1)}


def test_validation_is_plain_and_complete(demo_shards: Path):
    data = config(demo_shards, colour=0.3)
    index = read_index(demo_shards, "validation-000000.tar")
    found = list(validation_batches(data, batch=3, limit=None))
    assert [len(batch.labels) for batch in found] == [3, 3, 2]
    assert torch.cat([batch.positions for batch in found]).tolist() == list(range(8))
    with tarfile.open(demo_shards / "validation-000000.tar") as tar:
        source = decode_pyav(tar.extractfile(index.samples[0].media.name).read())  # pyright: ignore
    centre = (len(source) - 8) // 2
    expected = source[centre : centre + 8].transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(found[0].pixels[0].numpy(), expected)
    first = list(validation_batches(data, batch=8, limit=5))
    assert torch.equal(first[0].pixels[:3], found[0].pixels)
    assert len(first[0].labels) == 5
    assert next(
        validation_batches(data, split="train", batch=2, limit=None)
    ).positions.tolist() == [0, 1]


def test_grey_on_request(demo_shards: Path):
    batch = next(validation_batches(config(demo_shards, channels=1), batch=2, limit=2))
    assert batch.pixels.shape == (2, 1, 8, 64, 64)


@pytest.fixture
def image_shards(tmp_path: Path) -> Path:
    """Twenty grey 8 x 8 images, each of one level; classes dark and light."""
    for level in range(0, 200, 10):
        folder = tmp_path / "images" / ("dark" if level < 100 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(folder / f"{level}.png")
    flags = ["--size", "8", "--image-format", "png", "--samples-per-shard", "4"]
    assert main(["pack", str(tmp_path / "images"), str(tmp_path / "shards"), *flags]) == 0
    return tmp_path / "shards"


def test_images_and_labels(image_shards: Path):
    data = config(image_shards, kind="image", size=8, frames=1, strides=(1,), shift=0)
    assert data.channels == 1
    # 20 sources, 2 held out: an epoch of 18.
    batch = next(batches(data, total=18, start=0))
    assert batch.pixels.shape == (18, 1, 8, 8)
    levels = batch.pixels[:, 0, 0, 0].tolist()
    assert len(set(levels)) == 18
    assert [level >= 100 for level in levels] == [bool(label) for label in batch.labels]
    held_out = next(validation_batches(data, batch=9, limit=None))
    assert set(levels) | set(held_out.pixels[:, 0, 0, 0].tolist()) == set(range(0, 200, 10))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_is_one_clear_error(image_shards: Path, tmp_path: Path, workers: int):
    broken = Path(shutil.copytree(image_shards, tmp_path / "broken"))
    path = broken / "train-000001.tar"
    member = read_index(broken, path.name).samples[2].media
    data = bytearray(path.read_bytes())
    data[member.offset + 30] ^= 1
    path.write_bytes(data)
    made = config(broken, kind="image", size=8, frames=1, strides=(1,), shift=0, workers=workers)
    stream = batches(made, total=6, start=0)
    with pytest.raises(DataError) as caught:
        list(itertools.islice(stream, 3))
    assert str(caught.value).startswith(f"{path}: sample train-000001-000002 is damaged")
    assert "Traceback" not in str(caught.value)


def test_workers_outlive_the_signals_of_a_job(demo_shards: Path):
    """Ctrl-C and scancel reach every process; the workers go on, and end with the iterator."""
    others = set(active_children())
    stream = batches(config(demo_shards, workers=1))
    next(stream)
    (worker,) = set(active_children()) - others
    assert worker.pid is not None
    sender = f"import os; [os.kill({worker.pid}, s) for s in (2, 15, 10, 12)]"
    assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", sender) == 0
    for _ in range(10):  # more than was prefetched
        next(stream)
    assert worker.is_alive()
    worker.terminate()  # what its own parent sends is obeyed
    worker.join(20)
    assert worker.exitcode == 0


def test_closing_ends_the_workers(demo_shards: Path):
    others = set(active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    stream = batches(config(demo_shards, workers=2))
    next(stream)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert len(set(active_children()) - others) == 2
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert set(active_children()) <= others


def test_the_global_generator_is_left_alone(demo_shards: Path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(batches(config(demo_shards)))
    assert torch.equal(torch.rand(3), expected)
