"""Flags made from the configuration's own models.

tyro reads the words and writes `--help`; types and bounds are checked afterwards by the models
themselves, so that a flag and a line of a file fail with the same kind of message.
"""

from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from pydantic import BaseModel
from tyro.constructors import PrimitiveConstructorSpec

from agehpc.config.tree import Leaf, is_fixed, leaves, nearest, nest
from agehpc.errors import UsageError


class Words(tuple[str, ...]):
    """The words that followed a flag; a leaf that holds anything else was not given."""


def parse_flags(
    argv: list[str], *, prog: str, description: str, extra: Mapping[str, Leaf], config: BaseModel
) -> dict[str, Words | bool]:
    """Return what was given, by dotted key (`out`, `train.kimg`), unconverted.

    Leaves of `extra` become flags without a prefix, the truth values among them switches that
    come back as True. Values shown by `--help` are those of `config`. UsageError for an unknown
    flag; `--help` prints and exits 0.
    """
    own = {key: leaf for key, leaf in leaves(config).items() if not is_fixed(key)}
    mirror = _mirror("Flags", nest({**extra, **own}), _section_helps(config))
    parsed, unknown = tyro.cli(
        mirror, prog=prog, description=description, args=argv, return_unknown_args=True
    )
    if unknown:
        known = ["--" + key.replace("_", "-") for key in [*extra, *own]]
        _refuse(unknown[0], known, prog)
    return dict(_given(parsed))


def _refuse(word: str, known: list[str], prog: str) -> None:
    if word.startswith("-"):
        flag = word.partition("=")[0]
        what = f"unknown flag {flag}{nearest(flag.replace('_', '-'), known)}"
    else:
        what = f"unexpected word {word!r}"
    raise UsageError(f"{what} (`{prog} --help` lists the flags)")


def _mirror(name: str, tree: Mapping[str, Any], helps: Mapping[str, str], prefix: str = "") -> type:
    """Build the dataclass tree that tyro reads: every leaf takes any words, every switch none."""
    members: list[tuple[str, Any, Any]] = []
    for key, part in tree.items():
        if isinstance(part, Leaf):
            switch = not prefix and part.field.annotation is bool
            members.append((key, _flag_type(part, switch), field(default=part.value)))
        else:
            section = _mirror(key, part, helps, f"{prefix}{key}.")
            text = tyro.conf.arg(help=helps.get(prefix + key, ""))
            members.append((key, Annotated[section, text], field(default_factory=section)))
    made = make_dataclass(name, members, eq=False, repr=False)
    made.__doc__ = ""  # or dataclasses writes the signature there, and tyro shows it
    return made


def _flag_type(leaf: Leaf, switch: bool) -> Any:
    text = tyro.conf.arg(help=leaf.field.description)
    if switch:
        return Annotated[bool, text, tyro.conf.FlagCreatePairsOff]
    words = PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar(leaf.field.annotation),
        instance_from_str=Words,
        is_instance=lambda value: True,
        str_from_instance=_shown,
    )
    # `object`, as tyro imports typeguard to check a default against anything vaguer.
    return Annotated[object, words, text]


def _shown(value: Any) -> list[str]:
    """Return the words that would set a value."""
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return [str(value).lower() if value is None or isinstance(value, bool) else str(value)]


def metavar(annotation: Any) -> str:
    """Return how `--help` writes a value of a type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return metavar(args[0])
    if origin is Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin in (Union, UnionType):
        return "|".join("none" if arg is NoneType else metavar(arg) for arg in args)
    if origin is tuple:
        return f"{metavar(args[0])}..." if args[-1] is ... else " ".join(map(metavar, args))
    return {bool: "{true,false}", int: "INT", float: "FLOAT"}.get(annotation, "TEXT")


def _section_helps(section: BaseModel, prefix: str = "") -> dict[str, str]:
    """Map the dotted key of every section to the first line of its model's docstring."""
    helps: dict[str, str] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        parts = value if isinstance(value, dict) else {"": value}
        for entry, part in parts.items():
            if isinstance(part, BaseModel):
                key = f"{prefix}{name}.{entry}".removesuffix(".")
                helps[key] = (part.__doc__ or "").partition("\n")[0]
                helps |= _section_helps(part, f"{key}.")
    return helps


def _given(parsed: Any, prefix: str = "") -> Iterator[tuple[str, Words | bool]]:
    for member in fields(parsed):
        value = getattr(parsed, member.name)
        if is_dataclass(value):
            yield from _given(value, f"{prefix}{member.name}.")
        elif isinstance(value, Words) or (not prefix and value is True):
            yield prefix + member.name, value
