"""VGG16, whose features improved precision and recall are defined on.

Simonyan and Zisserman, "Very Deep Convolutional Networks" (2015); Kynkaanniemi et al., "Improved
Precision and Recall Metric" (2019). ImageNet weights and layers are torchvision's, as in
torch-fidelity; the paper's own port of the network is another file with the same layers.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from agehpc.evaluate.features.base import Extractor, read_state
from agehpc.evaluate.resize import RESIZES

# Of ImageNet, in 0..1, as the weights were trained.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class VGG16(Extractor):
    """Features of the second fully connected layer behind its ReLU, 4,096 of a picture."""

    name = "vgg16"
    sizes: ClassVar[dict[str, int]] = {"features": 4096}
    side = 224
    resizes = tuple(RESIZES)

    def load(self, path: Path) -> nn.Module:
        """Return the network without its last layer."""
        from torchvision.models import vgg16

        with torch.device("meta"):  # as every tensor is to come from the file
            network = vgg16()
        network.load_state_dict(read_state(path), assign=True)
        network.classifier = network.classifier[:5]
        return network

    def outputs(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the features of grey or RGB pictures."""
        x = RESIZES[self.resize](x_BCHW, self.side)
        mean, deviation = (255 * x.new_tensor(v).reshape(3, 1, 1) for v in (MEAN, DEVIATION))
        return {"features": self.network((x - mean) / deviation)}
