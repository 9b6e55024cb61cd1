"""What metrics are, and which figures compare."""

import pytest

from agehpc.config.metrics import OF_SETS, direction
from agehpc.evaluate.protocols import (
    PROTOCOLS,
    IncomparableError,
    digest,
    figures,
    fingerprint,
    refuse_unlike,
)

EXTRACTOR = {"extractor": "inception", "weights": "6726", "resize": "legacy_tensorflow"}
REAL = {"dataset": "abc", "split": "train"}


def of(metric: str = "fid", n_fake: int = 50, **real: str) -> dict[str, object]:
    return fingerprint(metric, 0, EXTRACTOR, REAL | real, {"n_real": 100, "n_fake": n_fake})


def test_configurations_know_the_metrics_and_which_values_are_better():
    assert set(OF_SETS) == set(PROTOCOLS)
    higher = {"precision", "recall", "density", "coverage"}
    for metric in PROTOCOLS:
        for name in figures(metric):
            wanted = any(part in name.split("_") for part in higher) or metric.startswith(
                "inception_score"
            )
            assert direction(name) == ("higher" if wanted else "lower"), name


def test_figures_of_one_protocol_compare():
    refuse_unlike(of(), of(), ("a", "b"))
    assert digest(of()) == digest(of())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (of("fid_nvidia"), "metric fid and fid_nvidia; ddof 1 and 0"),
        (of(n_fake=49), "n_fake 50 and 49"),
        (of(split="validation"), "split train and validation"),
        (of() | {"weights": "0000"}, "weights 6726 and 0000"),
    ],
)
def test_others_are_refused_with_what_differs(other: dict[str, object], told: str):
    assert digest(other) != digest(of())
    with pytest.raises(IncomparableError, match=f"figures of a and b do not compare: {told}; "):
        refuse_unlike(of(), other, ("a", "b"))
