"""What every extractor of features has in common, and `build`, which makes one by name.

Shapes: B batch, C channels, S (H, W) or (T, H, W), F features.
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from agehpc.errors import DataError, UsageError
from agehpc.evaluate.weights import WeightsError, identify

EXTRACTORS = {
    "inception": "Inception",
    "vgg16": "VGG16",
    "i3d": "I3D",
    "lite0": "Lite0",
}
"""Name, which is that of its module and of its weights -> class."""


class Extractor(ABC):
    """A network with fixed weights: uint8 samples in, float32 features out.

    `features` is the output that distances are taken of; some have others besides.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["image", "clip"]] = "image"
    sizes: ClassVar[dict[str, int]]
    """Output -> F."""
    side: ClassVar[int]
    """Pixels of the square that the network sees."""
    resizes: ClassVar[tuple[str, ...]]
    """How samples may come to this size; the first is the usual way."""

    def __init__(self, device: str | torch.device, weights: Path | None, resize: str | None):
        self.device = torch.device(device)
        self.resize = resize or self.resizes[0]
        if self.resize not in self.resizes:
            raise UsageError(
                f"{self.name} resizes by {' or '.join(self.resizes)}, not by {self.resize}"
            )
        path, sha256 = identify(self.name, weights)
        self.fingerprint: dict[str, str | int | float] = {
            "extractor": self.name,
            "weights": sha256,
            "resize": self.resize,
            "side": self.side,
            "range": "0..255",
        }
        with _loading(self.name, path):
            network = self.load(path)
        self.network = network.eval().to(self.device, torch.float32)

    def __call__(self, x_BCS: Tensor) -> dict[str, Tensor]:
        """Return the outputs of some samples.

        Args:
            x_BCS: uint8 in 0..255, grey or RGB, of any size, on any device.

        Returns:
            name -> float32 [B, F] on the extractor's device.

        Raises:
            DataError: samples of another kind, dtype or number of channels.
        """
        self._check(x_BCS)
        # Whatever is set for training: autocast and TF32 would compute with fewer digits.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), _whole_float32():
            return self.outputs(x_BCS.to(self.device))

    @abstractmethod
    def load(self, path: Path) -> nn.Module:
        """Return the network with the weights of a file."""

    @abstractmethod
    def outputs(self, x_BCS: Tensor) -> dict[str, Tensor]:
        """Return the outputs of samples that are what they should be."""

    def _check(self, x_BCS: Tensor) -> None:
        axes = {"image": "[B, C, H, W]", "clip": "[B, C, T, H, W]"}[self.takes]
        if x_BCS.dtype != torch.uint8:
            raise DataError(
                f"{self.name} takes uint8 in 0..255, not {x_BCS.dtype}: map [-1, 1] to it by "
                "(x * 127.5 + 128).clamp(0, 255)"
            )
        if x_BCS.ndim != axes.count(",") + 1 or x_BCS.shape[1] not in (1, 3):
            raise DataError(
                f"{self.name} takes {self.takes}s {axes} of 1 or 3 channels, not {[*x_BCS.shape]}"
            )


def build(
    name: str,
    device: str | torch.device,
    weights: Path | None = None,
    resize: str | None = None,
) -> Extractor:
    """Return the extractor of this name.

    Args:
        name: one of EXTRACTORS.
        device: where it computes.
        weights: a file to take in place of the published one, of the same layout.
        resize: how samples come to the network's size; None for the usual way.

    Raises:
        UsageError: an unknown name, a resize the extractor does not have, or a missing package.
        WeightsError: weights that are missing, damaged, or another network's.
    """
    if name not in EXTRACTORS:
        raise UsageError(f"there are no features named {name!r}; known are {', '.join(EXTRACTORS)}")
    module = import_module(f"{__package__}.{name}")
    try:
        return getattr(module, EXTRACTORS[name])(device, weights, resize)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"features by {name} need {error.name}, which is not installed: "
            "pip install 'agehpc[evaluate]'"
        ) from None


def read_state(path: Path) -> dict[str, Any]:
    """Return the tensors of a file that torch.save wrote, old format or new; no code is run."""
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Compute convolutions and products of matrices on CUDA without TF32, torch's usual way."""
    cudnn: Any = torch.backends.cudnn  # its attributes are made when torch is imported
    places = (cudnn.conv, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


@contextmanager
def _loading(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        EOFError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()
        raise WeightsError(
            f"{path} does not hold the weights of {name}: {' '.join(reason[:2])[:300]}"
        ) from None
