"""One safetensors file that is a model: averaged weights, and the configuration in its header.

`ema.safetensors` of every checkpoint is one; `agehpc.load` reads it. Loading it runs no code.
"""

import json
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from agehpc import __version__
from agehpc.config.schema import Config
from agehpc.config.tree import explain
from agehpc.errors import RunError

FORMAT = "agehpc-model/1"


def about(config: Config, step: int, kimg: float) -> dict[str, str]:
    """The header of a model file: texts by name."""
    return {
        "format": FORMAT,
        "agehpc": __version__,
        "step": str(step),
        "kimg": f"{kimg:g}",
        "config": json.dumps(config.model_dump(mode="json")),
    }


def read(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """The configuration and the tensors, on the CPU, of a model file.

    Raises:
        RunError: no safetensors file, one that is damaged, or one without a configuration.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is no safetensors file, or is damaged ({error})") from None
    if told.get("format") != FORMAT:
        raise RunError(
            f"{path} has no configuration in its header (format {told.get('format')!r}, wanted "
            f"{FORMAT!r}); `agehpc checkpoint export RUN` makes a file that has"
        )
    try:
        return Config.model_validate(json.loads(told["config"])), tensors
    except (KeyError, ValueError) as error:
        why = explain(error) if isinstance(error, ValidationError) else str(error)
        raise RunError(
            f"{path} does not describe a model of this version ({__version__}): {why}"
        ) from None
