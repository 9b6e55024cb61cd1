"""Search spaces: YAML files that say which keys of the configuration are searched, and where.

    players.autoencoder.optim.lr:
      log_uniform: [1e-4, 3e-3]
    system.adversarial:
      choice: [non_saturating, hinge]
    system.label_smoothing:
      uniform: [0.0, 0.2]
      when: {system.adversarial: non_saturating}

All of a file is checked against the configuration before anything starts.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agehpc.config.schema import Config
from agehpc.config.text import read_yaml
from agehpc.config.tree import explain, is_fixed, leaves, nearest, nest
from agehpc.errors import ConfigError
from agehpc_tune.parameters import Parameter, label, parse

if TYPE_CHECKING:
    from optuna import Trial

# Points that are built before a sweep starts: a rule between two keys shows in a few of them.
_TRIED = 64


def configured(base: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with values set by dotted key; ConfigError where a rule breaks."""
    flat = {key: leaf.value for key, leaf in leaves(base).items()} | dict(values)
    try:
        return Config.model_validate(nest(flat))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


@dataclass(frozen=True)
class Space:
    """Parameters, each behind those that its condition names."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def load(cls, path: Path, base: Config) -> "Space":
        """Return the space of a YAML file over a configuration; ConfigError for all that is wrong.

        Keys, bounds and options are those of the schema, alone and together.
        """
        space = cls.parse(read_yaml(path), str(path))
        space = cls(tuple(_checked(one, base, str(path)) for one in space.parameters))
        space._build_some(base, str(path))
        return space

    @classmethod
    def parse(cls, entries: Mapping[str, Any], where: str) -> "Space":
        """Return the space of a file's entries, unchecked against any configuration."""
        if not entries:
            raise ConfigError(f"{where} searches nothing; expected `KEY: {{uniform: [low, high]}}`")
        found = [parse(str(key), entry, where) for key, entry in entries.items()]
        return cls(tuple(_in_order({one.key: one for one in found}, where)))

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys; one that depends on another comes after it."""
        return tuple(one.key for one in self.parameters)

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Return the values that an optuna trial draws; those whose condition fails are absent."""
        values: dict[str, Any] = {}
        for one in self.parameters:
            if one.active(values):
                values[one.key] = one.suggest(trial)
        return values

    def drawn(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what optuna holds for the values of a trial."""
        return {one.key: one.drawn(values[one.key]) for one in self.parameters if one.key in values}

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the parameters' own grids."""
        found: list[dict[str, Any]] = [{}]
        for one in self.parameters:
            found = list(
                itertools.chain.from_iterable(
                    [{**point, one.key: value} for value in one.grid()]
                    if one.active(point)
                    else [point]
                    for point in found
                )
            )
        return found

    def flags(self, values: Mapping[str, Any]) -> list[str]:
        """Return values as flags of `agehpc train`, exact to the last digit."""
        words: list[str] = []
        for key, value in values.items():
            parts = value if isinstance(value, list | tuple) else [value]
            words.append("--" + key.replace("_", "-"))
            words += [label(part) if part is not None else "none" for part in parts]
        return words

    def describe(self) -> dict[str, Any]:
        """Return the entries of a YAML file that :meth:`parse` makes this space of."""
        return {one.key: one.describe() for one in self.parameters}

    def _build_some(self, base: Config, where: str) -> None:
        """Build configurations of the space: with every end and option, and at random points."""
        draw = random.Random(0)
        for one in self.parameters:
            for value in one.values:
                point = self._random(draw, one.key, value)
                if one.key not in point:
                    raise ConfigError(f"{where}: {one.key} never counts: no values fit its `when`")
                _build(base, point, where)
        for _ in range(_TRIED):
            _build(base, self._random(draw), where)

    def _random(self, draw: random.Random, key: str = "", value: Any = None) -> dict[str, Any]:
        """Return a random point, or one at which a key counts and has a value."""
        wanted: dict[str, Sequence[Any]] = {key: [value]} if key else {}
        for one in reversed(self.parameters):
            if one.key in wanted:
                for parent, fitting in one.when.items():
                    before = wanted.get(parent, fitting)
                    wanted[parent] = [v for v in before if label(v) in map(label, fitting)]
        point: dict[str, Any] = {}
        for one in self.parameters:
            if one.active(point):
                options = one.values if one.is_choice else [one.from_unit(draw.random())]
                if options := wanted.get(one.key, options):
                    point[one.key] = draw.choice(options)
        return point


def _build(base: Config, values: Mapping[str, Any], where: str) -> None:
    try:
        configured(base, values)
    except ConfigError as error:
        told = ", ".join(f"{key} {label(value)}" for key, value in values.items())
        raise ConfigError(f"{where}: no run can have {told}: {error}") from None


def _checked(one: Parameter, base: Config, where: str) -> Parameter:
    """Return a parameter with its values as the schema holds them."""
    known = leaves(base)
    if one.key not in known:
        sections = {key[:at] for key in known for at in range(len(key)) if key[at] == "."}
        if one.key in sections:
            raise ConfigError(f"{where}: {one.key} holds settings; name one: {one.key}.KEY")
        raise ConfigError(f"{where}: unknown key {one.key}{nearest(one.key, known)}")
    if is_fixed(one.key):
        raise ConfigError(f"{where}: {one.key} is decided by the recipe, and is not searched")
    leaf, at = known[one.key], f"{where}: {one.key}"
    # A field of whole numbers tells itself by what it makes of one.
    given = (int(v) if isinstance(v, float) and v.is_integer() else v for v in one.values)
    values = tuple(leaf.check(value, at) for value in given)
    if not one.is_choice:
        if int in map(type, values) and not one.is_integer:
            kind = "log_integer" if one.is_log else "integer"
            raise ConfigError(f"{at} holds whole numbers: use {kind} in place of {one.kind}")
        leaf.check(one.from_unit(0.382), at)
        values = one.values
    when = {
        key: tuple(known[key].check(value, f"{at}: when {key}") for value in wanted)
        for key, wanted in one.when.items()
        if key in known
    }
    return replace(one, values=values, when=when)


def _in_order(parameters: Mapping[str, Parameter], where: str) -> Iterable[Parameter]:
    """Yield parameters behind those that their conditions name."""
    placed: dict[str, Parameter] = {}

    def place(one: Parameter, below: tuple[str, ...]) -> None:
        if one.key in below:
            ring = " -> ".join((*below[below.index(one.key) :], one.key))
            raise ConfigError(f"{where}: conditions go in a circle: {ring}; drop a `when`")
        if one.key in placed:
            return
        for key, wanted in one.when.items():
            _check_condition(one, key, wanted, parameters, where)
            place(parameters[key], (*below, one.key))
        placed[one.key] = one

    for one in parameters.values():
        place(one, ())
    return placed.values()


def _check_condition(
    one: Parameter,
    key: str,
    wanted: tuple[Any, ...],
    parameters: Mapping[str, Parameter],
    where: str,
) -> None:
    at = f"{where}: {one.key}: when {key}"
    if key not in parameters:
        raise ConfigError(f"{at}: this space does not search {key}{nearest(key, parameters)}")
    other = parameters[key]
    if not other.is_choice and not other.is_integer:
        raise ConfigError(f"{at}: a condition names a key of choice or integer, not {other.kind}")
    if not wanted:
        raise ConfigError(f"{at}: names no value")
    for value in wanted:
        if not other.holds(value):
            has = label([*other.values])
            raise ConfigError(f"{at}: {label(value)} is none of its values, {other.kind} {has}")
