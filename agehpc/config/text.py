"""Configurations as YAML text: what people write and what a run keeps."""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel

from agehpc.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
# PyYAML follows YAML 1.1, where 1e-4 is text, 1:30 is ninety and 010 is eight.
_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE|yes|Yes|no|No|on|On|off|Off", "tTfFyYnNoO"),
    "int": (r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """YAML whose values are those of JSON and in which no key is set twice."""

    yaml_implicit_resolvers: ClassVar = {}
    yaml_constructors: ClassVar = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag in {None, *(_TAG + name for name in (*_PLAIN, "str", "seq", "map"))}
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.value in names:
                problem = f"{key.value} is set twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would read as a number; lists and odd text stay on one line."""

    yaml_implicit_resolvers: ClassVar = {}


for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _letters = ["" if letter == "\0" else letter for letter in _first]
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _letters)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; ConfigError if it cannot be read as one."""
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_problem(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no settings: expected `key: value` lines, got {tree!r}")
    return tree


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else what


def dump(config: BaseModel) -> str:
    """Return a configuration as YAML, in the order of its fields."""
    return "".join(f"{line}\n" for line, _ in yaml_lines(config))


def yaml_lines(config: BaseModel) -> list[tuple[str, str | None]]:
    """Return each line of :func:`dump` with the dotted key it sets (None opens a section)."""
    return list(_lines(config.model_dump(mode="json"), "", ""))


def _lines(tree: dict[str, Any], prefix: str, indent: str) -> Iterator[tuple[str, str | None]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:", None
            yield from _lines(value, f"{prefix}{name}.", f"{indent}  ")
        else:
            yield f"{indent}{name}: {_scalar(value)}", f"{prefix}{name}"


def _scalar(value: Any) -> str:
    """Return a leaf's value as one line of YAML."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        default_style=style,
        width=float("inf"),
        allow_unicode=True,
    )
    return text.removesuffix("...\n").rstrip("\n")
