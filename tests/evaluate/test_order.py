"""frechet_lite0 of real faces and of ever worse ones, as docs/evaluation.md orders them."""

import json
from pathlib import Path

import pytest

from agehpc import cli
from tests.evaluate.sets import blurred, noisy, opened, save, write_faces
from tests.train.runs import train_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COUNT = 800


@pytest.fixture(scope="module")
def sets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, others, and worse versions of the others."""
    root = tmp_path_factory.mktemp("sets")
    write_faces(shared_data, root / "real", 0, COUNT)
    write_faces(shared_data, root / "held back", COUNT, COUNT)
    write_faces(shared_data, root / "one class", 0, COUNT, under="/smile/")
    others = opened(root / "held back")
    save(root / "blurred", blurred(others, 1))
    save(root / "repeated", others[:25] * (COUNT // 25))
    save(root / "noisy", noisy(others, 20))
    return root


@pytest.fixture(scope="module")
def untrained(sets: Path) -> Path:
    """A run of one step."""
    packed = ["data", "pack", str(sets / "real"), str(sets / "shards"), "--size", "64"]
    assert cli.main([*packed, "--labels", "none"]) == 0
    words = ["image_age_64", "--data.shards", str(sets / "shards"), "--out", str(sets / "run")]
    words += ["--train.global-batch", "16", "--train.kimg", "0.016", "--cluster.threads", "1"]
    code, _, errors = train_in_fork(words, sets / "log", timeout=600)
    assert code == 0, errors
    return sets / "run"


def test_worse_is_farther(sets: Path, untrained: Path, capsys: pytest.CaptureFixture[str]):
    def distance(*words: str) -> float:
        capsys.readouterr()
        given = ["--real", str(sets / "real"), "--cache", str(sets / "cache"), "--json"]
        assert cli.main(["evaluate", *words, *given]) == 0
        return json.loads(capsys.readouterr().out)[0]["value"]

    names = ("held back", "one class", "blurred", "repeated", "noisy")
    found = {name: distance("--fake", str(sets / name)) for name in names}
    found["untrained"] = distance(str(untrained), "--n-fake", str(COUNT))
    print(found)
    values = list(found.values())
    assert all(1.1 * values[i] < values[i + 1] for i in range(len(values) - 1)), found
    assert values[0] < 0.8 * values[1]
