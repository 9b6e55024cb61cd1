"""Decoding packed clips by PyAV.

T frames, H height, W width, C channels; pixels are uint8 RGB.
"""

import io
from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from agehpc.data.damage import MediaError, other_size, undecodable, wrong_count

# IndexError: PyAV, where a stream appears that the header did not announce.
ERRORS = (FFmpegError, ValueError, IndexError)


def decode_range(media: bytes, low: int, high: int, frames: int, size: int | None) -> np.ndarray:
    """Decode frames low..high of a clip of `frames`: THWC. MediaError where it is damaged.

    `size` is its height and width where they are known.
    """
    try:
        # Named: bytes that look like a playlist would have FFmpeg open what they list.
        with av.open(io.BytesIO(media), "r", format="mp4") as container:
            if not container.streams.video:
                raise MediaError("open", "it has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise MediaError("open", "its codec is not known")
            if size is not None and (stream.width, stream.height) != (size, size):
                raise other_size(stream.width, stream.height, size)
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) != frames:
                raise wrong_count(len(packets), frames)
            return _range(stream, packets, low, high)
    except ERRORS as error:
        raise undecodable("open", error) from None


def _range(stream: VideoStream, packets: list[Packet], low: int, high: int) -> np.ndarray:
    # Frames are known by the times of their packets, neither by seeking nor by counting.
    times = {packet.pts for packet in packets} - {None}
    order = sorted(time for time in times if time is not None)
    if len(order) != len(packets):
        raise MediaError("decode", "its frames have no times of their own")
    wanted = {time: number for number, time in enumerate(order[low : high + 1])}
    keys = [
        number
        for number, packet in enumerate(packets)
        if packet.is_keyframe and packet.pts is not None and packet.pts <= order[low]
    ]
    if not keys:
        raise MediaError("decode", f"no keyframe leads to frame {low}")
    found: list[np.ndarray | None] = [None] * len(wanted)
    left = len(wanted)
    for time, rgb_HWC in _decoded(stream, packets[keys[-1] :], wanted):
        left -= found[wanted[time]] is None
        found[wanted[time]] = rgb_HWC
        if not left:
            break
    kept = [rgb_HWC for rgb_HWC in found if rgb_HWC is not None]
    if len(kept) != len(wanted) or len({rgb_HWC.shape for rgb_HWC in kept}) > 1:
        raise MediaError("decode", f"not all of its frames {low} to {high} can be decoded")
    return np.stack(kept)


def _decoded(
    stream: VideoStream, packets: list[Packet], wanted: dict[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the time and pixels HWC of each wanted frame."""
    stream.codec_context.thread_count = 1
    reformatter = VideoReformatter()
    try:
        for packet in [*packets, None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts not in wanted:
                    continue
                if frame.is_corrupt:
                    raise MediaError("decode", "a frame of it is damaged")
                rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                yield frame.pts, rgb.to_ndarray()
    except FFmpegError as error:
        raise undecodable("decode", error) from None
