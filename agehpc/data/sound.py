"""The sound of a clip as FLAC, cut to the time of its frames.

C channels, N samples; samples are int16.
"""

import io
from collections.abc import Generator
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError

from agehpc.data.video import VideoError

GAP = Fraction(1, 20)  # seconds: stamps are rounded by less, what is missing is more


class Track:
    """The first sound of a video, cut out piece by piece from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        try:
            with av.open(io.BytesIO(data), "r") as container:
                stream = container.streams.audio[0]
                self.rate = stream.rate
                self.layout = stream.layout.name
                self.channels = stream.layout.nb_channels
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"its sound: {error}") from None
        self._chunks = _chunks(data)
        self._held: list[tuple[int, np.ndarray]] = []

    def cut(self, start: Fraction, end: Fraction) -> np.ndarray:
        """Return the samples CN from `start` to `end` seconds; silence where there are none.

        Pieces that follow each other in time do so to the sample. VideoError where the sound
        cannot be decoded.
        """
        low, high = round(start * self.rate), round(end * self.rate)
        while not self._held or _end(self._held[-1]) < high:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held.append(chunk)
        x_CN = np.zeros((self.channels, high - low), np.int16)
        for first, chunk_CN in self._held:
            begin, stop = max(first, low), min(first + chunk_CN.shape[1], high)
            if begin < stop:
                x_CN[:, begin - low : stop - low] = chunk_CN[:, begin - first : stop - first]
        self._held = [chunk for chunk in self._held if _end(chunk) > high]
        return x_CN

    def flac(self, x_CN: np.ndarray) -> bytes:
        """Encode samples of this track without loss; the bytes depend on them alone."""
        out = io.BytesIO()
        try:
            with av.open(out, "w", format="flac", options={"fflags": "+bitexact"}) as container:
                stream = container.add_stream("flac", rate=self.rate, layout=self.layout)
                interleaved = np.ascontiguousarray(x_CN.T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(interleaved, "s16", self.layout)
                frame.sample_rate, frame.pts = self.rate, 0
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (FFmpegError, ValueError) as error:
            raise VideoError(f"its sound as FLAC: {error}") from None
        return out.getvalue()


def has_sound(data: bytes) -> bool:
    """Tell whether a video has sound; VideoError where it cannot be opened."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            return bool(container.streams.audio)
    except (FFmpegError, ValueError) as error:
        raise VideoError(str(error)) from None


def _end(chunk: tuple[int, np.ndarray]) -> int:
    return chunk[0] + chunk[1].shape[1]


def _chunks(data: bytes) -> Generator[tuple[int, np.ndarray], None, None]:
    """Yield the decoded sound: samples since time 0, and what begins there."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler("s16p", stream.layout, stream.rate)
            position = None
            for frame in container.decode(stream):
                if frame.pts is not None and frame.time_base is not None:
                    at = round(frame.pts * frame.time_base * stream.rate)
                    if position is None or abs(at - position) > GAP * stream.rate:
                        position = at
                position = position or 0
                for same in resampler.resample(frame):
                    x_CN = same.to_ndarray()
                    yield position, x_CN
                    position += x_CN.shape[1]
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"its sound: {error}") from None
