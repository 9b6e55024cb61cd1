"""One searched key of the configuration: its range or options, and when it counts."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from agehpc.errors import ConfigError, hint

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Kind = Literal["uniform", "log_uniform", "integer", "log_integer", "choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRID_POINTS = 3


def label(value: Any) -> str:
    """Return the text under which the searchers know an option: they take no lists."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration tree and the values it may take."""

    key: str
    """Dotted."""
    kind: Kind
    """Scale of a range, or `choice`."""
    values: tuple[Any, ...]
    """Lowest and highest value, both included, or the options."""
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other keys, with the values at which this one counts; all must hold."""
    points: int = GRID_POINTS
    """Values of a range in a grid, evenly spaced on its scale."""

    @property
    def is_choice(self) -> bool:
        """Whether the values are options."""
        return self.kind == "choice"

    @property
    def is_log(self) -> bool:
        """Whether the range is searched by its logarithm."""
        return self.kind.startswith("log_")

    @property
    def is_integer(self) -> bool:
        """Whether the range holds whole numbers."""
        return self.kind.endswith("integer")

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether this key counts beside the values of others."""
        return all(
            key in values and label(values[key]) in map(label, wanted)
            for key, wanted in self.when.items()
        )

    def holds(self, value: Any) -> bool:
        """Whether a value is among those it may take."""
        if self.is_choice:
            return label(value) in map(label, self.values)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = not self.is_integer or isinstance(value, int)
        return number and whole and self.values[0] <= value <= self.values[1]

    def distribution(self) -> "BaseDistribution":
        """Return what optuna calls it; options are their labels."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.is_choice:
            return CategoricalDistribution([label(value) for value in self.values])
        kind = IntDistribution if self.is_integer else FloatDistribution
        return kind(*self.values, log=self.is_log)

    def suggest(self, trial: "Trial") -> Any:
        """Return the value that an optuna trial draws."""
        if self.is_choice:
            options = {label(value): value for value in self.values}
            return options[trial.suggest_categorical(self.key, list(options))]
        draw = trial.suggest_int if self.is_integer else trial.suggest_float
        return draw(self.key, *self.values, log=self.is_log)

    def drawn(self, value: Any) -> Any:
        """Return what optuna holds for a value."""
        return label(value) if self.is_choice else value

    def grid(self) -> list[Any]:
        """Return the options, or `points` values of the range."""
        if self.is_choice:
            return list(self.values)
        steps = [step / max(1, self.points - 1) for step in range(self.points)]
        found = [self.from_unit(step) for step in steps]
        return sorted(set(found))

    def from_unit(self, place: float) -> Any:
        """Return the value at a place of the range: 0 to 1 from end to end on its scale."""
        low, high = self.values
        first, last = self._ends()
        at = first + place * (last - first)
        value = 10.0**at if self.is_log else at
        value = round(value) if self.is_integer else value
        return min(max(value, low), high)  # 10 ** log10(x) may miss x in the last digit

    def to_unit(self, value: float) -> float:
        """Undo :meth:`from_unit`."""
        first, last = self._ends()
        return ((math.log10(value) if self.is_log else value) - first) / (last - first)

    def _ends(self) -> list[float]:
        return [math.log10(end) if self.is_log else end for end in self.values]

    def describe(self) -> dict[str, Any]:
        """Return the entry of a YAML file that makes this parameter."""
        told: dict[str, Any] = {self.kind: [_plain(value) for value in self.values]}
        if self.when:
            told["when"] = {key: [_plain(v) for v in wanted] for key, wanted in self.when.items()}
        if self.points != GRID_POINTS:
            told["points"] = self.points
        return told


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def parse(key: str, entry: Any, where: str) -> Parameter:
    """Return the parameter of an entry of a file; ConfigError names `where` and the key.

    Looks at the entry alone: neither the schema nor the other keys.
    """
    at = f"{where}: {key}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{at} is {entry!r}; say how it is searched: `{KINDS[0]}: [low, high]`")
    names = [*KINDS, "when", "points"]
    for name in entry:
        if name not in names:
            raise ConfigError(f"{at}: unknown word {name}; {hint(str(name), names)}")
    kinds: list[Kind] = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none"
        raise ConfigError(f"{at}: takes one of {', '.join(KINDS)}; got {got}")
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{at}: {kind} takes a list, got {values!r}")
    if kind == "choice":
        _check_options(values, at)
    else:
        _check_range(kind, values, at)
        values = [int(v) if kind.endswith("integer") else float(v) for v in values]
    when, points = entry.get("when") or {}, entry.get("points", GRID_POINTS)
    if not isinstance(when, dict):
        raise ConfigError(f"{at}: when takes `KEY: VALUES`, got {when!r}")
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        raise ConfigError(f"{at}: points is a whole number of at least 1, got {points!r}")
    wanted = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in when.items()}
    return Parameter(key, kind, tuple(values), wanted, points)


def _check_options(values: list[Any], at: str) -> None:
    labels = [label(value) for value in values]
    twice = {text for text in labels if labels.count(text) > 1}
    if twice:
        raise ConfigError(f"{at}: choice holds {', '.join(sorted(twice))} twice")


def _check_range(kind: Kind, values: list[Any], at: str) -> None:
    if len(values) != 2:
        raise ConfigError(f"{at}: {kind} takes [low, high], got {len(values)} values")
    whole = kind.endswith("integer")
    for value in values:
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value):
            wanted = "whole numbers" if whole else "numbers"
            raise ConfigError(f"{at}: {kind} takes {wanted}, got {value!r}")
    low, high = values
    if low >= high:
        raise ConfigError(f"{at}: {kind} [{low:g}, {high:g}] is empty; the low end comes first")
    if kind.startswith("log_") and low <= 0:
        raise ConfigError(f"{at}: {kind} starts at {low:g}, which has no logarithm; raise it")
