"""Recipe < file < flags, where each value comes from, and one clear message for each mistake."""

import re

import pytest

from agehpc.config.load import load, parse_command, resolve
from agehpc.config.schema import Config, Section
from agehpc.config.tree import flatten, is_fixed, leaves
from agehpc.errors import ConfigError, UsageError
from agehpc.recipes import RECIPES


class Flags(Section):
    """Flags of a command."""

    out: str
    """Run directory."""
    dry_run: bool = False
    """Check only."""
    json_: bool = False
    """Print JSON."""
    limit: int = 7
    """A number."""


class NoFlags(Section):
    """No flags."""


def load_config(*argv: str) -> Config:
    return load(["video_age_64", *argv], prog="agehpc x", extra=NoFlags).config


def overlay(tmp_path, text: str) -> str:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    return str(path)


def test_recipe_alone_is_the_recipe():
    for name, recipe in RECIPES.items():
        assert load([name], prog="agehpc x", extra=NoFlags).config == recipe()


def test_each_source_overrides_the_one_before(tmp_path):
    file = overlay(tmp_path, "train: {kimg: 5, keep_last: 4}\nplayers: {critics: {clip: 1}}\n")
    loaded = load(
        ["video_age_64", "--config", file, "--train.kimg=10", "--data.shards", "d"],
        prog="agehpc x",
        extra=NoFlags,
    )
    base = RECIPES["video_age_64"]()
    expected = base.model_copy(
        update={
            "train": base.train.model_copy(update={"kimg": 10.0, "keep_last": 4}),
            "data": base.data.model_copy(update={"shards": "d"}),
            "players": {
                **base.players,
                "critics": base.players["critics"].model_copy(update={"clip": 1.0}),
            },
        }
    )
    assert loaded.config == expected
    sources = loaded.provenance
    assert sources["train.kimg"] == sources["data.shards"] == "flag"
    assert sources["train.keep_last"] == sources["players.critics.clip"] == f"file {file}"
    assert sources["train.global_batch"] == "recipe video_age_64"
    assert set(sources) == set(flatten(loaded.config.model_dump()))


def test_a_flag_equal_to_the_recipe_is_still_a_flag():
    recipe = RECIPES["video_age_64"]()
    _, sources = resolve("video_age_64", None, {"train.kimg": (str(recipe.train.kimg),)})
    assert sources["train.kimg"] == "flag"


def test_a_flag_of_an_optional_list_takes_words():
    words = ["cyclegan_64", "--data.domains", "smile", "neutral"]
    config = load(words, prog="agehpc train", extra=NoFlags).config
    assert config.data.domains == ("smile", "neutral")


def test_flags_of_every_type():
    config = load_config(
        *("--train.max-minutes", "2.5", "--data.flip", "false", "--data.strides", "1", "3"),
        *("--players.autoencoder.optim.betas", "0", "0.99", "--data.dataset_id", "none"),
        *("--train.precision", "bf16", "--run.seed", "9", "--train.micro-batch", "4"),
    )
    assert config.train.max_minutes == 2.5
    assert config.data.flip is False
    assert config.data.strides == (1, 3)
    assert config.players["autoencoder"].optim.betas == (0.0, 0.99)
    assert type(config.players["autoencoder"].optim.betas[0]) is float
    assert config.data.dataset_id is None
    assert (config.train.precision, config.run.seed, config.train.micro_batch) == ("bf16", 9, 4)


def test_whole_numbers_in_a_file_become_floats(tmp_path):
    file = overlay(
        tmp_path,
        "players: {autoencoder: {optim: {lr: 1e-4, betas: [0, 0.99]}}}\ntrain: {kimg: 3}\n",
    )
    config = load_config("--config", file)
    values = (*config.players["autoencoder"].optim.betas, config.train.kimg)
    assert values == (0.0, 0.99, 3.0)
    assert all(type(value) is float for value in values)
    assert config.players["autoencoder"].optim.lr == 1e-4


def test_own_flags_of_a_command():
    loaded = load(
        ["video_age_64", "--out", "r", "--dry-run", "--json", "--train.kimg", "3"],
        prog="agehpc x",
        extra=Flags,
    )
    assert loaded.extra == Flags(out="r", dry_run=True, json_=True, limit=7)
    assert loaded.config.train.kimg == 3.0


@pytest.mark.parametrize("limit", ["x", "1.5"])
def test_own_flags_are_checked(limit):
    with pytest.raises(UsageError, match=f"--limit: got '{limit}'; expected a whole number"):
        load(["video_age_64", "--out", "r", "--limit", limit], prog="agehpc x", extra=Flags)


def test_a_needed_flag_is_named():
    with pytest.raises(UsageError, match="--out is needed: Run directory"):
        load(["video_age_64"], prog="agehpc x", extra=Flags)
    with pytest.raises(UsageError, match="--out is needed: Run directory"):
        parse_command([], prog="agehpc x", model=Flags)


def test_a_command_without_a_recipe():
    words = ["--limit", "3", "--out", "r"]
    assert parse_command(words, prog="agehpc x", model=Flags) == Flags(out="r", limit=3)
    with pytest.raises(UsageError, match="unknown flag --limits; did you mean --limit"):
        parse_command(["--limits", "3"], prog="agehpc x", model=Flags)
    with pytest.raises(UsageError, match="unknown flag --config"):
        parse_command(["--config", "f.yaml"], prog="agehpc x", model=Flags)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["video_age_46"], "unknown recipe 'video_age_46'; did you mean video_age_64?"),
        ([], "name a recipe first"),
        (["--train.kimg", "3", "video_age_64"], "name a recipe first"),
        (
            ["video_age_64", "--train.kmg", "3"],
            "unknown flag --train.kmg; did you mean --train.kimg?",
        ),
        (["video_age_64", "--kimg", "3"], "unknown flag --kimg; did you mean --train.kimg?"),
        (["video_age_64", "--run.recipe", "x"], "unknown flag --run.recipe"),
        (["video_age_64", "extra"], "unexpected word 'extra'"),
        (["video_age_64", "--train.kimg"], "--train.kimg takes one value, got none"),
        (["video_age_64", "--train.kimg", "3", "4"], "--train.kimg takes one value, got 2: 3 4"),
        (["video_age_64", "--train.kimg", "abc"], "--train.kimg: got 'abc'; expected a number"),
        (["video_age_64", "--train.kimg", "-1"], "got '-1'; expected a value greater than 0"),
        (["video_age_64", "--train.kimg", "inf"], "got 'inf'; expected a finite number"),
        (["video_age_64", "--train.kimg", "none"], "got 'none'; expected a number"),
        (["video_age_64", "--train.precision", "fp16"], "got 'fp16'; expected 'fp32' or 'bf16'"),
        (
            ["video_age_64", "--data.flip", "maybe"],
            "--data.flip: got 'maybe'; expected true or false",
        ),
        (
            ["video_age_64", "--data.strides", "0"],
            "--data.strides: got '0'; expected a value greater",
        ),
        (
            ["video_age_64", "--players.critics.zero.stage", "3"],
            "set --players.critics.zero.stage to",
        ),
        (["video_age_64", "--data.kind", "image"], "an image has one frame"),
        (["video_age_64", "--config", "absent.yaml"], "cannot read absent.yaml: No such file"),
    ],
)
def test_wrong_words_on_the_command_line(argv, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load(argv, prog="agehpc x", extra=NoFlags)
    assert_one_clear_message(str(caught.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {kimg: 3}", "unknown key trian.kimg; did you mean train.kimg?"),
        ("lr: 1", "unknown key lr; did you mean players.autoencoder.optim.lr?"),
        ("trian:", "unknown key trian; did you mean train?"),
        (
            "players: {critic: {clip: 1}}",
            "unknown key players.critic.clip; did you mean players.critics",
        ),
        ("train: 3", "train holds settings, got 3"),
        ("train: {kimg: true}", "train.kimg: got True; expected a number"),
        ("train: {kimg: '3'}", "train.kimg: got '3'; expected a number"),
        ("train: {kimg: {a: 3}}", "unknown key train.kimg.a"),
        ("train: {kimg: null}", "train.kimg: got None; expected a number"),
        ("train: {kimg: .inf}", "train.kimg: got inf; expected a finite number"),
        ("train: {global_batch: 1.5}", "train.global_batch: got 1.5; expected a whole number"),
        ("train: {max_minutes: 1:30}", "train.max_minutes: got '1:30'; expected a number"),
        ("data: {strides: 2}", "data.strides: got 2; expected a list"),
        ("data: {flip: 1}", "data.flip: got 1; expected true or false"),
        ("data: {shards: 3}", "data.shards: got 3; expected text"),
        ("players: {critics: {optim: {betas: [0]}}}", "optim.betas: got [0]; a value is missing"),
        ("train: {kimg: 3, kimg: 4}", "line 1, column 18: kimg is set twice"),
        ("- 3", "holds no settings: expected `key: value` lines, got [3]"),
        ("train: [1", "is not YAML: line 1"),
        ("run: {recipe: x}", "run.recipe is 'x', but the recipe's is 'video_age_64'"),
        ("a: !!python/object:os.system x", "is not YAML: line 1, column 4"),
    ],
)
def test_wrong_lines_in_a_file(tmp_path, text, message):
    file = overlay(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config("--config", file)
    assert str(caught.value).startswith(file)
    assert_one_clear_message(str(caught.value))


def assert_one_clear_message(message: str) -> None:
    assert "\n" not in message
    for noise in ("pydantic", "type=", "input_value", "Value error", "Input should"):
        assert noise not in message


def test_files_that_change_nothing(tmp_path):
    for text in ("", "# nothing\n", "train:\n", "train: {}\n"):
        assert load_config("--config", overlay(tmp_path, text)) == RECIPES["video_age_64"]()


def test_unreadable_bytes(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config("--config", str(path))


def test_help_shows_every_field_with_its_text_and_value(capsys):
    with pytest.raises(SystemExit) as stop:
        load(["video_age_64", "--help"], prog="agehpc x", extra=Flags)
    assert stop.value.code == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    for key, leaf in leaves(RECIPES["video_age_64"]()).items():
        if not is_fixed(key):
            assert f"--{key.replace('_', '-')} " in shown
            assert re.sub(r"\s+", " ", leaf.field.description or "?").rstrip(".") in shown, key
    assert "--players.critics.optim.lr FLOAT Learning rate. (default: 0.0002)" in shown
    assert "--dry-run Check only. (default: False)" in shown


def test_help_without_a_recipe_lists_them(capsys):
    with pytest.raises(SystemExit) as stop:
        load(["--help"], prog="agehpc x", extra=Flags)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)
