"""Statistics over ranks that hold unequally many samples, or none, against one process."""

from typing import Any

import pytest

from tests.kernels.fused_bodies import Numbers, of_share
from tests.ranks import run_ranks

FORMS = [[o, s] for o in ("norm_first", "activation_first") for s in ("input", "output")]


SPLITS = [[5, 1], [6, 0]]


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    """What each of two ranks found."""
    return run_ranks(2, "tests.kernels.fused_bodies:everything", FORMS, SPLITS, timeout=300)


@pytest.mark.parametrize("which", range(len(SPLITS)), ids=[str(split) for split in SPLITS])
def test_two_ranks_equal_one_process(two: list[dict[str, Any]], which: int):
    compare([rank["derivatives"][which] for rank in two], SPLITS[which])


def test_three_ranks_equal_one_process():
    split = [3, 0, 4]
    compare(run_ranks(3, "tests.kernels.fused_bodies:derivatives", FORMS, split), split)


def compare(ranks: list[list[Numbers]], split: list[int]) -> None:
    """65 channels (not a power of two) around 10,000; running statistics to 1e-12."""
    for i, (order, save) in enumerate(FORMS):
        alone = of_share(order, save, split, None)
        found = [rank[i] for rank in ranks]
        for name in ("mean", "var"):
            for rank in found:
                assert rank[name] == pytest.approx(alone[name], rel=1e-12, abs=1e-12), name
        for name in ("y", "g", "x.grad"):  # one after the other: ranks hold rows of the batch
            whole = [value for rank in found for value in rank[name]]
            assert whole == close(alone[name]), (order, save, name)
        for name in ("weight.grad", "bias.grad"):
            total = [sum(parts) for parts in zip(*(rank[name] for rank in found), strict=True)]
            assert total == close(alone[name]), (order, save, name)


def close(wanted: list[float]) -> Any:
    # A mean of 1e4 leaves 1e-12 of a deviation of 2, which derivatives multiply.
    return pytest.approx(wanted, rel=1e-8, abs=1e-9 * max(map(abs, wanted)))


def test_first_and_second_derivatives(two: list[dict[str, Any]]):
    assert all(rank["checks"] for rank in two)


def test_one_collective_forward_and_one_backward(two: list[dict[str, Any]]):
    for rank in two:
        for case in ("collectives", "collectives, one empty"):
            assert rank[case] == [["all_gather_single"], ["all_reduce"]]


def test_a_batch_without_samples_leaves_statistics_alone(two: list[dict[str, Any]]):
    for rank in two:
        assert rank["empty"] == [[0, 0], [1, 1], [0, 0]]


def test_one_value_a_rank_is_enough_for_several_ranks(two: list[dict[str, Any]]):
    assert [rank["one value"] for rank in two] == [[-1], [1]]


def test_evaluation_needs_no_other_rank(two: list[dict[str, Any]]):
    assert all(rank["evaluation"] for rank in two)


def test_torch_sync_batch_norm_refuses_the_cpu(two: list[dict[str, Any]]):
    for rank in two:
        theirs, ours = rank["cpu"]
        assert "GPU" in theirs
        assert ours == "cpu"


def test_torch_sync_batch_norm_lacks_a_second_derivative(two: list[dict[str, Any]]):
    """pytorch#61222: derivative of batch_norm_backward_elemt. Here on every rank."""
    for rank in two:
        assert any(rank["derivatives"][0][0]["x.grad"])
