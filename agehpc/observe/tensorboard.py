"""TensorBoard event files of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np


class TensorBoard:
    """Writes scalars and pictures; the horizontal axis is the optimizer step.

    `resumed_step` is the step of the checkpoint a run resumes from: TensorBoard hides what an
    earlier start wrote after it.
    """

    def __init__(self, directory: str | Path, resumed_step: int | None = None) -> None:
        # Imported here: TensorBoard takes a second, and a run may go without it.
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_step is None else resumed_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each named curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture_HWC: np.ndarray) -> None:
        """Add a uint8 picture, grey or RGB."""
        self._writer.add_image(name, picture_HWC, step, dataformats="HWC")

    def flush(self) -> None:
        """Hand everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
