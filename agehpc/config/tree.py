"""The configuration as a flat list of leaves, each under its dotted key.

A leaf is a field that holds no further section: `train.kimg`, `players.critics.optim.lr`.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from agehpc.errors import ConfigError

_TYPES = {
    "missing": "a value is missing",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "string_type": "expected text",
    "tuple_type": "expected a list",
}

FIXED = ("run.recipe", "system.name", "system.game")


def is_fixed(key: str) -> bool:
    """Whether the recipe's name decides a leaf, so that neither a file nor a flag changes it.

    So are the kinds of its networks: what can be set under them depends on it.
    """
    return key in FIXED or (key.startswith("model.") and key.endswith(".kind"))


@dataclass(frozen=True)
class Leaf:
    """A field's present value, its declaration and whether None is one of its values."""

    value: Any
    field: FieldInfo

    @property
    def optional(self) -> bool:
        """Whether the field may be None."""
        return type(None) in get_args(self.field.annotation)

    def check(self, value: Any, where: str) -> Any:
        """Return a value from a YAML file as the field's type; ConfigError names `where`.

        Strict: text is no number, a truth value neither; a whole number serves as a float.
        """
        try:
            return self._adapter().validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ConfigError(f"{where}: got {value!r}; {explain(error)}") from None

    def parse(self, words: tuple[str, ...], where: str) -> Any:
        """Return the words of a flag as the field's type; ConfigError names `where`."""
        if self.optional and [word.lower() for word in words] in (["none"], ["null"]):
            return None
        kinds = (self.field.annotation, *get_args(self.field.annotation))  # also of `tuple | None`
        many = any(get_origin(kind) is tuple for kind in kinds)
        if not many and len(words) != 1:
            seen = f"got {len(words)}: {' '.join(words)}" if words else "got none"
            raise ConfigError(f"{where} takes one value, {seen}")
        try:
            return self._adapter().validate_python(words if many else words[0])
        except ValidationError as error:
            raise ConfigError(f"{where}: got {' '.join(words)!r}; {explain(error)}") from None

    def _adapter(self) -> TypeAdapter[Any]:
        # The annotation is known at run time only, so no checker can follow it.
        kind: Any = Annotated[self.field.annotation, self.field]
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def leaves(section: BaseModel, prefix: str = "") -> dict[str, Leaf]:
    """Map every dotted key under a section to its leaf, in the order of declaration.

    A section that is None has no leaves.
    """
    found: dict[str, Leaf] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if value is None and _holds_section(field.annotation):
            continue
        for key, part in _parts(f"{prefix}{name}", value):
            if isinstance(part, BaseModel):
                found |= leaves(part, f"{key}.")
            else:
                found[key] = Leaf(part, field)
    return found


def optional_sections(section: BaseModel, prefix: str = "") -> dict[str, bool]:
    """Map the dotted key of every section that may be None to whether it is there."""
    found: dict[str, bool] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if _holds_section(field.annotation) and type(None) in get_args(field.annotation):
            found[f"{prefix}{name}"] = value is not None
        for key, part in _parts(f"{prefix}{name}", value):
            if isinstance(part, BaseModel):
                found |= optional_sections(part, f"{key}.")
    return found


def _holds_section(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_holds_section(part) for part in get_args(annotation))


def _parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{key}.{name}", part) for name, part in value.items())
    else:
        yield key, value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Map dotted keys to the values of a nested mapping."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name closest to a wrong one, or an empty string."""
    known = list(known)
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if not close:  # `kimg` for `train.kimg`, `lr` for `players.critics.optim.lr`
        last = wrong.rpartition(".")[2]
        close = [key for key in known if key.rpartition(".")[2] == last][:1]
    return f"; did you mean {close[0]}?" if close else ""


def explain(error: ValidationError) -> str:
    """Return pydantic's findings, without its links and type codes."""
    found = []
    for item in error.errors(include_url=False):
        text = _TYPES.get(item["type"])
        if text is None:
            text = item["msg"].removeprefix("Value error, ").replace(" after validation", "")
            text = text.replace("Input should be '", "expected '")
            text = text.replace("Input should be ", "expected a value ")
            text = text.replace("Tuple should have", "expected").replace(" item", " value")
        if text not in found:
            found.append(text)
    return "; ".join(found)
