"""How pictures come to the size of a network: the choice moves FID by more than most models do.

Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation" (2022). Every
function takes uint8 [B, C, H, W] with 1 or 3 channels and returns float32 [B, 3, side, side] in
0..255, not rounded; a grey channel is repeated.
"""

from torch import Tensor
from torch.nn import functional


def clean(x_BCHW: Tensor, side: int) -> Tensor:
    """Resize as clean-fid's mode `clean`: PIL's bicubic of float pictures, antialiased, clipped.

    Torch's antialiased bicubic is PIL's (a = -0.5). PIL sums in float64, and float32 would be off
    by up to 1e-2 of 255.
    """
    x = functional.interpolate(
        x_BCHW.double(), size=(side, side), mode="bicubic", antialias=True
    ).clamp(0, 255)
    return _rgb(x.float())


def legacy_pytorch(x_BCHW: Tensor, side: int) -> Tensor:
    """Resize as pytorch-fid: bilinear, align_corners=False, without antialiasing."""
    return _rgb(
        functional.interpolate(
            x_BCHW.float(), size=(side, side), mode="bilinear", align_corners=False
        )
    )


def legacy_tensorflow(x_BCHW: Tensor, side: int) -> Tensor:
    """Resize as TensorFlow 1 and torch-fidelity: bilinear, aligned at the top left corner."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    return _rgb(
        interpolate_bilinear_2d_like_tensorflow1x(
            x_BCHW.float(), size=(side, side), align_corners=False
        )
    )


def _rgb(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.expand(-1, 3, -1, -1)


RESIZES = {
    "legacy_tensorflow": legacy_tensorflow,
    "clean": clean,
    "legacy_pytorch": legacy_pytorch,
}
"""Name, as in clean-fid -> function."""
