"""Shards of the real clips of agehpc[demo], for benchmarks that are given no data."""

import subprocess
import sys
from pathlib import Path

import av

from agehpc.data.pack_command import demo_clips
from agehpc.errors import EXIT_DONE, AgehpcError

CLIP_LEN = "64"  # every clip leaves more than the 31 frames that 16 at stride 2 need


def pack_demo(kind: str, size: int, folder: Path) -> Path:
    """Pack the clips, or for images their frames, unless that is done; return the directory.

    Raises:
        AgehpcError: the clips are not installed, or packing failed.
    """
    shards = folder / f"{kind}-{size}"
    if shards.exists():
        return shards
    words = ["demo", str(shards), "--size", str(size), "--clip-len", CLIP_LEN]
    if kind == "image":
        pictures = folder / f"frames-{size}"
        write_frames(pictures, size)
        words = ["pack", str(pictures), str(shards), "--kind", "image", "--size", str(size)]
        words += ["--labels", "none"]
    command = [sys.executable, "-m", "agehpc", "data", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != EXIT_DONE:
        raise AgehpcError(f"packing the demo clips failed:\n{done.stdout}{done.stderr}")
    return shards


def write_frames(folder: Path, size: int) -> None:
    """Write every frame of the clips as PNG, scaled to `size` pixels on its shorter side."""
    folder.mkdir()
    for clip in demo_clips():
        with av.open(str(clip)) as file:
            for number, frame in enumerate(file.decode(video=0)):
                scale = size / min(frame.width, frame.height)
                picture = frame.to_image(
                    width=round(frame.width * scale), height=round(frame.height * scale)
                )
                picture.save(folder / f"{clip.stem}-{number:04d}.png")
