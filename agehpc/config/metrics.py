"""Figures of evaluations.jsonl by which a best checkpoint can be chosen, and which way is better.

Imports nothing, so that flags are checked on login nodes.
"""

from typing import Literal

Direction = Literal["higher", "lower"]

_DIRECTIONS: dict[str, Direction] = {
    "psnr_db": "higher",
    "ssim": "higher",
    "inception_score": "higher",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "diversity": "higher",
    "frechet_lite0": "lower",
    "fid": "lower",
    "kid": "lower",
    "fvd": "lower",
    "lpips": "lower",
    "mse": "lower",
    "bound_nats": "lower",
    "mmd": "lower",
}


def direction(metric: str) -> Direction:
    """Which values of a metric are better; ValueError, naming those known, for another.

    A name ends with what it measures: `reconstruction_psnr_db` is a `psnr_db`.
    """
    for name, better in _DIRECTIONS.items():
        if metric == name or metric.endswith(f"_{name}"):
            return better
    raise ValueError(
        f"--evaluate.best {metric} is no metric whose better values are known; use one of "
        f"{', '.join(_DIRECTIONS)}, or such a name behind what it is measured on, as "
        "reconstruction_psnr_db"
    )
