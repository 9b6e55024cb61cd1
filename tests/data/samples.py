"""Sources that the tests make: small videos and images with known content."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def ramp(frames: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames HWC of one grey level each (10 + 8 t), with a white top left corner."""
    made = []
    for t in range(frames):
        rgb_HWC = np.full((height, width, 3), 10 + 8 * (t % 28), np.uint8)
        rgb_HWC[: height // 2, : width // 2] = 255
        made.append(rgb_HWC)
    return made


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times: Sequence[int] | None = None,
    rate: int = 25,
    codec: str = "libx264",
    sample_aspect: Fraction | None = None,
    container: str | None = None,
) -> Path:
    """Encode frames HWC at `times` (in ticks of 1/rate; default 0, 1, 2, ...)."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        if codec == "libx264":
            stream.options = {"crf": "5"}
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        for number, rgb_HWC in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def rotate(path: Path, quarter_turns: int) -> None:
    """Set the display matrix of an mp4: players turn it clockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    one = 1 << 16
    cos, sin = [(one, 0), (0, one), (-one, 0), (0, -one)][quarter_turns % 4]
    struct.pack_into(">9i", data, start, cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def decode_pyav(media: bytes | Path) -> np.ndarray:
    """Decode all frames by PyAV: THWC RGB."""
    source = io.BytesIO(media) if isinstance(media, bytes) else str(media)
    with av.open(source, "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
