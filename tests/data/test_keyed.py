import numpy as np

from agehpc.data.keyed import philox


def test_equal_arguments_give_equal_numbers():
    first = philox(3, "noise", 17).standard_normal(100)
    np.testing.assert_array_equal(first, philox(3, "noise", 17).standard_normal(100))


def test_numbers_never_change():
    """Runs resume and compare across versions: the stream is part of the format."""
    drawn = philox(0, "clip", 5).integers(0, 1_000_000, 4).tolist()
    assert drawn == GOLDEN


GOLDEN: list[int] = [352734, 328557, 999811, 843882]


def test_every_argument_gives_another_stream():
    streams = [
        philox(seed, purpose, position).integers(0, 2**63, 4).tolist()
        for seed in (0, 1)
        for purpose in ("clip", "flip")
        for position in (0, 1, 2**32, 2**63)
    ]
    assert len({tuple(stream) for stream in streams}) == len(streams)


def test_long_streams_of_neighbouring_positions_do_not_overlap():
    one = philox(0, "noise", 0).integers(0, 2**63, 50_000)
    two = philox(0, "noise", 1).integers(0, 2**63, 50_000)
    assert not np.intersect1d(one, two).size
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
