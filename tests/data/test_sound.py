"""The sound of a clip: every sample of its time span and no other."""

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset

from agehpc.data.commands import main
from agehpc.data.index import read_index
from agehpc.errors import UsageError
from tests.data.samples import folder_bytes, ramp, write_video

RATE = 44100


def counted(length: int) -> np.ndarray:
    """Stereo int16 CN in which every sample tells its number."""
    n = np.arange(length)
    return np.stack([(n * 7919) % 65536 - 32768, n % 32768]).astype(np.int16)


def write_with_sound(
    path: Path, frames: int, x_CN: np.ndarray, *, fps: Fraction = Fraction(25), delay: int = 0
) -> Path:
    """A video that begins `delay` frames after its sound, which is kept to the bit."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.codec_context.time_base = 1 / fps
        sound = out.add_stream("pcm_s16le" if path.suffix == ".mov" else "flac", rate=RATE)
        sound.codec_context.layout = "stereo"
        for number, rgb_HWC in enumerate(ramp(frames, 32, 32)):
            frame = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
            frame.pts, frame.time_base = number + delay, 1 / fps
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, x_CN.shape[1], 1000):
            part = np.ascontiguousarray(x_CN[:, start : start + 1000].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def read_flac(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data), "r") as container:
        assert container.streams.audio[0].rate == RATE
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1).reshape(-1, 2).T


def packed(source: Path, out: Path, *flags: str) -> list[tuple[dict, np.ndarray | None]]:
    """The json member and the sound of every segment, in order."""
    command = ["pack", str(source), str(out), "--size", "16", "--clip-len", "16", *flags]
    assert main([*command, "--validation-fraction", "0"]) == 0
    assert main(["verify", str(out)]) == 0
    found = []
    with tarfile.open(out / "train-000000.tar") as tar:
        for name in sorted(name for name in tar.getnames() if name.endswith("json")):
            about = json.loads(tar.extractfile(name).read())  # pyright: ignore
            flac = name.replace(".json", ".flac")
            held = tar.extractfile(flac).read() if flac in tar.getnames() else None  # pyright: ignore
            found.append((about, None if held is None else read_flac(held)))
    return sorted(found, key=lambda pair: pair[0]["segment"])


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
@pytest.mark.parametrize(
    ("fps", "delay"), [(Fraction(25), 0), (Fraction(30000, 1001), 0), (Fraction(25), 5)]
)
def test_segments_have_the_sound_of_their_time(
    tmp_path: Path, suffix: str, fps: Fraction, delay: int
):
    x_CN = counted(3 * RATE)
    source = write_with_sound(tmp_path / f"a{suffix}", 48, x_CN, fps=fps, delay=delay)
    found = packed(source, tmp_path / "out", "--sound")
    edges = [round((delay + 16 * segment) / fps * RATE) for segment in range(4)]
    slack = 0 if suffix == ".mov" else RATE // 1000  # Matroska's stamps are milliseconds
    assert len(found) == 3
    for (about, heard_CN), start, end in zip(found, edges, edges[1:], strict=False):
        assert heard_CN is not None
        assert abs(heard_CN.shape[1] - (end - start)) <= min(slack, 1)
        assert about["sound_samples"] == heard_CN.shape[1]
        assert (about["sound_rate"], about["sound_channels"]) == (RATE, 2)
        first = int(heard_CN[1, 0])  # samples tell their number
        assert abs(first - start % 32768) <= slack
        begin = start + first - start % 32768
        np.testing.assert_array_equal(heard_CN, x_CN[:, begin : begin + heard_CN.shape[1]])
    whole = np.concatenate([heard for _, heard in found if heard is not None], axis=1)
    begin = int(whole[1, 0]) + edges[0] - edges[0] % 32768
    np.testing.assert_array_equal(whole, x_CN[:, begin : begin + whole.shape[1]])


def test_silence_where_the_sound_ends_early(tmp_path: Path):
    source = write_with_sound(tmp_path / "a.mov", 48, counted(RATE))
    heard = [x_CN for _, x_CN in packed(source, tmp_path / "out", "--sound")]
    length = 16 * RATE // 25
    assert [x_CN.shape for x_CN in heard if x_CN is not None] == [(2, length)] * 3
    np.testing.assert_array_equal(heard[1][:, : RATE - length], counted(RATE)[:, length:])
    assert not heard[1][:, RATE - length :].any()
    assert not heard[2].any()


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sound_is_kept_on_request_alone(tmp_path: Path):
    """Beside videos without any; reproducibly; where webdataset finds it."""
    source = tmp_path / "in"
    source.mkdir()
    write_with_sound(source / "loud.mov", 16, counted(RATE))
    write_video(source / "mute.mp4", ramp(16, 32, 32))
    assert [heard for _, heard in packed(source, tmp_path / "plain")] == [None, None]
    found = {about["source"]: heard for about, heard in packed(source, tmp_path / "a", "--sound")}
    assert found["mute.mp4"] is None
    assert found["loud.mov"] is not None
    packed(source, tmp_path / "b", "--sound", "--workers", "2")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    held = {
        sample.key: sample.sound
        for sample in read_index(tmp_path / "a", "train-000000.tar").samples
    }
    stock = webdataset.WebDataset(str(tmp_path / "a" / "train-000000.tar"), shardshuffle=False)
    for sample in stock:
        assert ("flac" in sample) == (held[sample["__key__"]] is not None)


def test_damaged_sound_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_with_sound(tmp_path / "a.mov", 16, counted(RATE))
    packed(source, tmp_path / "out", "--sound")
    path = tmp_path / "out" / "train-000000.tar"
    sound = read_index(tmp_path / "out", path.name).samples[0].sound
    assert sound is not None
    data = bytearray(path.read_bytes())
    data[sound.offset + 500] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert "the bytes of its sound do not match" in capsys.readouterr().out


def test_images_have_no_sound(tmp_path: Path, people: Path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match="--sound is for videos"):
        main(["pack", str(tmp_path / "a.png"), str(tmp_path / "out"), "--sound"])
