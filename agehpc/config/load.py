"""One frozen configuration from a recipe, a file and flags, each overriding the one before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from agehpc.config.flags import Words, parse_flags
from agehpc.config.schema import Config, Section
from agehpc.config.text import read_yaml
from agehpc.config.tree import (
    Leaf,
    explain,
    flatten,
    is_fixed,
    leaves,
    nearest,
    nest,
    optional_sections,
)
from agehpc.errors import ConfigError, UsageError
from agehpc.recipes import RECIPES, summary

Extra = TypeVar("Extra", bound=BaseModel)


class _File(Section):
    config: str | None = None
    """YAML file that overrides the recipe."""


_CONFIG_FLAG = leaves(_File())["config"]


@dataclass(frozen=True)
class Loaded(Generic[Extra]):
    """A configuration, the command's own flags, and where each value comes from."""

    config: Config
    extra: Extra
    provenance: dict[str, str]
    """Dotted key of every leaf and absent section -> "recipe NAME", "file PATH" or "flag"."""


def load(argv: list[str], *, prog: str, extra: type[Extra]) -> Loaded[Extra]:
    """Resolve `RECIPE [--config FILE] [flags]`.

    `extra` is a model of the command's own flags (`--out`, `--dry-run`): flat, its field texts
    are their help, its truth values are switches, and `json_` becomes `--json`, as pydantic
    keeps that name for itself. UsageError or ConfigError for anything wrong; `--help` prints
    every flag with its value in the recipe and exits 0.
    """
    own = {_flag_name(name): _own_leaf(field) for name, field in extra.model_fields.items()}
    recipe, words, prog, description = _split(argv, prog)
    given = parse_flags(
        words,
        prog=prog,
        description=description,
        extra={**own, "config": _CONFIG_FLAG},
        config=RECIPES[recipe](),
    )
    mine = {key: given.pop(key) for key in list(given) if key in own}
    file = given.pop("config", None)
    file = _CONFIG_FLAG.parse(file, "--config") if isinstance(file, Words) else None
    words_of = {key: words for key, words in given.items() if isinstance(words, Words)}
    config, provenance = resolve(recipe, file, words_of)
    return Loaded(config, _build_extra(extra, own, mine), provenance)


def parse_command(argv: list[str], *, prog: str, model: type[Extra]) -> Extra:
    """Return the flags of a command that takes no recipe; the errors are those of :func:`load`."""
    own = {_flag_name(name): _own_leaf(field) for name, field in model.model_fields.items()}
    description = (model.__doc__ or "").partition("\n")[0]
    given = parse_flags(argv, prog=prog, description=description, extra=own, config=Section())
    return _build_extra(model, own, given)


def resolve(
    recipe: str, file: str | None = None, flags: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[Config, dict[str, str]]:
    """Return the configuration and the source of each leaf; flags are words by dotted key."""
    start = RECIPES[recipe]()
    known, optional = leaves(start), optional_sections(start)
    values = {key: leaf.value for key, leaf in known.items()}
    absent = [key for key, there in optional.items() if not there]
    source = dict.fromkeys([*known, *absent], f"recipe {recipe}")
    for key, value in (_read_overlay(file, known, optional) if file else {}).items():
        values[key], source[key] = value, f"file {file}"
    for key, words in (flags or {}).items():
        values[key] = known[key].parse(words, _flag(key))
        source[key] = "flag"
    try:
        return Config.model_validate(nest(values)), source
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _split(argv: list[str], prog: str) -> tuple[str, list[str], str, str]:
    """Return recipe, remaining words, the program's name in messages and what --help opens with."""
    names = list(RECIPES)
    if argv and argv[0] in RECIPES:
        return argv[0], argv[1:], f"{prog} {argv[0]}", f"Recipe {argv[0]}. {summary(argv[0])}"
    if argv and argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name}: {summary(name)}" for name in names)
        text = f"Recipes:\n{rows}\nDefaults below are those of {names[0]}."
        return names[0], ["--help"], f"{prog} RECIPE", text
    listed = f"recipes: {', '.join(names)}"
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"name a recipe first: {prog} RECIPE [flags] ({listed})")
    raise UsageError(f"unknown recipe {argv[0]!r}{nearest(argv[0], names)} ({listed})")


def _read_overlay(
    file: str, known: Mapping[str, Leaf], optional: Mapping[str, bool]
) -> dict[str, Any]:
    """Return the checked leaves of a YAML file by dotted key."""
    sections = {key[:at] for key in known for at in range(len(key)) if key[at] == "."}
    lacking = [name for name, there in optional.items() if not there]
    overlay: dict[str, Any] = {}
    for key, value in flatten(read_yaml(file)).items():
        if key in lacking and value is None:
            continue
        if section := next((name for name in lacking if f"{key}.".startswith(f"{name}.")), None):
            raise ConfigError(f"{file}: {key} is set, but the recipe has no {section}; drop it")
        if key in optional and value is None:
            raise ConfigError(f"{file}: {key} is null, but the recipe has one; drop the line")
        if key in sections:
            if value is not None:  # `train:` with nothing under it changes nothing
                raise ConfigError(f"{file}: {key} holds settings, got {value!r}")
        elif key not in known:
            raise ConfigError(f"{file}: unknown key {key}{nearest(key, [*known, *sections])}")
        elif is_fixed(key) and value != known[key].value:
            raise ConfigError(
                f"{file}: {key} is {value!r}, but the recipe's is {known[key].value!r}; "
                "start from the file's recipe or drop the line"
            )
        else:
            overlay[key] = known[key].check(value, f"{file}: {key}")
    return overlay


def _flag_name(name: str) -> str:
    return name.removesuffix("_")


def _own_leaf(field: FieldInfo) -> Leaf:
    required = field.is_required()
    return Leaf(None if required else field.get_default(call_default_factory=True), field)


def _build_extra(model: type[Extra], own: Mapping[str, Leaf], given: Mapping[str, Any]) -> Extra:
    values = {}
    for name in model.model_fields:
        key = _flag_name(name)
        if key in given:
            words = given[key]
            values[name] = own[key].parse(words, _flag(key)) if isinstance(words, Words) else words
        elif own[key].field.is_required():
            raise UsageError(f"{_flag(key)} is needed: {own[key].field.description}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(error)) from None
