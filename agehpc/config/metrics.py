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
    "fid_nvidia": "lower",
    "fid_clean": "lower",
    "kid": "lower",
    "fvd": "lower",
    "lpips": "lower",
    "mse": "lower",
    "bound_nats": "lower",
    "mmd": "lower",
}

OF_SETS = (
    *("fid", "fid_nvidia", "fid_clean", "kid", "inception_score", "precision_recall", "prdc"),
    *("frechet_lite0", "kid_lite0", "precision_recall_lite0", "prdc_lite0", "fvd"),
)
"""Metrics of sets of samples; evaluate/protocols.py says what they are."""


def direction(metric: str) -> Direction:
    """Which values of a metric are better; ValueError, naming those known, for another.

    A name ends with what it measures, and then which features: `reconstruction_psnr_db` is a
    `psnr_db`, `prdc_coverage_lite0` a `coverage`.
    """
    plain = metric.removesuffix("_lite0")
    for name, better in _DIRECTIONS.items():
        if name in (metric, plain) or plain.endswith(f"_{name}"):
            return better
    raise ValueError(
        f"--evaluate.best {metric} is no metric whose better values are known; use one of "
        f"{', '.join(_DIRECTIONS)}, or such a name behind what it is measured on, as "
        "reconstruction_psnr_db"
    )
