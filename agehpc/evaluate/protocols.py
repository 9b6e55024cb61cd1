"""What each metric is, to the last choice that changes its value, and when two figures compare.

Imports nothing heavy, so that help answers at once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agehpc.errors import AgehpcError, UsageError, hint

Statistic = Literal["frechet", "kid", "inception_score", "precision_recall", "prdc"]

Way = tuple[str, str | None]


class IncomparableError(AgehpcError):
    """Two figures of unlike protocols."""


EVERY_FRAME = 4
"""Every so many frames of a clip are its pictures: neighbours are alike."""


@dataclass(frozen=True)
class Clip:
    """Which frames of how many clips a metric takes, where it leaves none of that open.

    Of real clips that are long enough a window at a random place, the others do not count; of
    generated ones the first frames.
    """

    frames: int
    stride: int = 1
    samples: int = 2048
    """Generated clips of a trial. As many real ones: where there are fewer, a single trial has
    these, and several begin again with other windows."""
    trials: int = 1
    """The value is the mean over so many, each of clips of its own."""

    @property
    def length(self) -> int:
        """Frames that a real clip has at least."""
        return self.frames * self.stride

    @property
    def total(self) -> int:
        """Generated clips of all trials."""
        return self.samples * self.trials


@dataclass(frozen=True)
class Protocol:
    """A metric of sets of samples."""

    statistic: Statistic
    extractor: str
    takes: Literal["image", "frames", "video"] = "image"
    """Pictures, every EVERY_FRAME-th frame of clips, or clips."""
    output: str = "features"
    """Of the extractor."""
    resize: str | None = None
    """How samples come to the extractor's size; None for its usual way."""
    ddof: int | None = None
    """What the covariance is divided by: the number of samples less this."""
    k: int | None = None
    """Which nearest neighbour gives the radius."""
    form: Literal["moments", "rows"] = "rows"
    """What of the features has to be kept."""
    clip: Clip | None = None
    """What is taken of clips; None takes them as the source gives them."""

    @property
    def kind(self) -> Literal["image", "video"]:
        """Of the samples."""
        return "image" if self.takes == "image" else "video"

    @property
    def way(self) -> Way:
        """The extractor, and how samples come to its size."""
        return self.extractor, self.resize

    @property
    def paired(self) -> bool:
        """Whether generated samples are compared with real ones."""
        return self.statistic != "inception_score"


_OF_IMAGES: Mapping[str, Protocol] = {
    # Heusel et al. 2017, by the convention of pytorch-fid and torch-fidelity (numpy's covariance).
    "fid": Protocol("frechet", "inception", ddof=1, form="moments", resize="legacy_tensorflow"),
    # That of NVIDIA's StyleGAN repositories, who divide by N.
    "fid_nvidia": Protocol(
        "frechet", "inception", ddof=0, form="moments", resize="legacy_tensorflow"
    ),
    # Parmar et al. 2022: resized as signal processing wants it.
    "fid_clean": Protocol("frechet", "inception", ddof=1, form="moments", resize="clean"),
    # Binkowski et al. 2018.
    "kid": Protocol("kid", "inception", resize="legacy_tensorflow"),
    # Salimans et al. 2016.
    "inception_score": Protocol(
        "inception_score", "inception", output="logits_unbiased", resize="legacy_tensorflow"
    ),
    # Kynkaanniemi et al. 2019.
    "precision_recall": Protocol("precision_recall", "vgg16", k=3),
    # Naeem et al. 2020, on Inception's features.
    "prdc": Protocol("prdc", "inception", k=5, resize="legacy_tensorflow"),
    # Features that a package holds: figures where nothing can be downloaded.
    "frechet_lite0": Protocol("frechet", "lite0", ddof=1, form="moments"),
    "kid_lite0": Protocol("kid", "lite0"),
    "precision_recall_lite0": Protocol("precision_recall", "lite0", k=3),
    "prdc_lite0": Protocol("prdc", "lite0", k=5),
}
_FVD = Protocol("frechet", "i3d", takes="video", ddof=0, form="moments")
PROTOCOLS: Mapping[str, Protocol] = {
    **_OF_IMAGES,
    **{f"{name}_frames": replace(p, takes="frames") for name, p in _OF_IMAGES.items()},
    # Unterthiner et al. 2018, as StyleGAN-V computes it, of the clips as they are.
    "fvd": _FVD,
    # Skorokhodov et al. 2022 (StyleGAN-V), under the names of its code.
    "fvd2048_16f": replace(_FVD, clip=Clip(16)),
    "fvd2048_128f": replace(_FVD, clip=Clip(128)),
    "fvd2048_128f_subsample8f": replace(_FVD, clip=Clip(16, stride=8)),
    # Yu et al. 2022 (DIGAN): numpy's covariance, mean of ten trials.
    "fvd_digan": replace(_FVD, ddof=1, form="rows", clip=Clip(16, trials=10)),
    # The figures of images by I3D; its features are the logits of the 400 actions.
    "inception_score_i3d": Protocol("inception_score", "i3d", takes="video"),
    "kid_i3d": Protocol("kid", "i3d", takes="video"),
    "precision_recall_i3d": Protocol("precision_recall", "i3d", takes="video", k=3),
    "prdc_i3d": Protocol("prdc", "i3d", takes="video", k=5),
}
"""Metrics of sets of samples by name."""
USUAL = {"image": "frechet_lite0", "video": "frechet_lite0_frames"}
"""Kind of samples -> the metric where none is asked for."""
OF_MODEL: Mapping[str, tuple[str, ...]] = {
    "psnr_db": ("encode", "generate"),
    "ssim": ("encode", "generate"),
    "ms_ssim": ("encode", "generate"),
    "lpips": ("encode", "generate"),
    "latent_mse": ("encode", "generate"),
    "prior_match": ("encode",),
}
"""Metrics of a run's reconstructions and latents, and what its system must be able to."""
PRIOR = tuple(f"prior_{name}" for name in ("mmd", "mmd_draws", "ks", "ks_p", "ks_rejected"))
PARTS = {
    "precision_recall": ("precision", "recall"),
    "prdc": ("prdc_precision", "prdc_recall", "prdc_density", "prdc_coverage"),
}
"""Values of statistics that give several."""


def check_names(metrics: Iterable[str]) -> None:
    """Raise UsageError for a metric that there is not."""
    known = [*PROTOCOLS, *OF_MODEL]
    for metric in metrics:
        if metric not in known:
            raise UsageError(f"--metrics {metric}: no such metric; {hint(metric, known)}")


def figures(metric: str) -> tuple[str, ...]:
    """Return the names of the values that a metric gives: precision and recall are one metric."""
    if metric in OF_MODEL:
        return PRIOR if metric == "prior_match" else (f"rebuilt_{metric}",)
    statistic = PROTOCOLS[metric].statistic
    if statistic not in PARTS:
        return (metric,)
    suffix = metric.removeprefix(statistic)
    return tuple(f"{name}{suffix}" for name in PARTS[statistic])


def described(metric: str) -> str:
    """Return in a line what a metric of sets is taken of."""
    protocol = PROTOCOLS[metric]
    clip = protocol.clip
    of = {"image": "images", "frames": f"every {EVERY_FRAME}th frame of clips", "video": "clips"}
    told = f"{protocol.statistic} of {protocol.extractor} {protocol.output} of "
    if clip is None:
        return told + of[protocol.takes]
    stride = "" if clip.stride == 1 else f" at stride {clip.stride}"
    trials = "" if clip.trials == 1 else f", mean of {clip.trials} trials"
    return f"{told}{clip.samples} clips of {clip.frames} frames{stride}{trials}"


def fingerprint(
    metric: str, frames: int, extractor: Mapping[str, Any], real: Mapping[str, Any], counts: Any
) -> dict[str, Any]:
    """Return all that has to agree between two figures for them to be compared.

    Args:
        metric: its name.
        frames: every so many frames of a clip are compared; 0 where clips are taken whole.
        extractor: its fingerprint.
        real: the identity of what is compared with.
        counts: numbers of real and of generated samples.
    """
    own = {name: value for name, value in asdict(PROTOCOLS[metric]).items() if value is not None}
    own = {name: own[name] for name in own if name not in ("form", "takes", "extractor", "resize")}
    return {"metric": metric, **own, "every_frame": frames, **extractor, **real, **counts}


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return a short name of a fingerprint."""
    text = json.dumps(fingerprint, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_unlike(
    mine: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]
) -> None:
    """Raise IncomparableError unless two fingerprints agree, telling each difference."""
    odd = [key for key in {**mine, **other} if mine.get(key) != other.get(key)]
    if odd:
        told = "; ".join(f"{key} {mine.get(key)} and {other.get(key)}" for key in odd)
        raise IncomparableError(
            f"figures of {names[0]} and {names[1]} do not compare: {told}; evaluate both alike"
        )
