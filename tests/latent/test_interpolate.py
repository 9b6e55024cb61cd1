"""Ways between latents against their formulas, and the command."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import agehpc
from agehpc.errors import UsageError
from agehpc.latent.interpolate import lerp, slerp
from agehpc.observe.grids import to_uint8
from tests.latent.runs import figures, refusal


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_slerp_is_the_formula_of_the_paper():
    a, b, t = normal(0, 4, 7), 3 * normal(1, 4, 7), torch.tensor([0.0, 0.2, 0.5, 1.0])
    found = slerp(a, b, t)
    for n in range(4):
        p, q = a[n].double().numpy(), b[n].double().numpy()
        w = math.acos(p @ q / math.sqrt((p @ p) * (q @ q)))
        for k, s in enumerate(t.tolist()):
            wanted = (math.sin((1 - s) * w) * p + math.sin(s * w) * q) / math.sin(w)
            np.testing.assert_allclose(found[n, k].numpy(), wanted, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), share=st.floats(0, 1))
def test_the_arc_keeps_length_and_turns_evenly(seed, scale, share):
    a, b = normal(seed, 1, 9), normal(seed + 1, 1, 9)
    a, b = scale * a / a.norm(), scale * b / b.norm()
    z = slerp(a, b, torch.tensor([share]))[:, 0]
    assert z.norm().item() == pytest.approx(scale, rel=1e-5)
    whole = torch.acos((a @ b.T / scale**2).double().clamp(-1, 1)).item()
    done = torch.acos((a @ z.T / scale**2).double().clamp(-1, 1)).item()
    assert done == pytest.approx(share * whole, abs=2e-3)


def test_ends_parallel_and_opposite():
    a, b, ends = normal(0, 3, 5), normal(1, 3, 5), torch.tensor([0.0, 1.0])
    for way in (lerp, slerp):
        torch.testing.assert_close(way(a, b, ends), torch.stack([a, b], 1))
    t = torch.tensor([0.25])
    torch.testing.assert_close(slerp(a, 3 * a, t), (1.5 * a)[:, None])
    torch.testing.assert_close(lerp(a, b, t)[:, 0], 0.75 * a + 0.25 * b)
    with pytest.raises(UsageError, match="opposite directions"):
        slerp(a, -a, t)


def test_rows_go_from_one_sample_to_the_other(image_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "interpolate", image_run, "--index", 3, 1, 0, 2, "--steps", 5, "--frames", 6,
        "--path", "linear", "--source", "noise", "--seed", 4, "--out", tmp_path,
    )  # fmt: skip
    assert told["pairs"] == 2
    model = agehpc.load(image_run)
    z = torch.cat([model.noise(1, 4, n) for n in (3, 1, 0, 2)])
    picture = np.asarray(Image.open(tmp_path / "interpolation.png"))
    for row, (a, b) in enumerate(((0, 1), (2, 3))):
        for column in range(5):
            t = column / 4
            y = to_uint8(model.decode((1 - t) * z[a : a + 1] + t * z[b : b + 1], from_prior=True))
            top, left = row * 18, column * 18
            shown = picture[top : top + 16, left : left + 16].astype(int)
            assert np.abs(shown - y[0, 0]).max() <= 1  # a rounding apart
    with av.open(str(tmp_path / "interpolation.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) >= 12  # there and back


def test_clips_and_encoded_samples(clip_run: Path, tmp_path, capsys):
    told = figures(
        capsys, "interpolate", clip_run, "--n", 1, "--steps", 3, "--out", tmp_path, "--split",
        "train",
    )  # fmt: skip
    assert {Path(p).suffix for p in told["paths"]} == {".mp4", ".png"}
    # Three clips below each other, eight frames each.
    picture = np.asarray(Image.open(tmp_path / "interpolation.png"))
    assert picture.shape == (3 * 18 - 2, 8 * 18 - 2, 3)


def test_what_cannot_be_interpolated(image_run: Path, tmp_path, capsys):
    words = ("interpolate", image_run, "--out", tmp_path)
    assert "names pairs: got 3 indices" in refusal(capsys, *words, "--index", 1, 2, 3)
    assert "no sample 99 in the validation split" in refusal(capsys, *words, "--index", 1, 99)
    figures(capsys, "encode", image_run, "--n", 3, "--out", tmp_path / "a.npz")
    words = (*words, "--latents", tmp_path / "a.npz")
    assert "--index 5, but" in refusal(capsys, *words, "--index", 0, 5)
    assert figures(capsys, *words, "--dry-run")["pairs"] == 3 // 2
