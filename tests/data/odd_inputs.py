"""Odd videos, made by PyAV's encoders from frames whose number and orientation can be seen."""

import io
import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace
from PIL import Image

from tests.data.samples import rotate

RATE = 25
BEST = {"qmin": "1", "qmax": "2"}
X264 = {"crf": "8", "g": "10"}
Frames = list[np.ndarray]


def scene(frames: int, height: int = 48, width: int = 64) -> Frames:
    """Frames HWC: red rises to the right, blue falls downwards, green counts the frames in 5s."""
    made = []
    for t in range(frames):
        rgb_HWC = np.empty((height, width, 3), np.uint8)
        rgb_HWC[..., 0] = np.linspace(40, 210, width)
        rgb_HWC[..., 1] = 30 + 5 * (t % 40)
        rgb_HWC[..., 2] = np.linspace(210, 40, height)[:, None]
        made.append(rgb_HWC)
    return made


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    first: int = 0,
    times: Sequence[int] | None = None,
    options: dict[str, str] = X264,
    muxer: dict[str, str] | None = None,
    sample_aspect: Fraction | None = None,
    colours: Colorspace | None = None,
    sound: bool = False,
) -> bytes:
    """Encode frames HWC at `times` (in 1/RATE s; default `first`, +1, +2, ...)."""
    with av.open(str(path), "w", options=muxer or {}) as out:
        beep = out.add_stream("aac", rate=8000, layout="mono") if sound else None
        stream: Any = out.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = pixels, options
        stream.codec_context.time_base = Fraction(1, RATE)
        stream.codec_context.thread_count = 1
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if colours is not None:
            stream.codec_context.colorspace = colours
        if beep is not None:
            _silence(out, beep)
        for number, rgb_HWC in enumerate(frames):
            frame = _converted(rgb_HWC, pixels, colours)
            frame.pts = first + number if times is None else times[number]
            frame.time_base = Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


def _converted(rgb_HWC: np.ndarray, pixels: str, colours: Colorspace | None) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
    if pixels == "gray":  # H.264 means 16 to 235, swscale 0 to 255: the luma of a colour frame
        luma_HW = frame.to_ndarray(format="yuv420p")[: frame.height]
        return av.VideoFrame.from_ndarray(luma_HW, format="gray")
    return frame.reformat(format=pixels, dst_colorspace=colours)


def _silence(out: Any, stream: Any) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
    frame.sample_rate = 8000
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def sound_only(path: Path) -> bytes:
    with av.open(str(path), "w") as out:
        _silence(out, out.add_stream("aac", rate=8000, layout="mono"))
    return path.read_bytes()


def turned(path: Path, frames: Frames, quarter_turns: int) -> bytes:
    write(path, frames)
    rotate(path, quarter_turns)
    return path.read_bytes()


def edited(path: Path, frames: Frames, *edits: tuple[int, int]) -> bytes:
    """An mp4 with an edit list: (frames shown, first of them), a first of -1 is a pause."""
    data = write(path, frames, options={"bf": "0"}, muxer={"use_editlist": "0"})
    return with_edits(data, *edits)


def with_edits(media: bytes, *edits: tuple[int, int], rate: Fraction = Fraction(RATE)) -> bytes:
    """Put an edit list into an mp4 of one track that has none."""
    data = bytearray(media)
    movie, track = _timescale(data, b"mvhd"), _timescale(data, b"mdhd")
    body = struct.pack(">II", 0, len(edits))
    for shown, first in edits:
        start = -1 if first < 0 else int(first * track / rate)
        body += struct.pack(">IiI", int(shown * movie / rate), start, 1 << 16)
    box = _box(b"edts", _box(b"elst", body))
    if data.index(b"moov") < data.index(b"mdat"):  # the chunks move
        table = data.index(b"stco") + 8
        for at in range(table + 4, table + 4 + 4 * _number(data, table), 4):
            data[at : at + 4] = (_number(data, at) + len(box)).to_bytes(4, "big")
    header = data.index(b"tkhd") - 4
    at = header + _number(data, header)
    data[at:at] = box
    for name in (b"trak", b"moov"):
        at = data.index(name) - 4
        data[at : at + 4] = (_number(data, at) + len(box)).to_bytes(4, "big")
    return bytes(data)


def _number(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _timescale(data: bytearray, name: bytes) -> int:
    return _number(data, data.index(name) + 16)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def with_cover(path: Path, frames: Frames) -> bytes:
    """An mp4 whose first video stream is a picture."""
    plain, picture = write(path, frames), io.BytesIO()
    Image.new("RGB", (256, 256), "red").save(picture, "PNG")
    picture.seek(0)
    with (
        av.open(str(path), "w") as out,
        av.open(picture, "r") as cover,
        av.open(io.BytesIO(plain), "r") as video,
    ):
        streams = [out.add_stream_from_template(c.streams.video[0]) for c in (cover, video)]
        streams[0].disposition = Disposition.attached_pic
        for source, stream in zip((cover, video), streams, strict=True):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    return path.read_bytes()


def lying_avi(path: Path, frames: Frames) -> bytes:
    """An AVI whose headers claim 444 frames."""
    data = bytearray(write(path, frames, "mpeg4", options=BEST))
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        at = data.index(name) + offset
        assert int.from_bytes(data[at : at + 4], "little") == len(frames)
        data[at : at + 4] = (444).to_bytes(4, "little")
    return bytes(data)


def flipped(data: bytes, bits: int, start: bytes | int) -> bytes:
    """Flip bits, evenly over what follows the bytes `start`."""
    damaged, generator = bytearray(data), random.Random(0)
    low = start if isinstance(start, int) else data.index(start) + 8
    for _ in range(bits):
        damaged[generator.randrange(low, len(data))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def zeroed(data: bytes) -> bytes:
    """Zero the fifth of the bytes that begins at 40 %."""
    start, length = len(data) * 2 // 5, len(data) // 5
    return data[:start] + bytes(length) + data[start + length :]


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def resized(path: Path) -> bytes:
    """A transport stream whose pictures are larger from frame 20 on."""
    small = write(path, scene(20))
    return small + write(path, scene(40, 96, 96)[20:], first=20)
