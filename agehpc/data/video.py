"""Decoding sources and encoding clips by PyAV.

H height, W width, C channels (RGB); pixels are uint8.
"""

import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

# IndexError: PyAV, where a stream appears that the header did not announce.
ERRORS = (FFmpegError, ValueError, IndexError)
# swscale's fast paths darken by one grey level at each conversion, and differ between CPUs.
EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)
LONGEST_GAP = 600  # seconds between two frames


class VideoError(Exception):
    """A video that cannot be decoded from its first to its last frame."""


@dataclass(frozen=True)
class Frame:
    """One upright frame; `aspect` is the width of a pixel over its height, `time` in seconds."""

    rgb_HWC: np.ndarray
    aspect: Fraction
    time: Fraction


@dataclass(frozen=True)
class Facts:
    """How a video is stored."""

    container: str
    width: int
    height: int
    aspect: Fraction
    """Width of a pixel over its height."""
    rotation: int
    """Degrees by which players turn it."""
    rate: Fraction
    constant: bool
    """Whether the frames are evenly spaced in time."""
    gop: int
    """Most frames between two keyframes."""


def facts(data: bytes) -> Facts:
    """Return how a video is stored; VideoError where that cannot be told."""
    rate, constant = _rate(data)
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = _stream(container)
            keys = [p.is_keyframe for p in container.demux(stream) if p.size]
            names = container.format.name.split(",")
            size = stream.width, stream.height
            aspect = stream.sample_aspect_ratio or Fraction(1)
    except (FFmpegError, ValueError) as error:
        raise VideoError(str(error)) from None
    first = next(_decoded(data))[0]
    starts = [i for i, key in enumerate(keys) if key] + [len(keys)]
    return Facts(
        container="mp4" if "mp4" in names else names[0],
        width=size[0],
        height=size[1],
        aspect=aspect,
        rotation=round(first.rotation),
        rate=rate,
        constant=constant,
        gop=max((b - a for a, b in itertools.pairwise(starts)), default=len(keys)),
    )


def decode(data: bytes, fps: Fraction | None) -> tuple[Fraction, Iterator[Frame]]:
    """Return the rate of a video and its upright frames at that rate.

    Without `fps` the source's own rate is kept. Frames are repeated or left out only to reach
    another rate, or to make a variable rate constant. VideoError here or while iterating.
    """
    rate, constant = _rate(data)
    frames = _frames(data, rate)
    if constant and fps in (None, rate):
        return rate, frames
    return fps or rate, _resample(frames, rate, fps or rate)


def encode(frames: list[np.ndarray], rate: Fraction, gop: int, crf: int) -> bytes:
    """Encode RGB frames HWC as an H.264 mp4 for random access: closed groups, no B-frames."""
    height, width = frames[0].shape[:2]
    # A memfd path: moving the index to the front makes the muxer open its output a second time.
    descriptor = os.memfd_create("clip", os.MFD_CLOEXEC)
    try:
        muxer = {"movflags": "+faststart", "use_editlist": "0", "fflags": "+bitexact"}
        name = f"/proc/self/fd/{descriptor}"
        with av.open(name, "w", format="mp4", options=muxer) as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = 1 / rate
            stream.options = {"preset": "medium", "crf": str(crf), "x264-params": _x264(gop)}
            reformatter = VideoReformatter()
            for number, rgb_HWC in enumerate(frames):
                rgb = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
                frame = reformatter.reformat(rgb, format="yuv420p", interpolation=EXACT, threads=1)
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()
    finally:
        os.close(descriptor)


def _x264(gop: int) -> str:
    # x264's lookahead reads memory that it never wrote where the width is not a multiple of 64
    # (seen with AVX-512): without it and the mb-tree that uses it the bytes are reproducible.
    return (
        f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:open-gop=0"
        ":mbtree=0:rc-lookahead=0:threads=1:lookahead-threads=1:sliced-threads=0"
    )


def plain_frames(data: bytes) -> Iterator[np.ndarray]:
    """Yield the frames in order as decoders for training convert them: fast, not EXACT. RGB HWC."""
    reformatter = VideoReformatter()
    for frame, _ in _decoded(data):
        yield reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def count_frames(data: bytes) -> int:
    """Decode a video and return how many frames come out; VideoError where it cannot be decoded."""
    return sum(1 for _ in _decoded(data))


def _rate(data: bytes) -> tuple[Fraction, bool]:
    """Return the mean rate, and whether all frames lie on its grid (to the rounding of stamps)."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = _stream(container)
            declared = stream.average_rate or stream.guessed_rate
            stamps, end, cut = [], Fraction(0), False
            for packet in container.demux():
                if packet.size:
                    end, cut = max(end, _end(packet)), packet.is_corrupt
                    stamps += [packet.pts] if packet.stream is stream else []
            _check_end(container, end, cut)
            base = stream.time_base
    except ERRORS as error:
        raise VideoError(_reason(error)) from None
    times = sorted({stamp * base for stamp in stamps if stamp is not None and base is not None})
    if len(times) < len(stamps) or len(times) < 2:
        if not declared:
            raise VideoError("it has neither time stamps nor a frame rate")
        return declared, True
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    if gap > LONGEST_GAP:  # a damaged stamp: at a rate asked for, a frame would repeat without end
        raise VideoError(f"{float(gap):.0f} seconds lie between two of its frames")
    step = (times[-1] - times[0]) / (len(times) - 1)
    constant = max(abs(t - times[0] - i * step) for i, t in enumerate(times)) < step / 2
    if declared and abs(declared * step - 1) < 1e-3:
        return declared, constant
    return (1 / step).limit_denominator(1001), constant


def _check_end(container: InputContainer, end: Fraction, cut: bool) -> None:
    """Raise VideoError where a file was cut off: `end` is in seconds, `cut` of the last packet."""
    if cut:
        raise VideoError("it ends in the middle of a frame")
    # Other formats show it themselves, have no length in their header, or lie in it (AVI).
    if "matroska" not in container.format.name or container.duration is None:
        return
    declared = Fraction(container.duration, av.time_base)
    if declared - end > max(Fraction(1, 2), declared / 50):
        raise VideoError(f"it ends after {float(end):.1f} of {float(declared):.1f} seconds")


def _end(packet: Packet) -> Fraction:
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    return (packet.pts + (packet.duration or 0)) * packet.time_base


def _reason(error: Exception) -> str:
    return error.strerror or "" if isinstance(error, FFmpegError) else str(error)


def _resample(frames: Iterator[Frame], source: Fraction, rate: Fraction) -> Iterator[Frame]:
    """Yield the nearest frame at every tick of `rate`, from the first frame's time."""
    last = next(frames, None)
    if last is None:
        return
    tick = last.time
    for frame in frames:
        while tick < (last.time + frame.time) / 2:
            yield last
            tick += 1 / rate
        last = frame
    while tick < last.time + 1 / source / 2:
        yield last
        tick += 1 / rate


def _frames(data: bytes, rate: Fraction) -> Iterator[Frame]:
    reformatter = VideoReformatter()
    for number, (frame, pixel_aspect) in enumerate(_decoded(data)):
        turns = round(frame.rotation / 90)
        aspect = 1 / pixel_aspect if turns % 2 else pixel_aspect
        base = frame.time_base
        time = number / rate if frame.pts is None or base is None else frame.pts * base
        rgb = reformatter.reformat(frame, format="rgb24", interpolation=EXACT, threads=1)
        yield Frame(np.rot90(rgb.to_ndarray(), turns), aspect, time)


def _decoded(data: bytes) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    count = 0
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = _stream(container)
            stream.codec_context.thread_count = 1
            aspect = stream.sample_aspect_ratio or Fraction(1)
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(f"frame {count} is damaged")
                yield frame, aspect
                count += 1
    except ERRORS as error:
        raise VideoError(f"{_reason(error)} after {count} frames") from None
    if not count:
        raise VideoError("it has no frames")


def _stream(container: InputContainer) -> VideoStream:
    # The best, not the first: that may be a cover picture.
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError("it has no video stream")
    if stream.codec_context is None:
        raise VideoError("its codec is not known")
    return stream
