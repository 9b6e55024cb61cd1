"""Shards of damaged clips, and a process that reads them: `python -m tests.data.mutants`."""

import random
import signal
import sys
import zlib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from subprocess import PIPE, Popen

from agehpc.config.schema import DataConfig
from agehpc.data.check import check
from agehpc.data.damage import DamagedError
from agehpc.data.decode import Reader
from agehpc.data.journal import Journal
from agehpc.data.loader import samples_at
from agehpc.data.shards import MANIFEST, SPLITS, read_manifest
from agehpc.data.writer import ShardWriter
from tests.data.odd_inputs import with_edits, zeroed

DEADLINE = 30  # seconds a sample may take


def mutated(media: bytes, number: int, frames: int, rate: Fraction) -> bytes:
    """Damage a clip: `number` chooses how and where."""
    generator, data = random.Random(number), bytearray(media)
    match number % 9:
        case 0:  # anywhere
            for _ in range(generator.randint(1, 30)):
                data[generator.randrange(len(data))] ^= generator.randrange(1, 256)
        case 1:  # in the headers, where offsets and counts are
            for _ in range(generator.randint(1, 6)):
                data[generator.randrange(min(1200, len(data)))] ^= generator.randrange(1, 256)
        case 2:
            del data[generator.randrange(len(data)) :]
        case 3:  # the number of frames: decord reserves memory for it
            for table in (b"stts", b"stsz"):
                at = data.index(table) + 12
                data[at : at + 4] = generator.randrange(2**31, 2**32).to_bytes(4, "big")
        case 4:  # chunks past the end: what crashes decord when it reads from memory
            at = data.index(b"stco") + 12
            data[at : at + 4] = generator.randrange(len(data), 2**31).to_bytes(4, "big")
        case 5:  # the size of a frame
            at = data.index(b"stsz") + 16 + 4 * generator.randrange(frames)
            data[at : at + 4] = generator.randrange(2**32).to_bytes(4, "big")
        case 6:  # how long a frame is shown
            at = data.index(b"stts") + 16
            data[at : at + 4] = generator.randrange(2**32).to_bytes(4, "big")
        case 7:  # fewer frames than there are: decord repeats the last ones, slowly
            data[:] = with_edits(media, (generator.randrange(1, frames), 0), rate=rate)
        case _:
            data[:] = zeroed(media)
    assert data != media
    return bytes(data)


def write_mutants(source: Path, folder: Path, count: int, *, checksums: bool) -> None:
    """Make shards of `count` mutants of a folder's clips.

    With `checksums` they are those of the damaged bytes: only decoding can tell.
    """
    manifest = read_manifest(source)
    reader = Reader(source, manifest, "train")
    clips = manifest.splits["train"][0].samples
    folder.mkdir()
    journal = Journal(folder, "mutants")
    writer = ShardWriter(folder, "train", count, journal)
    for number in range(count):
        clip = number // 9 % clips
        media, frames = reader.read(0, clip), reader.sample(0, clip).frames
        damaged = mutated(media, number, frames, Fraction(manifest.fps or 25))
        crc32 = zlib.crc32(damaged if checksums else media)
        writer.write({"mp4": damaged}, {"frames": frames, "label": -1, "crc32": crc32})
    splits = dict.fromkeys(SPLITS, writer.close())
    journal.close()
    made = manifest.model_copy(update={"splits": splits, "classes": ()})
    (folder / MANIFEST).write_text(made.model_dump_json())


def read_mutants(folder: Path, count: int, decoder: str) -> Counter[str]:
    """Read every sample in a child process, a new one where it died; count what became of them."""
    seen: list[str] = []
    while len(seen) < count:
        words = [sys.executable, "-m", "tests.data.mutants"]
        words += [str(folder), str(len(seen)), str(count), decoder]
        with Popen(words, stdout=PIPE, text=True) as child:
            assert child.stdout is not None
            seen += [line.strip() for line in child.stdout]
        if child.returncode < 0:
            seen.append(signal.Signals(-child.returncode).name)
        else:
            assert child.returncode == 0
    return Counter(seen)


def main() -> None:
    """Read samples and print a word for each: the kind of its damage, or `decoded`."""
    folder, first, last, decoder = sys.argv[1:]
    plain = DataConfig(kind="video", shards=folder, frames=16, short_clips="loop")
    data = check(plain.model_copy(update={"decoder": decoder}), read_manifest(folder))
    for number in range(int(first), int(last)):
        signal.alarm(DEADLINE)  # its default action needs no Python: a deadlock ends too
        try:
            batch = samples_at(data, split="train", positions=[number])
        except DamagedError as error:
            print(error.kind, flush=True)
        else:
            assert batch.pixels.shape == (1, 3, 16, 64, 64)
            print("decoded", flush=True)


if __name__ == "__main__":
    main()
