"""Real pictures in folders, and worse versions of them."""

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from agehpc.data.digits import digits, load_digits


def some_digits(first: int, count: int) -> list[Image.Image]:
    """Digits of all classes, by their numbers in a fixed shuffled order."""
    rows = digits()
    x_NHW = load_digits(rows[0].path, "")
    order = np.random.default_rng(0).permutation(len(rows))
    return [Image.fromarray(x) for x in x_NHW[order[first : first + count]]]


def write_faces(shared_data: Path, folder: Path, first: int, count: int, under: str = "") -> Path:
    """JPEG files of faces, by their numbers in a fixed shuffled order of those whose name fits."""
    folder.mkdir()
    with tarfile.open(shared_data / "faces64.tar") as tar:
        members = [m for m in tar if m.isfile() and under in m.name]
        members.sort(key=lambda m: m.name)
        order = np.random.default_rng(0).permutation(len(members))
        for number in order[first : first + count]:
            file = tar.extractfile(members[number])
            assert file is not None
            (folder / members[number].name.replace("/", "-")).write_bytes(file.read())
    return folder


def opened(folder: Path) -> list[Image.Image]:
    """The pictures of a folder."""
    return [Image.open(file).copy() for file in sorted(folder.iterdir())]


def blurred(pictures: list[Image.Image], sigma: float) -> list[Image.Image]:
    """The same, blurred by so many pixels."""
    return [x.filter(ImageFilter.GaussianBlur(sigma)) for x in pictures]


def noisy(pictures: list[Image.Image], sigma: float) -> list[Image.Image]:
    """The same with Gaussian noise of so many of 255."""
    draws = np.random.default_rng(1)
    found = [np.asarray(x) + draws.normal(0, sigma, (x.height, x.width)) for x in pictures]
    return [Image.fromarray(x.clip(0, 255).astype(np.uint8)) for x in found]


def save(folder: Path, pictures: list[Image.Image]) -> Path:
    """Write pictures as PNG."""
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:04d}.png")
    return folder
