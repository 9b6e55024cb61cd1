"""Taking a command line apart into what is the job's and what is the training's."""

import pytest

from agehpc.errors import UsageError
from agehpc.launch.flags import parse


def test_flags_go_where_they_belong():
    words = "--nodes 2 --train.kimg 3 --time=1:00 --data.shards a b --out r --prepare"
    launch = parse(["image_age_64", *words.split()])
    assert launch.recipe == "image_age_64"
    assert launch.train == [["--train.kimg", "3"], ["--data.shards", "a", "b"], ["--out", "r"]]
    assert (launch.flags.nodes, launch.flags.time, launch.flags.prepare) == (2, "1:00", True)
    assert (launch.out, launch.config) == ("r", None)


def test_the_last_of_two_counts():
    words = ["--config", "a", "--config", "b", "--out", "r", "--out=s", "--nodes", "1", "--nodes=3"]
    with pytest.raises(UsageError, match="b"):  # it is read, and is not there
        parse(["image_age_64", *words])
    launch = parse(["image_age_64", *words[4:]])
    assert (launch.out, launch.flags.nodes) == ("s", 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "name a recipe first"),
        ("image_age_65 --out r", "did you mean image_age_64|image_age_64"),
        ("image_age_64", "--out is not set"),
        ("image_age_64 stray --out r", "unexpected word 'stray'"),
        ("image_age_64 --out r --node 2", "--nodes|unknown flag --node"),
        ("image_age_64 --out r --nodes 0", "nodes"),
        ("image_age_64 --out r --train.kimg -1", "kimg"),
        ("image_age_64 --out r --environment docker", "docker"),
    ],
)
def test_what_is_wrong_is_told(words: str, told: str):
    with pytest.raises(UsageError, match=told):
        parse(words.split())


def test_an_option_of_sbatch_is_one_line():
    with pytest.raises(UsageError):
        parse(["image_age_64", "--out", "r", "--partition", "a\n#SBATCH --wrap"])
