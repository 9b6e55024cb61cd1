"""Objectives: figures that runs of a recipe give."""

import pytest

from agehpc.config.load import resolve
from agehpc.errors import UsageError
from agehpc_tune.objectives import Objective, measured, objectives


def base(recipe: str = "image_age_demo", **flags: str):
    given = {key.replace("__", "."): tuple(words.split()) for key, words in flags.items()}
    return resolve(recipe, flags=given)[0]


def test_which_way_is_better():
    config = base(evaluate__metrics="frechet_lite0 prdc_lite0")
    names = ["reconstruction_psnr_db", "frechet_lite0", "prdc_coverage_lite0", "samples_per_s"]
    found = objectives([*names, "memory_gib"], config)
    assert [one.name for one in found] == [*names, "memory_gib"]
    assert [one.mode for one in found] == ["max", "min", "max", "max", "min"]


def test_default_is_the_figure_that_the_recipe_wants():
    assert objectives([], base()) == [Objective("reconstruction_psnr_db", "max")]
    metrics = base(evaluate__metrics="frechet_lite0")
    assert objectives([], metrics) == [Objective("frechet_lite0", "min")]
    best = base(evaluate__metrics="frechet_lite0", evaluate__best="reconstruction_psnr_db")
    assert objectives([], best) == [Objective("reconstruction_psnr_db", "max")]
    with pytest.raises(UsageError, match=r"name an --objective.*--evaluate.metrics"):
        objectives([], base("dcgan_64", train__guard__diversity="none"))


@pytest.mark.parametrize(
    ("name", "recipe", "flags", "told"),
    [
        ("fid", "image_age_demo", {}, "add --evaluate.metrics fid"),
        ("recall_lite0", "image_age_demo", {}, "add --evaluate.metrics precision_recall_lite0"),
        ("reconstruction_psnr", "image_age_demo", {}, "did you mean reconstruction_psnr_db?"),
        ("reconstruction_psnr_db", "dcgan_64", {}, "no evaluation of these runs gives it"),
        ("bound_nats", "image_age_demo", {}, "reconstruction_psnr_db, diversity"),
        (
            "reconstruction_psnr_db",
            "image_age_demo",
            {"evaluate__samples": "0"},
            "--evaluate.samples 0 switches evaluations off",
        ),
    ],
)
def test_what_no_evaluation_gives(name: str, recipe: str, flags: dict[str, str], told: str):
    with pytest.raises(UsageError) as error:
        objectives([name], base(recipe, **flags))
    assert told in str(error.value)
    assert error.value.exit_code == 2


def test_twice():
    with pytest.raises(UsageError, match="given twice"):
        objectives(["diversity", "diversity"], base())


def test_measured_figures_follow_the_settings():
    assert measured(base()) == ("reconstruction_psnr_db", "diversity")
    assert measured(base(evaluate__samples="0")) == ()
    assert measured(base(train__guard__diversity="none")) == ("reconstruction_psnr_db",)
    assert measured(base("mnist_vae"))[:3] == ("reconstruction_psnr_db", "mse", "bound_nats")
