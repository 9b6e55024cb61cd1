"""The report of a sweep: what it draws of which trials, and that it needs no network."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from agehpc.errors import RunError
from agehpc_tune.finished import Finished, short_names
from agehpc_tune.parameters import label
from agehpc_tune.spaces import Space

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly")
pytest.importorskip("sklearn")
from agehpc_tune.report import write_report  # noqa: E402

SPACE = {
    "players.a.optim.lr": {"log_uniform": [1e-5, 1e-1]},
    "players.b.optim.lr": {"log_uniform": [1e-5, 1e-1]},
    "system.game": {"choice": ["hinge", [0.0, 0.99], True, None]},
    "system.smoothing": {"uniform": [0, 1], "when": {"system.game": "hinge"}},
    "model.latent": {"integer": [1, 64]},
}
KEYS = ("players.a.optim.lr", "players.b.optim.lr", "system.game", "model.latent")
LOSS, SPEED = {"name": "loss", "mode": "min"}, {"name": "speed", "mode": "max"}
PLOTS = ("regret", "importances", "slices", "contour", "parallel")


def values(number: int) -> dict[str, Any]:
    """Values of a trial that draws all keys alike, as a random search would."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
    return Space.parse(SPACE, "space").suggest(trial)


def loss(at: dict[str, Any]) -> float:
    return (math.log10(at["players.a.optim.lr"]) + 3) ** 2 + at["model.latent"] / 1000


def sweep(
    folder: Path,
    count: int,
    *,
    goals: Any = (LOSS,),
    entries: Any = SPACE,
    states: Any = (),
    score: Any = loss,
) -> Path:
    """Write the files of a sweep whose trials all ended, but for the states of some numbers."""
    rows = []
    for number in range(count):
        state = dict(states).get(number, "done")
        at = values(number)
        cells = {key: _cell(at[key]) if key in at else "" for key in entries}
        found = {"loss": score(at), "speed": -score(at) + at["model.latent"]}
        shown = {g["name"]: found[g["name"]] if state in ("done", "stopped") else "" for g in goals}
        about = {"number": number, "id": f"{number:04x}", "state": state, "kimg": 4, "seconds": 9.5}
        rows.append(about | cells | shown | {"run": f"trials/{number:03d}"})
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trials.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]] if rows else ["number"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    settings = {"search": "bayes", "space": entries, "objectives": list(goals)}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and value is not True else label(value)


class Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"src", "href", "data", "action"}
        self.found += [f"{tag} {value}" for name, value in attrs if name in wanted]


def test_report(tmp_path: Path):
    states = {3: "failed", 4: "stopped", 5: "running"}
    page = write_report(sweep(tmp_path / "one", 14, states=states))
    assert page == tmp_path / "one" / "report.html"
    pictures = sorted((tmp_path / "one" / "figures").iterdir())
    assert [file.name for file in pictures] == sorted(f"{name}-loss.png" for name in PLOTS)
    for file in pictures:
        with Image.open(file) as picture:
            low, high = picture.convert("L").getextrema()
            assert picture.width > 400
            assert (low < 100, high > 200) == (True, True)
    text = page.read_text()
    links = Links()
    links.feed(text)
    assert links.found == []
    assert len(re.findall(r"Plotly\.newPlot\(", text)) >= len(PLOTS)
    done = [number for number in range(14) if number not in states]
    best = min(done, key=lambda number: loss(values(number)))
    assert f"trial {best}:" in text
    assert "14 trials (11 done, 1 failed, 1 stopped, 1 running) by bayes" in text


def test_two_objectives_have_a_front(tmp_path: Path):
    write_report(sweep(tmp_path, 8, goals=(LOSS, SPEED)))
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    wanted = {f"{name}-{goal}.png" for name in PLOTS for goal in ("loss", "speed")}
    assert names == wanted | {"pareto.png"}
    assert "loss, minimised" in (tmp_path / "report.html").read_text()
    study = Finished.read(tmp_path).study(*Finished.read(tmp_path).objectives)
    pairs = [(loss(values(n)), values(n)["model.latent"] - loss(values(n))) for n in range(8)]
    front = {
        number
        for number, (a, b) in enumerate(pairs)
        if not any(x <= a and y >= b and (x, y) != (a, b) for x, y in pairs)
    }
    assert {trial.number for trial in study.best_trials} == front


def test_studies_hold_what_was_tried(tmp_path: Path):
    found = Finished.read(sweep(tmp_path, 9, states={2: "failed", 6: "stopped"}))
    study = found.study(*found.objectives)
    assert [trial.number for trial in study.trials] == list(range(9))
    for number, trial in enumerate(study.trials):
        if number in (2, 6):
            assert trial.state == optuna.trial.TrialState.FAIL
            continue
        at = values(number)
        wanted = {found.names[k]: label(v) if k == "system.game" else v for k, v in at.items()}
        assert trial.params == wanted
        assert trial.value == loss(at)
    assert study.best_value == min(loss(values(n)) for n in range(9) if n not in (2, 6))


def test_the_important_key_is_named_first(tmp_path: Path):
    from agehpc_tune.report import _ranked

    found = Finished.read(sweep(tmp_path, 30))
    assert _ranked(found.study(*found.objectives))[0] == "a.optim.lr"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_trials_for_figures(count: int, tmp_path: Path):
    text = write_report(sweep(tmp_path, count)).read_text()
    assert "Figures need 3 trials" in text
    assert not (tmp_path / "figures").exists()
    assert text.count("<tr>") + text.count("<tr class=best>") == (count + 1 if count else 0)


@pytest.mark.parametrize("key", KEYS)
def test_a_single_key(key: str, tmp_path: Path):
    write_report(sweep(tmp_path, 3, entries={key: SPACE[key]}))
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}-loss.png" for name in PLOTS if name != "contour"}


def test_values_that_are_all_alike(tmp_path: Path):
    write_report(sweep(tmp_path, 4, score=lambda at: 2.5))
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {"regret-loss.png", "slices-loss.png", "parallel-loss.png"}


def test_trials_that_are_all_alike(tmp_path: Path):
    folder = sweep(tmp_path, 4)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    for number, row in enumerate(rows):
        row |= {key: rows[0][key] for key in SPACE} | {"loss": str(number)}
    with (folder / "trials.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert write_report(folder).is_file()


def test_texts_are_escaped(tmp_path: Path):
    folder = sweep(tmp_path / "<b>", 1)
    text = (folder / "trials.csv").read_text().replace("trials/000", "<script>alert()</script>")
    (folder / "trials.csv").write_text(text)
    page = write_report(folder).read_text()
    assert "alert()" in page
    assert "<script>alert()" not in page
    assert "Sweep &lt;b&gt;" in page


def test_short_names():
    assert short_names(KEYS) == {
        "players.a.optim.lr": "a.optim.lr",
        "players.b.optim.lr": "b.optim.lr",
        "system.game": "game",
        "model.latent": "latent",
    }
    assert short_names(["lr", "x.lr"]) == {"lr": "lr", "x.lr": "x.lr"}


def test_what_is_no_sweep(tmp_path: Path):
    with pytest.raises(RunError, match=r"no sweep directory: it has no sweep.yaml"):
        write_report(tmp_path)
    folder = sweep(tmp_path / "one", 1)
    (folder / "sweep.yaml").write_text(json.dumps({"space": SPACE}))
    with pytest.raises(RunError, match=r"sweep.yaml is damaged.*objectives"):
        write_report(folder)
    (folder / "trials.csv").unlink()
    with pytest.raises(RunError, match=r"no trials.csv"):
        write_report(folder)
