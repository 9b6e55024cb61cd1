"""Recipes: their names, and what demos and cluster recipes have to be."""

import pytest

from agehpc.recipes import RECIPES, summary


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_knows_its_name_kind_and_command(name):
    config = RECIPES[name]()
    assert config.run.recipe == name
    assert config.data.kind == name.partition("_")[0]
    assert config.system.name == name.split("_")[1]
    assert summary(name).endswith(".")
    document = RECIPES[name].__doc__ or ""
    assert f"train {name} --data.shards" in " ".join(document.replace("\\", " ").split()) or (
        f"sbatch --nodes=4 slurm/train_{config.data.kind}.sh {name} " in document
    )


@pytest.mark.parametrize("name", ["video_age_demo", "image_age_demo"])
def test_demos_are_two_sharded_cpu_ranks(name):
    config = RECIPES[name]()
    assert {player.zero.stage for player in config.players.values()} == {2}
    assert config.cluster.device == "cpu"
    assert config.train.global_batch % 2 == 0


@pytest.mark.parametrize("name", ["video_age_a100_4n", "image_age_a100_4n"])
def test_cluster_recipes_divide_over_sixteen_ranks(name):
    config = RECIPES[name]()
    assert config.train.global_batch % 16 == 0
    assert config.train.precision == "bf16"
    assert config.model.generator.norm == "sync_batch"
    assert config.players["autoencoder"].zero.stage == 2
