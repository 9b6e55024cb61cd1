"""How long a run trains, in which batches, and what it keeps."""

from typing import Literal

from agehpc.config.section import Count, Positive, Section


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
    keep_last: Count = 2
    """Checkpoints kept."""
