"""What a run keeps of its configuration: exact round trips, and which run is the same."""

import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agehpc.config.load import load
from agehpc.config.run_files import is_same_run, read_run_config, write_run_config
from agehpc.config.schema import Config, Section, identity_hash
from agehpc.config.text import dump, read_yaml
from agehpc.config.tree import flatten, leaves, nest, optional_sections
from agehpc.errors import RunError
from agehpc.recipes import RECIPES


class NoFlags(Section):
    """No flags."""


def change(config: Config, key: str, value) -> Config:
    values = {name: leaf.value for name, leaf in leaves(config).items()}
    return Config.model_validate(nest(values | {key: value}))


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_of_every_recipe(tmp_path, name):
    config = RECIPES[name]()
    write_run_config(tmp_path, config)
    assert read_run_config(tmp_path) == config
    assert f"hash {identity_hash(config)}" in (tmp_path / "config.yaml").read_text()
    # A run's file is a file to start from, too.
    argv = [name, "--config", str(tmp_path / "config.yaml")]
    assert load(argv, prog="agehpc x", extra=NoFlags).config == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


finite = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(
    lr=finite,
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    shards=st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
    | st.sampled_from(
        ["1e-4", "010", "null", "yes", "1:30", "2024-01-01", "~", ".5", "a: b", "# x"]
    ),
    minutes=st.none() | finite,
)
def test_round_trip_of_any_value(tmp_path_factory, lr, betas, shards, minutes):
    config = RECIPES["video_age_64"]()
    config = change(config, "players.critics.optim.lr", lr)
    config = change(config, "players.critics.optim.betas", betas)
    config = change(config, "data.shards", shards)
    config = change(config, "train.max_minutes", minutes)
    folder = tmp_path_factory.mktemp("run")
    write_run_config(folder, config)
    again = read_run_config(folder)
    assert again == config
    assert repr(again) == repr(config)  # bits of floats, int against float


def test_the_text_is_ordinary_yaml_in_the_order_of_the_fields():
    config = RECIPES["video_age_64"]()
    assert yaml.safe_load(dump(config)) == config.model_dump(mode="json")
    absent = {key for key, there in optional_sections(config).items() if not there}
    keys = [key for key in flatten(yaml.safe_load(dump(config))) if key not in absent]
    assert keys == list(leaves(config))


@pytest.mark.parametrize("shards", ["a b " * 40, "a\nb", "x" * 200])
def test_every_value_keeps_to_one_line(shards):
    config = change(RECIPES["video_age_64"](), "data.shards", shards)
    assert dump(config).count("\n") == dump(RECIPES["video_age_64"]()).count("\n")


def test_numbers_are_those_people_mean(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(
        "a: 1e-4\nb: 1E3\nc: .5\nd: 1.\ne: -7\nf: 1:30\ng: 010x\nh: 2026-01-02\ni: +3\n"
    )
    expected = {
        **{"a": 1e-4, "b": 1e3, "c": 0.5, "d": 1.0, "e": -7},
        **{"f": "1:30", "g": "010x", "h": "2026-01-02", "i": 3},
    }
    read = read_yaml(path)
    assert read == expected
    assert {key: type(value) for key, value in read.items()} == {
        key: type(value) for key, value in expected.items()
    }


def test_a_missing_or_damaged_file(tmp_path):
    with pytest.raises(RunError, match=r"is no run directory: it has no config\.yaml"):
        read_run_config(tmp_path)
    (tmp_path / "config.yaml").write_text("train: {kimg: 3}\n")
    with pytest.raises(
        RunError, match=r"config\.yaml does not describe a run .* a value is missing"
    ):
        read_run_config(tmp_path)
    (tmp_path / "config.yaml").write_text("train: [\n")
    with pytest.raises(RunError, match="is not YAML"):
        read_run_config(tmp_path)


def test_which_run_is_the_same(tmp_path):
    config = RECIPES["video_age_64"]()
    assert not is_same_run(tmp_path, config)
    write_run_config(tmp_path, config)
    free = {
        "train.kimg": 1.0,
        "train.global_batch": 128,
        "train.micro_batch": 2,
        "players.critics.zero.stage": 2,
        "data.decoder": "pyav",
        "data.workers": 3,
        "data.shards": "https://elsewhere",
        "data.allow_pipe": True,
        "data.cache_dir": "/scratch",
        "data.cache_gib": 1.0,
        "data.fetch_ahead": 0,
        "data.fetch_minutes": 1.0,
        "observe.tick_kimg": 9.0,
    }
    for key, value in free.items():
        assert is_same_run(tmp_path, change(config, key, value)), key
    fixed = {
        "run.seed": 1,
        "players.critics.optim.lr": 1.0,
        "model.latent": 3,
        "data.dataset_id": "x",
        "system.r1_gamma": 1.0,
    }
    for key, value in fixed.items():
        with pytest.raises(RunError, match=f"holds another run: {key} .* -> {value}"):
            is_same_run(tmp_path, change(config, key, value))
        assert identity_hash(change(config, key, value)) != identity_hash(config)


def test_credentials_are_not_written(tmp_path):
    """They are kept for this process and its workers, and go into no file."""
    url = "https://ann:hunter2@host/shards?sig=s3cret"
    config = change(RECIPES["video_age_64"](), "data.shards", url)
    write_run_config(tmp_path, config)
    text = (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in text
    assert "s3cret" not in text
    assert read_run_config(tmp_path).data.shards == "https://***@host/shards?***"
    assert is_same_run(tmp_path, config)
    assert pickle.loads(pickle.dumps(config)).data.shards == url
    assert config.model_copy(update={}).data.shards == url
    assert Config.model_validate(config.model_dump()).data.shards == url
