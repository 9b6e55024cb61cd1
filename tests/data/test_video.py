import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from agehpc.data import video
from tests.data.samples import decode_pyav, ramp, rotate, write_video


def frames_of(path: Path, fps: Fraction | None = None) -> tuple[Fraction, list[video.Frame]]:
    rate, frames = video.decode(path.read_bytes(), fps)
    return rate, list(frames)


def level(frame: video.Frame) -> int:
    """The number t of a ramp's frame, from the grey of its lower right corner."""
    return round((float(frame.rgb_HWC[-8:, -8:].mean()) - 10) / 8)


def test_keyframes_lie_every_gop_and_nothing_is_reordered():
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    media = video.encode(list(noise), Fraction(25), gop=16, crf=18)
    with av.open(io.BytesIO(media), "r") as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        assert [i for i, p in enumerate(packets) if p.is_keyframe] == [0, 16, 32, 48]
        assert [p.pts for p in packets] == [p.dts for p in packets]
        assert packets[0].pts == 0
        assert stream.average_rate == 25
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert not container.streams.audio
    assert media.index(b"moov") < media.index(b"mdat")  # faststart
    assert b"elst" not in media


def test_groups_are_closed():
    """Every group of pictures decodes to the same frames on its own."""
    frames = [np.roll(ramp(1, 32, 32)[0], 3 * t, axis=1) for t in range(32)]
    media = video.encode(frames, Fraction(25), gop=16, crf=18)
    whole = decode_pyav(media)
    with av.open(io.BytesIO(media), "r") as container:
        stream = container.streams.video[0]
        container.seek(int(Fraction(16, 25) / stream.time_base), stream=stream, backward=True)
        late = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(late) == 16
    np.testing.assert_array_equal(late, whole[16:])


def test_encoding_is_reproducible_and_good():
    frames = [np.roll(ramp(1, 64, 64)[0], t, axis=0) for t in range(20)]
    media = video.encode(frames, Fraction(30000, 1001), gop=16, crf=18)
    assert media == video.encode(frames, Fraction(30000, 1001), gop=16, crf=18)
    assert np.abs(decode_pyav(media).astype(int) - frames).mean() < 2
    assert video.count_frames(media) == 20


@pytest.mark.parametrize("size", [16, 28, 80])
def test_bytes_do_not_depend_on_what_memory_held(size: int):
    """x264's lookahead read memory of its own that it had not written, at these widths."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    frames = [np.roll(picture // 4 + 8 * t, t, axis=1) for t in range(20)]
    seen = set()
    for _ in range(8):
        for length in (1_000, 5_000, 20_000, 100_000) * 3:
            rng.integers(0, 256, length, dtype=np.uint8)
        write_video(Path(os.devnull), frames, container="null")
        seen.add(video.encode(frames, Fraction(25), gop=16, crf=18))
    assert len(seen) == 1


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_rotation_is_baked_in(tmp_path: Path, quarter_turns: int):
    """By the definition of the matrix in ISO 14496-12, which `rotate` writes."""
    path = write_video(tmp_path / "turned.mp4", ramp(4))
    stored = decode_pyav(path)
    rotate(path, quarter_turns)
    _, frames = frames_of(path)
    shown = np.rot90(stored, -quarter_turns, axes=(1, 2))
    assert np.abs(np.stack([f.rgb_HWC for f in frames]) - shown.astype(int)).max() <= 3  # rounding


def test_pixel_aspect_turns_with_the_picture(tmp_path: Path):
    path = write_video(tmp_path / "wide.mp4", ramp(3), sample_aspect=Fraction(4, 3))
    assert frames_of(path)[1][0].aspect == Fraction(4, 3)
    rotate(path, 1)
    assert frames_of(path)[1][0].aspect == Fraction(3, 4)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24000, 1001), Fraction(15)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_constant_rates_keep_every_frame(tmp_path: Path, rate: Fraction, suffix: str):
    """Matroska rounds times to milliseconds: no frame may be lost or repeated by that."""
    path = tmp_path / f"constant{suffix}"
    media = video.encode(ramp(50, 32, 32), rate, gop=16, crf=18)
    with av.open(io.BytesIO(media), "r") as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    seen, frames = frames_of(path)
    assert abs(seen / rate - 1) < 1e-4
    assert [level(f) for f in frames] == [t % 28 for t in range(50)]


def test_variable_rate_becomes_constant(tmp_path: Path):
    times = [0, 1, 2, 3, 7, 8, 9, 14, 15, 16, 17, 20]
    path = write_video(tmp_path / "variable.mkv", ramp(12), times=times)
    rate, frames = frames_of(path)
    ticks = [n / float(rate) for n in range(len(frames))]
    nearest = [int(np.argmin([abs(tick - t / 25) for t in times])) for tick in ticks]
    agree = sum(level(f) == n for f, n in zip(frames, nearest, strict=True))
    assert agree >= len(frames) - 1  # a tick half-way between two frames may go either way
    assert abs(len(frames) / float(rate) - 21 / 25) < 0.06


@pytest.mark.parametrize(("fps", "levels"), [(5, [0, 5, 10, 15]), (50, None)])
def test_asked_rate(tmp_path: Path, fps: int, levels: list[int] | None):
    path = write_video(tmp_path / "source.mp4", ramp(20))
    rate, frames = frames_of(path, Fraction(fps))
    assert rate == fps
    if levels is None:
        assert len(frames) in (39, 40)
        shown = [level(f) for f in frames]
        assert shown == sorted(shown)
        assert set(shown) == set(range(20))
    else:
        assert [level(f) for f in frames] == levels


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"<html>404</html>" * 50])
def test_what_is_no_video(content: bytes):
    with pytest.raises(video.VideoError):
        list(video.decode(content, None)[1])


def test_truncated_video_is_an_error(demo_clips: dict[str, Path]):
    data = demo_clips["bikes.mp4"].read_bytes()
    with pytest.raises(video.VideoError):
        list(video.decode(data[: len(data) // 2], None)[1])
