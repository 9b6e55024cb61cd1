"""Generated images of the past (Shrivastava et al. 2017), the same on every rank.

Shapes: B batch, C channels, S (H, W), N images of the pool.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from agehpc.systems.base import Collectives


class Pool:
    """Remembers `size` images; a new one is returned, or put in an old one's place.

    The ranks' images enter in their global order, by draws that are keyed by sample: what is
    remembered does not depend on the world size.

    Args:
        size: images; 0 returns every image as it came.
        collectives: `gather` joins the ranks' images.
    """

    def __init__(self, size: int, collectives: Collectives) -> None:
        self.size, self.collectives = size, collectives
        self._images: Tensor | None = None
        self._filled = 0

    def draw(self, generators: list[np.random.Generator]) -> Tensor:
        """Two uniforms a sample [B, 2]: which image, and whether to exchange it."""
        return torch.from_numpy(np.stack([g.random(2, dtype=np.float32) for g in generators]))

    @torch.no_grad()
    def exchange(self, x_BCS: Tensor, uniforms_B2: Tensor) -> Tensor:
        """What the discriminator sees for new images, half of it older ones. Collective."""
        if self.size == 0:
            return x_BCS.detach()
        everything = self.collectives.gather(x_BCS)
        uniforms = self.collectives.gather(uniforms_B2)
        if self._images is None:
            self._images = everything.new_zeros(self.size, *everything.shape[1:])
        # A checkpoint's are on the CPU, and of the precision that the run had then.
        self._images = self._images.to(everything)
        shown = everything.clone()
        for i in range(len(everything)):
            if self._filled < self.size:
                self._images[self._filled] = everything[i]
                self._filled += 1
                continue
            # Tensors for an index, so that no step waits for the device.
            place = (uniforms[i, :1] * self.size).long().clamp_max(self.size - 1)
            old = self._images.index_select(0, place)[0]
            swap = uniforms[i, 1] < 0.5
            shown[i] = torch.where(swap, old, everything[i])
            self._images.index_copy_(0, place, torch.where(swap, everything[i], old)[None])
        own = self.collectives.rank() * len(x_BCS)
        return shown[own : own + len(x_BCS)]

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The images that are remembered."""
        if self._images is not None:
            yield "images", self._images[: self._filled].clone()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        images = state.get("images")
        if images is not None:
            self._filled = len(images)
            self._images = images.new_zeros(self.size, *images.shape[1:])
            self._images[: self._filled] = images
