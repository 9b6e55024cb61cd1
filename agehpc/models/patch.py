"""PatchGAN: a discriminator that judges overlapping patches (Isola et al. 2017).

Shapes: B batch, C channels, S (H, W) or (T, H, W), M the map of
logits, with as many dimensions.
"""

from torch import Tensor, nn

from agehpc.config.networks import PatchConfig
from agehpc.errors import ConfigError
from agehpc.models.blocks import BANKS, convolution, initialise, normalise_spectrally
from agehpc.models.geometry import Geometry
from agehpc.models.heads import Projection
from agehpc_kernels import NormLeakyReLU


class PatchDiscriminator(nn.Module):
    """D: sample [B, C, S] to logits [B, M], and the features before them.

    4 x 4 convolutions C64-C128-C256 at stride 2, C512 and the logits at stride 1, for width 64
    and 3 layers: every logit sees 70 x 70 pixels. Time is halved with space while two frames are
    left and keeps its length in the last two layers.

    Args:
        net: its settings.
        geo: shape of what it sees.
        classes: number of classes it is conditioned on.

    Raises:
        ConfigError: nothing is left of the sample after that many layers.
    """

    def __init__(self, net: PatchConfig, geo: Geometry, *, classes: int | None = None) -> None:
        super().__init__()
        size = geo.shapes[0][-1]
        if size // 2**net.layers < 3:
            raise ConfigError(
                f"--model.discriminator.layers {net.layers} leaves less than 3 of {size} pixels; "
                f"use {(size // 3).bit_length() - 1} or fewer, or a larger --data.size"
            )
        widths = [net.width * min(2**i, 8) for i in range(net.layers + 1)]
        inputs = [geo.channels, *widths]
        frames = geo.shapes[0][0] if geo.ndim == 3 else None
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            last = i == net.layers
            norm = "none" if i == 0 else net.norm
            kernel, stride = (4, 4), ((1, 1) if last else (2, 2))
            if frames is not None:
                halved = not last and frames % 2 == 0
                frames = frames // 2 if halved else frames
                kernel, stride = (4 if halved else 3, *kernel), (2 if halved else 1, *stride)
            self.convs.append(
                convolution(inputs[i], width, kernel=kernel, stride=stride, bias=norm == "none")
            )
            self.norms.append(NormLeakyReLU(norm, width, slope=net.slope, banks=BANKS))
        kernel = (4, 4) if frames is None else (3, 4, 4)
        ones = (1,) * geo.ndim
        self.head = convolution(widths[-1], 1, kernel=kernel, stride=ones, bias=True)
        self.projection = None if classes is None else Projection(classes, widths[-1])
        initialise(self)
        if net.spectral:
            normalise_spectrally(self)

    def forward(
        self, x_BCS: Tensor, bank: int, labels_B: Tensor | None = None, z_BZ: None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, M], larger for more real, and features [B, C', M']."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BCS = norm(conv(x_BCS), bank)
        logits_BM = self.head(x_BCS).squeeze(1)
        if self.projection is not None:
            # Of the mean: a sum would grow with the map, while each logit judges one patch.
            of_class_B = self.projection(x_BCS.flatten(2).mean(2), labels_B)
            logits_BM = logits_BM + of_class_B.view(-1, *(1,) * (logits_BM.dim() - 1))
        return logits_BM, x_BCS
