"""What loader.py compares: each variant in a process of its own, told how much to do.

    python benchmarks/loader_variants.py VARIANT FOLDER

For every number on its input it does so many units and prints {"wall_s", "cpu_s"} as JSON; the
processor time is that of the process and of all it started.
T frames, H height, W width, C channels.
"""

import io
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.decode import Decoder, Reader, decode_image, decode_video
from agehpc.data.shards import read_manifest

FRAMES, BATCH, WORKERS = 16, 8, 2
Work = Callable[[int], None]
"""Does so many units."""


def sources(folder: Path) -> list[Path]:
    """Return the videos that were packed."""
    return sorted((folder / "sources").iterdir())


def clips(folder: Path) -> list[tuple[bytes, int]]:
    """Return the bytes and frames of every packed clip for training."""
    manifest = read_manifest(folder / "shards")
    reader = Reader(folder / "shards", manifest, "train")
    return [
        (reader.read(shard, index), reader.sample(shard, index).frames)
        for shard, about in enumerate(manifest.splits["train"])
        for index in range(about.samples)
    ]


def start(frames: int) -> int:
    """Draw where a clip begins."""
    return random.randrange(frames - FRAMES + 1)


def bare_source(folder: Path) -> Work:
    """Clips out of the source videos by decord, which scales them: what packing saves."""
    import decord

    size = read_manifest(folder / "shards").size
    paths = itertools.cycle(map(str, sources(folder)))

    def work(units: int) -> None:
        for path in itertools.islice(paths, units):
            reader = decord.VideoReader(path, num_threads=1, width=size, height=size)
            first = start(len(reader))
            reader.get_batch(range(first, first + FRAMES)).asnumpy()

    return work


def bare_decord(folder: Path) -> Work:
    """Packed clips out of memory by decord alone, from a path as it is safe."""
    import decord

    media = itertools.cycle(clips(folder))

    def work(units: int) -> None:
        for data, frames in itertools.islice(media, units):
            descriptor = os.memfd_create("clip")
            os.write(descriptor, data)
            reader = decord.VideoReader(f"/proc/self/fd/{descriptor}", num_threads=1)
            first = start(frames)
            reader.get_batch(range(first, first + FRAMES)).asnumpy()
            os.close(descriptor)

    return work


def bare_pyav(folder: Path) -> Work:
    """Packed clips out of memory by PyAV alone: seek, decode, convert."""
    import av

    media = itertools.cycle(clips(folder))

    def work(units: int) -> None:
        for data, frames in itertools.islice(media, units):
            first = start(frames)
            with av.open(io.BytesIO(data), "r") as container:
                stream = container.streams.video[0]
                assert stream.average_rate
                assert stream.time_base
                stream.codec_context.thread_count = 1
                wanted = int(first / stream.average_rate / stream.time_base)
                container.seek(wanted, stream=stream)
                late = (f for f in container.decode(stream) if (f.pts or 0) >= wanted)
                x_THWC = [f.to_ndarray(format="rgb24") for f in itertools.islice(late, FRAMES)]
            assert len(np.stack(x_THWC)) == FRAMES

    return work


def decoded(decoder: Decoder) -> Callable[[Path], Work]:
    """Packed clips out of memory by the loader's own decoding."""

    def make(folder: Path) -> Work:
        media = itertools.cycle(clips(folder))
        size = read_manifest(folder / "shards").size

        def work(units: int) -> None:
            for data, frames in itertools.islice(media, units):
                indices = start(frames) + np.arange(FRAMES)
                decode_video(data, indices, frames, "a clip", size, decoder)

        return work

    return make


def loader(decoder: Decoder, workers: int) -> Callable[[Path], Work]:
    """The project's loader: read, checked, decoded, flipped, batched."""

    def make(folder: Path) -> Work:
        from agehpc.data.loader import train_batches

        manifest = read_manifest(folder / "shards")
        data = DataConfig(
            kind="video",
            shards=str(folder / "shards"),
            size=manifest.size,
            frames=FRAMES,
            workers=workers,
            decoder=decoder,
        )
        batches = train_batches(
            check(data, manifest),
            0,
            start=0,
            global_batch=BATCH,
            micro_batch=BATCH,
            accumulation=1,
            rank=0,
            world_size=1,
        )
        return of_batches(batches)

    return make


def stock(threads: int) -> Callable[[Path], Work]:
    """Plain webdataset and decord in a torch DataLoader, as their own examples have it."""

    def make(folder: Path) -> Work:
        from torch.utils.data import DataLoader
        from webdataset.compat import WebDataset

        urls = [str(path) for path in sorted((folder / "shards").glob("train-*.tar"))]
        # Resampled, their way to train without end: repeated, each pass of a worker over its few
        # shards would end in a batch that is not full.
        dataset: Any = WebDataset(urls, resampled=True, shardshuffle=False).shuffle(100)
        dataset = dataset.map(_Stock(threads)).batched(BATCH, partial=False)
        return of_batches(DataLoader(dataset, batch_size=None, num_workers=WORKERS))

    return make


class _Stock:
    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, sample: dict[str, Any]) -> Any:
        import decord
        import torch

        reader = decord.VideoReader(io.BytesIO(sample["mp4"]), num_threads=self.threads)
        first = start(len(reader))
        x_THWC = reader.get_batch(range(first, first + FRAMES)).asnumpy()
        return (torch.from_numpy(x_THWC).permute(3, 0, 1, 2).contiguous(),)


def of_batches(batches: Any) -> Work:
    """Units are clips, taken a batch at a time."""
    iterator: Iterator[Any] = iter(batches)

    def work(units: int) -> None:
        for _ in range(-(-units // BATCH)):
            batch = next(iterator)
            assert len(batch[0] if isinstance(batch, list) else batch.pixels) == BATCH

    return work


def ffmpeg(packed: bool) -> Callable[[Path], Work]:
    """FFmpeg decoding whole files on one thread, in clips of FRAMES: nothing can be faster."""

    def make(folder: Path) -> Work:
        paths = sources(folder)
        if packed:
            paths = [folder / f"{number}.mp4" for number, _ in enumerate(clips(folder))]
            for path, (data, _) in zip(paths, clips(folder), strict=True):
                path.write_bytes(data)

        def work(units: int) -> None:
            # As often as a concatenation is opened, so many times a process is started: list all.
            listing = folder / f"list-{packed}.txt"
            listing.write_text("".join(f"file '{path}'\n" for path in paths * units))
            words = ["ffmpeg", "-v", "fatal", "-threads", "1", "-f", "concat", "-safe", "0"]
            words += ["-i", str(listing), "-an", "-frames:v", str(units * FRAMES)]
            subprocess.run([*words, "-fps_mode", "passthrough", "-f", "null", "-"], check=True)

        return work

    return make


def tar_reader(folder: Path) -> Work:
    """Samples' bytes out of the tars by the index, checked."""
    manifest = read_manifest(folder / "shards")
    reader = Reader(folder / "shards", manifest, "train")
    places = itertools.cycle(
        [(s, i) for s, shard in enumerate(manifest.splits["train"]) for i in range(shard.samples)]
    )

    def work(units: int) -> None:
        for place in itertools.islice(places, units):
            reader.read(*place)

    return work


def tar_webdataset(folder: Path) -> Work:
    """Samples' bytes out of the tars by webdataset."""
    from webdataset.compat import WebDataset

    urls = [str(path) for path in sorted((folder / "shards").glob("train-*.tar"))]
    samples = iter(WebDataset(urls, shardshuffle=False).repeat())

    def work(units: int) -> None:
        for _ in itertools.islice(samples, units):
            pass

    return work


def pictures(folder: Path) -> list[bytes]:
    """Return first frames of packed clips as JPEG."""
    from PIL import Image

    found = []
    for data, frames in clips(folder):
        out = io.BytesIO()
        Image.fromarray(decode_video(data, np.arange(1), frames, "a clip")[0]).save(
            out, "JPEG", quality=95, subsampling=0
        )
        found.append(out.getvalue())
    return found


def jpeg(folder: Path) -> Work:
    """Pictures by the loader's own decoding."""
    media = itertools.cycle(pictures(folder))

    def work(units: int) -> None:
        for data in itertools.islice(media, units):
            decode_image(data, "a picture")

    return work


def jpeg_pillow(folder: Path) -> Work:
    """Pictures by Pillow."""
    from PIL import Image

    media = itertools.cycle(pictures(folder))

    def work(units: int) -> None:
        for data in itertools.islice(media, units):
            with Image.open(io.BytesIO(data)) as image:
                np.asarray(image)

    return work


VARIANTS: dict[str, Callable[[Path], Work]] = {
    "source: bare decord": bare_source,
    "source: ffmpeg": ffmpeg(packed=False),
    "packed: ffmpeg": ffmpeg(packed=True),
    "packed: bare decord": bare_decord,
    "packed: bare PyAV": bare_pyav,
    "packed: decode_video by decord": decoded("decord"),
    "packed: decode_video by pyav": decoded("pyav"),
    "packed: loader by decord": loader("decord", 0),
    "packed: loader by pyav": loader("pyav", 0),
    "2 workers: loader by decord": loader("decord", WORKERS),
    "2 workers: loader by pyav": loader("pyav", WORKERS),
    "2 workers: webdataset + decord": stock(0),
    "2 workers: webdataset + decord, 1 thread each": stock(1),
    "tar: reader": tar_reader,
    "tar: webdataset": tar_webdataset,
    "jpeg: decode_image": jpeg,
    "jpeg: Pillow": jpeg_pillow,
}


def cpu_seconds() -> float:
    """Processor time of this process, of its ended and of its living children."""
    times = os.times()
    total = sum(times[:4])
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_kib() -> int:
    """Return this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("Linux tells VmRSS")


def main() -> None:
    """Obey loader.py."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    random.seed(0)
    work = VARIANTS[name](folder)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        work(int(line))
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
        print(json.dumps(seconds | {"rss_kib": resident_kib()}), flush=True)


if __name__ == "__main__":
    main()
