"""How long a run trains, in which batches, and what it keeps."""

from typing import Annotated, Literal

from pydantic import Field

from agehpc.config.section import Count, Positive, Section


class GuardConfig(Section):
    """When training has gone wrong, and what is done then; a figure that is not finite always has.

    With none a bound is switched off.
    """

    action: Literal["stop", "rollback"] = "stop"
    """stop ends the run with exit code 3; rollback goes on from the last good checkpoint, with
    lower learning rates and the samples that come next."""
    loss: Positive | None = 1e8
    """Largest absolute value of a loss, or another figure of the turns, averaged over a tick."""
    gradient: Positive | None = 1e6
    """Largest norm of a player's gradient in a tick, before clipping."""
    diversity: Positive | None = 0.02
    """Least mean distance between samples of the averaged model, as a share of that between real
    ones; counts once it was reached."""
    patience: Count = 3
    """Looks at samples (grids, evaluations) in a row below that diversity that are a collapse."""
    lr_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What a rollback multiplies every player's learning rate by."""
    rollbacks: Count = 3
    """Rollbacks of a run, at most; then it stops."""


class TrainConfig(Section):
    """Length, batches, precision and checkpoints."""

    kimg: Positive = 1000.0
    """Thousands of samples (clips for video) to train on."""
    max_minutes: Positive | None = None
    """Stop and save after this many minutes of training in this start; the run counts as done."""
    global_batch: Count = 64
    """Samples of one optimizer step, over all ranks and micro-batches."""
    micro_batch: Count | None = None
    """Samples of one forward on one rank; default global batch / world size."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the networks; weights and moments stay float32."""
    norm_kernel: Literal["auto", "fused", "reference"] = "auto"
    """BatchNorm + LeakyReLU by fused kernels where one takes a tensor, with an error where the
    device has none, or by torch's own functions."""
    save_every_kimg: Positive = 100.0
    """A checkpoint every this many kimg, and one at the end."""
    async_save: bool = True
    """Write checkpoints beside training, from a copy in rank 0's memory; false lets every rank wait
    for the disk."""
    staging: str | None = None
    """Folder of the node's own disk: a checkpoint is written there first, and copied to the run
    directory beside training."""
    keep_last: Count = 2
    """Checkpoints kept."""
    guard: GuardConfig = GuardConfig()
    """Against divergence and collapse."""
