"""From one source to the media and description of its samples.

H height, W width, C channels. Runs in worker processes; the bytes depend on the source and the
settings alone: one encoder thread, no time stamps.
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from agehpc.data import arrays, video
from agehpc.data.pairs import pair
from agehpc.data.pictures import colour, fit, has_one_channel, picture
from agehpc.data.pieces import Piece, Reject, Settings, UnusableError
from agehpc.data.sound import Track, has_sound
from agehpc.data.sources import Source

LEAST_FRAMES = 16  # of the last, shorter segment of a source


def encode(source: Source, settings: Settings) -> list[Piece] | Reject:
    """Make the samples of one source."""
    try:
        data = source.read()
        given = source.pair.read() if source.pair else None
    except OSError as error:
        return Reject("unreadable", str(error.strerror))
    except UnusableError as error:
        return error.reject
    if not data or given == b"":
        return Reject("empty", "0 bytes" if not data else "0 bytes of its input image")
    try:
        if settings.kind == "video":
            pieces = list(_video(source, data, settings))
        elif settings.pairs:
            pieces = [Piece(pair(data, given, settings), {"frames": 1})]
        else:
            media = {settings.image_format: picture(data, settings, settings.channels)}
            pieces = [Piece(media, {"frames": 1})]
    except UnusableError as error:
        return error.reject
    shared = {"source": source.name, "source_sha256": hashlib.sha256(data).hexdigest()}
    if source.pair and given is not None:
        shared |= {
            "input_source": source.pair.name,
            "input_source_sha256": hashlib.sha256(given).hexdigest(),
        }
    for piece in pieces:
        piece.about.update(shared, **_form(piece, settings))
    return pieces


def encode_many(sources: Sequence[Source], settings: Settings) -> list[list[Piece] | Reject]:
    """Make the samples of several sources: one task of a pool."""
    return [encode(source, settings) for source in sources]


def _form(piece: Piece, settings: Settings) -> dict[str, Any]:
    """Size, channels and checksums, of the sample and of its input image."""
    sums = [zlib.crc32(data) for data in piece.media.values()]
    form = {"size": settings.size, "channels": settings.channels, "crc32": sums[0]}
    if settings.pairs:
        form |= {"input_channels": settings.input_channels, "input_crc32": sums[1]}
    return form


def _video(source: Source, data: bytes, settings: Settings) -> Iterator[Piece]:
    try:
        decode = arrays.decode_clip if isinstance(source, arrays.Row) else video.decode
        rate, frames = decode(data, settings.fps)
        first = next(frames)
        track = _track(source, data, settings)
        segments = _segments(
            (
                fit(Image.fromarray(f.rgb_HWC), settings, f.aspect)
                for f in itertools.chain([first], frames)
            ),
            settings,
        )
        for number, segment in enumerate(segments):
            mp4 = video.encode(segment, rate, settings.gop, settings.crf)
            media, about = (
                {"mp4": mp4},
                {
                    "frames": video.count_frames(mp4),
                    "fps": str(rate),
                    "gop": settings.gop,
                    "segment": number,
                    "first_frame": number * settings.clip_len,
                },
            )
            if track is not None:
                start = first.time + number * settings.clip_len / rate
                x_CN = track.cut(start, start + len(segment) / rate)
                media["flac"] = track.flac(x_CN)
                about |= {
                    "sound_rate": track.rate,
                    "sound_channels": track.channels,
                    "sound_samples": x_CN.shape[1],
                    "sound_crc32": zlib.crc32(media["flac"]),
                }
            yield Piece(media, about)
    except video.VideoError as error:
        raise UnusableError("undecodable", str(error)) from None


def _track(source: Source, data: bytes, settings: Settings) -> Track | None:
    """Return the sound to keep of a source."""
    if not settings.sound or isinstance(source, arrays.Row) or not has_sound(data):
        return None
    return Track(data)


def _segments(frames: Iterator[Image.Image], settings: Settings) -> Iterator[list[np.ndarray]]:
    """Cut into `clip_len` frames; a shorter end is kept from 16 frames on, or when it is all."""
    segment: list[np.ndarray] = []
    whole = 0
    for image in frames:
        segment.append(np.asarray(colour(image, settings.channels).convert("RGB")))
        if len(segment) == settings.clip_len:
            yield segment
            segment = []
            whole += 1
    if segment and (len(segment) >= LEAST_FRAMES or not whole):
        yield segment


def is_grey(source: Source) -> bool | None:
    """Tell from the header whether an image has a single channel; None where it is unreadable."""
    if source.channels is not None:
        return source.channels == 1
    try:
        return has_one_channel(source.read())
    except (OSError, UnusableError):
        return None
