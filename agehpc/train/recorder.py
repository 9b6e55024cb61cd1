"""What rank 0 writes down during a run: metrics, evaluations, pictures."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from agehpc.config.schema import Config
from agehpc.data.quarantine import Fault
from agehpc.data.shards import first_fault
from agehpc.errors import RunError
from agehpc.observe import metrics
from agehpc.observe.metrics import MetricsLog, Row
from agehpc.observe.throughput import Rates
from agehpc.train.progress import Progress

if TYPE_CHECKING:  # it takes a second to import
    from agehpc.observe.tensorboard import TensorBoard

WALL_CLOCK = frozenset(
    {"time", "wall_s", "samples_per_s", "s_per_kimg", "wait_share", "tick_s", "sample_s", "save_s"}
    | {"work_s", "work_median_s", "slowest_rank"}
    | {"memory_gib", "decode_ms", "decode_per_s", "retries"}
    | {"shard_hits", "shard_misses", "fetched_mb", "fetch_retries"}
)
"""Columns of metrics.jsonl and evaluations.jsonl that differ between equal runs."""

QUARANTINE = "quarantine.jsonl"


def known_faults(run: Path) -> list[Fault]:
    """Return the samples that earlier starts of a run could not use; RunError for a bad file."""
    path = run / QUARANTINE
    try:
        return [Fault.model_validate(row) for row in metrics.read(path)] if path.exists() else []
    except ValidationError as error:
        raise RunError(
            f"{path} holds a row that is no record of a sample ({first_fault(error)}); delete the "
            "file: damaged samples are then found anew"
        ) from None


class Recorder:
    """The files of a run that grow; cut back to the step that a start goes on from.

    Args:
        run: the run directory.
        config: the run's.
        step: optimizer steps done in the checkpoint that is resumed from; 0 for a new run.
    """

    def __init__(self, run: Path, config: Config, step: int) -> None:
        self.run = run
        self._shows = config.observe.tensorboard
        self._board: TensorBoard | None = None
        self._metrics = MetricsLog(run / "metrics.jsonl")
        self._evaluations = MetricsLog(run / "evaluations.jsonl")
        self.cut_back(step)
        # Never cut back: what was found after a checkpoint is skipped at once the second time.
        self._quarantine = MetricsLog(run / QUARANTINE)
        self._started = time.monotonic()
        (run / "samples").mkdir(exist_ok=True)
        for left in (run / "samples").glob(".*.partial*"):  # by a process killed while it wrote
            left.unlink()

    def cut_back(self, step: int) -> None:
        """Forget what is known of later steps."""
        for log in (self._metrics, self._evaluations):
            log.cut_back(step)
        if self._board is not None:
            self._board.close()
        if self._shows:
            from agehpc.observe.tensorboard import TensorBoard

            self._board = TensorBoard(self.run / "tensorboard", step or None)

    def forget_evaluations(self, step: int) -> None:
        """Forget the figures of a step, which are measured again."""
        self._evaluations.cut_back(step - 1)

    def metrics(
        self,
        progress: Progress,
        means: Mapping[str, float],
        rates: Rates,
        data: Mapping[str, float],
        device: torch.device,
    ) -> None:
        """Append a tick; `data` holds the figures of decoding."""
        row = {
            "kimg": progress.kimg,
            "step": progress.step,
            **means,
            **rates.row(),
            **data,
            "memory_gib": peak_memory_gib(device),
        }
        self._metrics.append(row | self._clock())
        if self._board is not None:
            self._board.scalars(progress.step, {k: v for k, v in row.items() if k != "step"})

    def quarantine(self, faults: Iterable[Fault]) -> None:
        """Append samples that cannot be used, and force them to the disk."""
        for fault in faults:
            self._quarantine.append(fault.model_dump())
        self._quarantine.sync()

    def evaluation(
        self,
        progress: Progress,
        metric: str,
        value: float,
        count: int,
        split: str,
        more: Mapping[str, Any],
    ) -> None:
        """Append a figure measured on a split, with further columns."""
        row = {
            "kimg": progress.kimg,
            "step": progress.step,
            "metric": metric,
            "value": value,
            "samples": count,
            "split": split,
            **more,
        }
        self._evaluations.append(row | self._clock())
        if self._board is not None:
            self._board.scalars(progress.step, {f"{split}/{metric}": value})

    def evaluations(self) -> list[Row]:
        """The figures measured so far."""
        return metrics.read(self.run / "evaluations.jsonl")

    def sample_stem(self, progress: Progress) -> Path:
        """Path of a step's sample grid, without its suffix."""
        return self.run / "samples" / f"step-{progress.step:08d}-grid"

    def pictures(self, progress: Progress, paths: list[Path]) -> None:
        """Show the PNG among the paths in TensorBoard."""
        if self._board is None:
            return
        import numpy as np
        from PIL import Image

        for path in paths:
            if path.suffix == ".png":
                with Image.open(path) as image:
                    self._board.picture(progress.step, "grid", np.asarray(image.convert("RGB")))

    def sync(self) -> None:
        """Force what was written to the disk, before a checkpoint that counts on it."""
        self._metrics.sync()
        self._evaluations.sync()

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._evaluations.close()
        self._quarantine.close()
        if self._board is not None:
            self._board.close()

    def _clock(self) -> dict[str, float]:
        return {"time": time.time(), "wall_s": time.monotonic() - self._started}


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process: CUDA's allocator on a GPU, resident size on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
