"""The section `evaluate` of the configuration."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from agehpc.config.metrics import OF_SETS, direction
from agehpc.config.section import Count, NonNegative, Section
from agehpc.errors import hint


class EvaluateConfig(Section):
    """Figures of the model during training."""

    every_kimg: NonNegative = 0.0
    """Figures every this many kimg; 0 only at the end."""
    samples: Annotated[int, Field(ge=0)] = 256
    """Validation samples that reconstructions are measured on, at most; 0 switches all off."""
    metrics: tuple[str, ...] = ()
    """Metrics of generated samples against the training split, measured by all ranks:
    `agehpc evaluate --metrics list` prints them."""
    generated: Count = 1000
    """Samples generated for them, and real samples that they are compared with."""
    best: str | None = None
    """Figure of evaluations.jsonl, as reconstruction_psnr_db: the checkpoint of its best value is
    kept whatever its age, and commands take it with --checkpoint best."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            if metric not in OF_SETS:
                raise ValueError(
                    f"--evaluate.metrics {metric}: no such metric; {hint(metric, OF_SETS)}"
                )
        return metrics

    @model_validator(mode="after")
    def _best_is_measured(self) -> "EvaluateConfig":
        if self.best is not None:
            direction(self.best)
            if self.samples == 0:
                raise ValueError(
                    f"--evaluate.best {self.best} chooses by what evaluations give, and "
                    "--evaluate.samples 0 switches them off; raise it, or set --evaluate.best none"
                )
        return self
