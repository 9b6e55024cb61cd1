"""`agehpc config show` and `agehpc config list`."""

import json
import sys

from agehpc.config.load import load, parse_command
from agehpc.config.schema import Section, identity_hash
from agehpc.config.text import yaml_lines
from agehpc.errors import EXIT_DONE
from agehpc.recipes import RECIPES, summary


class ShowFlags(Section):
    """Flags of `agehpc config show`."""

    json_: bool = False
    """Print JSON: the configuration, the source of every value and the run's hash."""


class ListFlags(Section):
    """List the recipes."""

    json_: bool = False
    """Print JSON: name to first line."""


def show(argv: list[str]) -> int:
    """Print what a recipe, a file and flags come to, each value with its source."""
    loaded = load(argv, prog="agehpc config show", extra=ShowFlags)
    if loaded.extra.json_:
        tree = {
            "config": loaded.config.model_dump(mode="json"),
            "sources": loaded.provenance,
            "hash": identity_hash(loaded.config),
        }
        sys.stdout.write(json.dumps(tree, indent=2) + "\n")
        return EXIT_DONE
    lines = yaml_lines(loaded.config)
    # Values longer than this keep their line to themselves instead of pushing all comments out.
    width = max(len(line) for line, _ in lines if len(line) <= 60)
    for line, key in lines:
        comment = f"{line:<{width}}  # {loaded.provenance[key]}" if key else line
        sys.stdout.write(comment + "\n")
    return EXIT_DONE


def list_recipes(argv: list[str]) -> int:
    """Print every recipe's name and first line."""
    flags = parse_command(argv, prog="agehpc config list", model=ListFlags)
    rows = {name: summary(name) for name in RECIPES}
    if flags.json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return EXIT_DONE
    width = max(map(len, rows))
    for name, text in rows.items():
        sys.stdout.write(f"{name:<{width}}  {text}\n")
    return EXIT_DONE
