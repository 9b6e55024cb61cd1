"""What packing makes of odd inputs: the right frames, or a reason.

The frames that are wanted are those that went into the encoder, not what some decoder makes of
the file.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image, ImageOps

from agehpc.data.encode import encode
from agehpc.data.pieces import Reject, Settings
from agehpc.data.sources import Source
from tests.data.odd_inputs import (
    BEST,
    X264,
    Frames,
    cut,
    edited,
    flipped,
    lying_avi,
    resized,
    scene,
    sound_only,
    turned,
    with_cover,
    write,
    zeroed,
)
from tests.data.samples import decode_pyav

SETTINGS = Settings("video", 48, "crop", 3, None, 128, 16, 18, "jpg")
FAST = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
OPEN = X264 | {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}
X265 = {"crf": "8", "x265-params": "log-level=none:pools=none"}
VP9 = {"crf": "8", "b": "0"}
AV1 = {"crf": "10", "preset": "9"}

s = scene(24)
big = scene(24, 96, 128)
odd = scene(20, 143, 175)
long = scene(60, 96, 128)
gaps = [0, 1, 2, 3, 7, 8, 9, 14, 15, 16, 17, 20]


def quarter(turns: int) -> Frames:
    return [np.rot90(rgb_HWC, -turns) for rgb_HWC in s]


def wide() -> Frames:
    """What 64 x 48 pixels of 3:4 show: a square."""
    return [np.asarray(Image.fromarray(rgb_HWC).resize((48, 48))) for rgb_HWC in s]


def grey() -> Frames:
    return [np.asarray(Image.fromarray(x).convert("L").convert("RGB")) for x in s]


Build = Callable[[Path], bytes]
PACKED: dict[str, tuple[str, Build, Frames]] = {
    "plain": ("mp4", lambda p: write(p, s), s),
    "faststart": ("mp4", lambda p: write(p, s, muxer=FAST), s),
    "b_frames": ("mp4", lambda p: write(p, s, options=X264 | {"bf": "3"}), s),
    "open_groups": ("mp4", lambda p: write(p, s, options=OPEN), s),
    "fragmented": ("mp4", lambda p: write(p, s, muxer=FRAGMENTS), s),
    "matroska": ("mkv", lambda p: write(p, s), s),
    "transport_stream": ("ts", lambda p: write(p, s), s),
    "one_frame": ("mp4", lambda p: write(p, s[:1]), s[:1]),
    "sound_first": ("mp4", lambda p: write(p, s, sound=True), s),
    "late_start": ("ts", lambda p: write(p, s, first=250), s),
    "cover_picture": ("mp4", lambda p: with_cover(p, s), s),
    "odd_size_444": ("mp4", lambda p: write(p, odd, pixels="yuv444p"), odd),
    "odd_size_mpeg4": ("avi", lambda p: write(p, odd, "mpeg4", options=BEST), odd),
    "b_frames_avi": ("avi", lambda p: write(p, s, "mpeg4", options=BEST | {"bf": "2"}), s),
    "lying_avi": ("avi", lambda p: lying_avi(p, s), s),
    "mpeg2": ("mpg", lambda p: write(p, big, "mpeg2video", options=BEST | {"bf": "2"}), big),
    "msmpeg4": ("avi", lambda p: write(p, s, "msmpeg4", options=BEST), s),
    "wmv": ("wmv", lambda p: write(p, s, "wmv2", options=BEST), s),
    "flv": ("flv", lambda p: write(p, s, "flv", options=BEST), s),
    "mjpeg": ("avi", lambda p: write(p, s, "mjpeg", "yuvj420p", options=BEST), s),
    "prores": ("mov", lambda p: write(p, s, "prores_ks", "yuv422p10le", options={}), s),
    "hevc_10_bit": ("mp4", lambda p: write(p, big, "libx265", "yuv420p10le", options=X265), big),
    "vp9_alpha": ("webm", lambda p: write(p, s, "libvpx-vp9", "yuva420p", options=VP9), s),
    "av1": ("mp4", lambda p: write(p, big, "libsvtav1", options=AV1), big),
    "grey": ("mp4", lambda p: write(p, s, pixels="gray"), grey()),
    "bt709": ("mp4", lambda p: write(p, s, colours=Colorspace.ITU709), s),
    "rotated_90": ("mp4", lambda p: turned(p, s, 1), quarter(1)),
    "rotated_180": ("mp4", lambda p: turned(p, s, 2), quarter(2)),
    "rotated_270": ("mp4", lambda p: turned(p, s, 3), quarter(3)),
    "anamorphic": ("mp4", lambda p: write(p, s, sample_aspect=Fraction(3, 4)), wide()),
    "edit_list_later_start": ("mp4", lambda p: edited(p, s, (16, 8)), s[8:]),
    "edit_list_early_end": ("mp4", lambda p: edited(p, s, (16, 0)), s[:16]),
    "edit_list_hole": ("mp4", lambda p: edited(p, s, (10, 0), (9, 15)), s[:10] + s[15:]),
    "edit_list_pause": ("mp4", lambda p: edited(p, s, (25, -1), (24, 0)), s),
    "size_change": ("ts", resized, scene(20) + scene(40, 96, 96)[20:]),
}


def seen(path: Path) -> np.ndarray | Reject:
    """Pack a file as `data pack` does: the frames THWC of its sample, or why it has none."""
    made = encode(Source(path, path.name, "folder"), SETTINGS)
    if isinstance(made, Reject):
        return made
    assert [piece.about["frames"] for piece in made] == [len(decode_pyav(made[0].media["mp4"]))]
    return decode_pyav(made[0].media["mp4"])


@pytest.mark.parametrize("name", PACKED)
def test_odd_videos_are_packed_with_the_frames_that_they_show(tmp_path: Path, name: str):
    suffix, build, frames = PACKED[name]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(build(path))
    x_THWC = seen(path)
    assert not isinstance(x_THWC, Reject), x_THWC
    assert x_THWC.shape == (len(frames), 48, 48, 3)
    # The longer side of an upright picture is cropped, then the square is scaled.
    wanted = [
        np.asarray(ImageOps.fit(Image.fromarray(x), (48, 48), Image.Resampling.BICUBIC))
        for x in frames
    ]
    error_THWC = x_THWC.astype(int) - np.stack(wanted)
    # The next frame is off by 5 in green, a quarter turn by 60 in red and blue.
    assert np.abs(error_THWC[..., 1].mean((1, 2))).max() < 2.5
    assert np.abs(error_THWC).mean() < 2.5


def test_a_variable_rate_keeps_its_time(tmp_path: Path):
    """Twelve frames in 21 ticks: each shown about as long as in the source."""
    for suffix in ("mkv", "mp4"):
        path = tmp_path / f"x.{suffix}"
        write(path, scene(12), times=gaps)
        x_THWC = seen(path)
        assert not isinstance(x_THWC, Reject)
        shown = np.round((x_THWC[..., 1].mean((1, 2)) - 29) / 5).astype(int)
        ticks = np.arange(len(shown)) * 21 / len(shown)
        late = np.array([gaps[number] for number in shown]) - ticks
        assert (np.diff(shown) >= 0).all()
        assert np.abs(late).max() <= 3.5  # half of the longest gap and of a tick


REJECTED: dict[str, tuple[str, Build, str, str]] = {
    "no_bytes": ("mp4", lambda _: b"", "empty", "0 bytes"),
    "garbage": ("mp4", lambda _: np.random.default_rng(0).bytes(5000), "undecodable", "Invalid"),
    "html": ("mp4", lambda _: b"<html>404</html>" * 99, "undecodable", "Invalid"),
    "zeros": ("mp4", lambda _: bytes(5000), "undecodable", "Invalid"),
    "sound_only": ("mp4", sound_only, "undecodable", "no video stream"),
    "index_lost": ("mp4", lambda p: cut(write(p, long), 0.9), "undecodable", "Invalid"),
    "cut_at_50": ("mp4", lambda p: cut(write(p, long, muxer=FAST), 0.5), "undecodable", "ends in"),
    "cut_at_90": ("mp4", lambda p: cut(write(p, long, muxer=FAST), 0.9), "undecodable", "ends in"),
    "cut_fragments": (
        *("mp4", lambda p: cut(write(p, long, muxer=FRAGMENTS), 0.6)),
        *("undecodable", "End of file|Invalid|ends"),
    ),
    "cut_matroska": (
        *("mkv", lambda p: cut(write(p, long), 0.6)),
        *("undecodable", "ends after 1.* of 2.4 seconds"),
    ),
    "cut_webm": (
        *("webm", lambda p: cut(write(p, long, "libvpx-vp9", options=VP9 | {"g": "10"}), 0.6)),
        *("undecodable", "ends after 1.* of 2.4 seconds"),
    ),
    "cut_avi": (
        *("avi", lambda p: cut(write(p, long, "mjpeg", "yuvj420p", options=BEST), 0.6)),
        *("undecodable", "ends in the middle"),
    ),
    "one_bit_flipped": (
        *("mp4", lambda p: flipped(data := write(p, long, muxer=FAST), 1, len(data) // 2)),
        *("undecodable", "damaged|Invalid"),
    ),
    "200_bits_flipped": (
        *("mp4", lambda p: flipped(write(p, long, muxer=FAST), 200, b"mdat")),
        *("undecodable", "damaged|Invalid"),
    ),
    "fifth_zeroed": (
        *("mp4", lambda p: zeroed(write(p, long, muxer=FAST))),
        *("undecodable", "damaged|Invalid"),
    ),
    "unknown_codec": (
        *("mp4", lambda p: write(p, s).replace(b"avc1", b"avcX")),
        *("undecodable", "codec is not known"),
    ),
    "hours_between_frames": (
        *("mkv", lambda p: write(p, s[:2], times=[0, 40000 * 25])),
        *("undecodable", "40000 seconds lie between"),
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_packed_is_rejected_with_its_reason(tmp_path: Path, name: str):
    suffix, build, reason, detail = REJECTED[name]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(build(path))
    made = seen(path)
    assert isinstance(made, Reject)
    assert made.reason == reason
    assert re.search(detail, made.detail), made.detail


def test_a_cut_transport_stream_gives_its_whole_frames(tmp_path: Path):
    """It has no length to be measured by: what is there is right."""
    path = tmp_path / "x.ts"
    path.write_bytes(cut(write(path, long), 0.6))
    x_THWC = seen(path)
    assert not isinstance(x_THWC, Reject)
    assert 25 < len(x_THWC) < 45
    levels = np.round((x_THWC[..., 1].mean((1, 2)) - 29) / 5)
    np.testing.assert_array_equal(levels[:20], np.arange(20))
