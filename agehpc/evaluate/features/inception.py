"""Inception-v3 of 2015-12-05, whose features FID, KID and the Inception Score are defined on.

Szegedy et al., "Rethinking the Inception Architecture" (2016); Heusel et al., "GANs Trained by a
Two Time-Scale Update Rule" (2017) for FID. TensorFlow's graph as ported by pytorch-fid; the layers
are torch-fidelity's.
"""

from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agehpc.evaluate.features.base import Extractor, read_state
from agehpc.evaluate.resize import RESIZES


class Inception(Extractor):
    """Pooled features, 2,048 of a picture, and 1,008 logits without the last layer's bias.

    The logits are those that torch-fidelity and NVIDIA take the Inception Score of.
    """

    name = "inception"
    sizes: ClassVar[dict[str, int]] = {"features": 2048, "logits_unbiased": 1008}
    side = 299
    resizes = tuple(RESIZES)

    def load(self, path: Path) -> nn.Module:
        """Return the network."""
        with torch.device("meta"):  # as every tensor is to come from the file
            network = nn.Sequential(layers())
        network.load_state_dict(read_state(path), assign=True)
        # On a CPU 1.35 times as fast as torch's usual order of bytes.
        return (
            network.to(memory_format=torch.channels_last) if self.device.type == "cpu" else network
        )

    def outputs(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the outputs of grey or RGB pictures."""
        assert isinstance(self.network, nn.Sequential)
        *layers, classifier = self.network
        x = (RESIZES[self.resize](x_BCHW, self.side) - 128) / 128
        for layer in layers:
            x = layer(x)
        features_BF = x.flatten(1)
        assert isinstance(classifier, nn.Linear)
        return {
            "features": features_BF,
            "logits_unbiased": functional.linear(features_BF, classifier.weight),
        }


def layers() -> OrderedDict[str, nn.Module]:
    """Return the layers in their order, by the names of the published file."""
    from torch_fidelity import feature_extractor_inceptionv3 as parts

    return OrderedDict(
        Conv2d_1a_3x3=parts.BasicConv2d(3, 32, kernel_size=3, stride=2),
        Conv2d_2a_3x3=parts.BasicConv2d(32, 32, kernel_size=3),
        Conv2d_2b_3x3=parts.BasicConv2d(32, 64, kernel_size=3, padding=1),
        MaxPool_1=nn.MaxPool2d(kernel_size=3, stride=2),
        Conv2d_3b_1x1=parts.BasicConv2d(64, 80, kernel_size=1),
        Conv2d_4a_3x3=parts.BasicConv2d(80, 192, kernel_size=3),
        MaxPool_2=nn.MaxPool2d(kernel_size=3, stride=2),
        Mixed_5b=parts.InceptionA(192, pool_features=32),
        Mixed_5c=parts.InceptionA(256, pool_features=64),
        Mixed_5d=parts.InceptionA(288, pool_features=64),
        Mixed_6a=parts.InceptionB(288),
        Mixed_6b=parts.InceptionC(768, channels_7x7=128),
        Mixed_6c=parts.InceptionC(768, channels_7x7=160),
        Mixed_6d=parts.InceptionC(768, channels_7x7=160),
        Mixed_6e=parts.InceptionC(768, channels_7x7=192),
        Mixed_7a=parts.InceptionD(768),
        Mixed_7b=parts.InceptionE_1(1280),
        Mixed_7c=parts.InceptionE_2(2048),
        AvgPool=nn.AdaptiveAvgPool2d(output_size=(1, 1)),
        fc=nn.Linear(2048, 1008),
    )
