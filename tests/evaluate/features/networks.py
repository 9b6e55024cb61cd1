"""Pictures, and random weights in the layout of the published files that tests cannot download."""

from pathlib import Path

import torch
from torch import nn

from agehpc.evaluate.features import inception


def scramble(network: nn.Module, seed: int) -> None:
    """Draw weights with which pictures keep their differences through all layers."""
    draws = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        with torch.no_grad():
            if tensor.ndim > 1:  # He et al. 2015
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=draws)
            elif name.endswith(("running_var", "bn.weight")):
                tensor.uniform_(0.8, 1.2, generator=draws)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1, generator=draws)


def save_inception(folder: Path, seed: int = 0) -> Path:
    """Return a file of Inception's layout, under pytorch-fid's name of it."""
    network = nn.Sequential(inception.layers())
    scramble(network, seed)
    path = folder / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return path


def save_vgg16(folder: Path, seed: int = 0) -> Path:
    """Return a file of VGG16's layout, in the older of torch's formats as the published one."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        network = vgg16()
    network.to_empty(device="cpu")
    scramble(network, seed)
    path = folder / "vgg16-397923af.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def pictures(*shape: int) -> torch.Tensor:
    """Pictures with structure at several scales, so that features differ."""
    draws = torch.Generator().manual_seed(1)
    coarse = torch.rand(*shape[:2], 4, 4, generator=draws) * 200
    x = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (x + torch.rand(*shape, generator=draws) * 55).to(torch.uint8)
