"""`agehpc config`."""

import json
import re

import yaml

from agehpc.cli import main
from agehpc.config.tree import flatten
from agehpc.recipes import RECIPES


def test_show_prints_yaml_with_the_source_of_every_value(capsys, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("observe: {grid: 3}\n")
    assert main(["config", "show", "image_age_64", "--config", str(file), "--run.seed", "4"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["observe"]["grid"] == 3
    sources = dict(re.findall(r"^ *(\w+): .*? +# (.+)$", shown, flags=re.M))
    assert sources["seed"] == "flag"
    assert sources["grid"] == f"file {file}"
    assert sources["latent"] == "recipe image_age_64"
    assert shown.count("  # ") == len(flatten(RECIPES["image_age_64"]().model_dump()))
    assert len({line.index("  # ") for line in shown.splitlines() if "  # " in line}) == 1


def test_show_as_json(capsys):
    assert main(["config", "show", "image_age_64", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"] == RECIPES["image_age_64"]().model_dump(mode="json")
    assert set(shown["sources"]) == set(flatten(shown["config"]))
    assert re.fullmatch("[0-9a-f]{16}", shown["hash"])


def test_list(capsys):
    assert main(["config", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(len(line.split()) > 4 for line in lines)
    assert main(["config", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(RECIPES)
    assert main(["config", "list", "more"]) == 2
    assert "error: unexpected word 'more'" in capsys.readouterr().err
    assert main(["config", "list", "--help"]) == 0
    assert "Print JSON: name to first line." in capsys.readouterr().out
