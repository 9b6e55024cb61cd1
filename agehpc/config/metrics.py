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
    "fvd2048_16f": "lower",
    "fvd2048_128f": "lower",
    "fvd2048_128f_subsample8f": "lower",
    "fvd_digan": "lower",
    "lpips": "lower",
    "mse": "lower",
    "bound_nats": "lower",
    "mmd": "lower",
}

_OF_IMAGES = (
    *("fid", "fid_nvidia", "fid_clean", "kid", "inception_score", "precision_recall", "prdc"),
    *("frechet_lite0", "kid_lite0", "precision_recall_lite0", "prdc_lite0"),
)
OF_SETS = (
    *_OF_IMAGES,
    *(f"{name}_frames" for name in _OF_IMAGES),
    *("fvd", "fvd2048_16f", "fvd2048_128f", "fvd2048_128f_subsample8f", "fvd_digan"),
    *("inception_score_i3d", "kid_i3d", "precision_recall_i3d", "prdc_i3d"),
)
"""Metrics of sets of samples; evaluate/protocols.py says what they are."""


def direction(metric: str) -> Direction:
    """Which values of a metric are better; ValueError, naming those known, for another.

    A name ends with what it measures, and then which features of what: `reconstruction_psnr_db`
    is a `psnr_db`, `prdc_coverage_lite0_frames` a `coverage`.
    """
    whole = metric.removesuffix("_frames")
    plain = whole.removesuffix("_lite0").removesuffix("_i3d")
    for name, better in _DIRECTIONS.items():
        if name in (whole, plain) or plain.endswith(f"_{name}"):
            return better
    raise ValueError(
        f"--evaluate.best {metric} is no metric whose better values are known; use one of "
        f"{', '.join(_DIRECTIONS)}, or such a name behind what it is measured on, as "
        "reconstruction_psnr_db"
    )
