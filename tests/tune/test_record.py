"""The record of a sweep, and the searcher that keeps it, killed at every write."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher

from agehpc.errors import RunError
from agehpc_tune.objectives import Objective
from agehpc_tune.record import Record, Trial
from agehpc_tune.recorded import Recorded

PSNR, SPEED = Objective("psnr", "max"), Objective("loss", "min")
KEYS = ("a.lr", "b")


class Counting(Searcher):
    """Suggests 0, 1, 2, ...; its state is what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.told.append(["suggest", trial_id])
        return {"a.lr": len(self.told) / 10, "b": [1, 2]}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told.append(["complete", trial_id, result, error])

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps(self.told))

    def restore(self, checkpoint_path: str) -> None:
        self.told = json.loads(Path(checkpoint_path).read_text())


class Silent:
    def started(self, trial: Trial) -> None: ...
    def moved(self, trial: Trial) -> None: ...
    def ended(self, trial: Trial) -> None: ...


def opened(out: Path, trials: int = 4, live: int = 2, counts: bool = True) -> Recorded:
    return Recorded(
        Counting(),
        Record(out, [PSNR], KEYS),
        [PSNR],
        out,
        trials=trials,
        live=live,
        config=lambda trial: {"number": trial.number},
        counts=lambda error: counts,
        listener=Silent(),
    )


def report(kimg: float, state: str = "running", **more: float) -> dict[str, Any]:
    return {"kimg": kimg, "seconds": 1.0, "state": state, "node": "n1", **more}


def done(recorded: Recorded, ray_id: str, psnr: float) -> None:
    number = recorded._of[ray_id].number
    run = recorded._record.run(recorded._record.trials[number])
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(f"number: {number}\n")
    recorded.on_trial_complete(ray_id, report(9.0, "done", psnr=psnr))


def state(out: Path) -> list[tuple[int, str]]:
    return [(trial.number, trial.state) for trial in Record(out, [PSNR], KEYS).trials]


def test_trials_in_turn(tmp_path: Path):
    recorded = opened(tmp_path)
    assert recorded.suggest("r0") == {"number": 0}
    assert recorded.suggest("r1") == {"number": 1}
    assert recorded.suggest("r2") is None  # two at once
    done(recorded, "r1", 5.0)
    assert recorded.suggest("r2") == {"number": 2}
    recorded.on_trial_result("r0", report(3.0, psnr=1.0))
    recorded.on_trial_complete("r0", report(4.0, psnr=2.0))  # no end of its own: ASHA's
    recorded.on_trial_complete("r2", error=True)
    assert recorded.suggest("r3") == {"number": 3}
    recorded.on_trial_complete("r3", report(2.0, "diverged"))
    assert recorded.suggest("r4") == Searcher.FINISHED
    assert state(tmp_path) == [(0, "stopped"), (1, "done"), (2, "failed"), (3, "failed")]
    inner = recorded._inner
    assert isinstance(inner, Counting)
    ends = [told[1:] for told in inner.told if told[0] == "complete"]
    assert ends == [
        ["1", {"psnr": 5.0}, False],
        ["0", {"psnr": 2.0}, False],
        ["2", None, True],
        ["3", None, True],
    ]


def test_a_new_start_hands_out_what_has_not_ended(tmp_path: Path):
    first = opened(tmp_path)
    first.suggest("r0")
    first.suggest("r1")
    done(first, "r0", 5.0)
    first.suggest("r2")
    again = opened(tmp_path)
    assert again._inner.told == first._inner.told  # type: ignore[attr-defined]
    assert again.suggest("s0") == {"number": 1}
    assert again.suggest("s1") == {"number": 2}
    done(again, "s0", 1.0)
    assert again.suggest("s2") == {"number": 3}
    assert len(list(tmp_path.glob("searcher-*.pkl"))) == 1


def test_what_ends_without_ray_has_not_ended(tmp_path: Path):
    recorded = opened(tmp_path, counts=False)
    recorded.suggest("r0")
    recorded.on_trial_complete("r0", error=True)
    assert state(tmp_path) == [(0, "running")]


def test_seconds_add_up_over_processes(tmp_path: Path):
    recorded = opened(tmp_path)
    recorded.suggest("r0")
    for seconds in (2.0, 5.0, 1.0, 3.0):  # a process of 5 s, then one of 3 s
        recorded.on_trial_result("r0", report(1.0, psnr=1.0) | {"seconds": seconds})
    again = opened(tmp_path)
    again.suggest("s0")
    again.on_trial_result("s0", report(1.0, psnr=1.0) | {"seconds": 4.0})
    assert Record(tmp_path, [PSNR], KEYS).trials[0].seconds == 12.0


class Killed(BaseException):
    pass


def test_killed_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever was the last thing written, a start after it has a searcher that fits its trials."""
    from agehpc_tune import record

    whole, writes = record.write_text, 0

    def run(out: Path, until: int = -1) -> None:
        nonlocal writes
        writes = 0

        def write(path: Path, text: str) -> None:
            nonlocal writes
            writes += 1
            if writes == until:
                raise Killed
            whole(path, text)

        monkeypatch.setattr(record, "write_text", write)
        recorded = opened(out, trials=3, live=1)
        while (given := recorded.suggest("r")) != Searcher.FINISHED:
            assert isinstance(given, dict)
            done(recorded, "r", given["number"])

    (tmp_path / "all").mkdir()
    run(tmp_path / "all")
    total = writes
    assert total > 12
    for until in range(1, total + 1):
        out = tmp_path / str(until)
        out.mkdir()
        with pytest.raises(Killed):
            run(out, until)
        monkeypatch.setattr(record, "write_text", whole)
        again = opened(out, trials=3, live=1)
        told = again._inner.told  # type: ignore[attr-defined]
        trials = again._record.trials
        assert [t[1] for t in told if t[0] == "suggest"] == [str(t.number) for t in trials]
        ended = [t[1] for t in told if t[0] == "complete"]
        assert ended == [str(t.number) for t in trials if t.ended]
        run(out)
        assert state(out) == [(number, "done") for number in range(3)]


def made(tmp_path: Path, *scores: tuple[float, float], states: str = "") -> Record:
    record = Record(tmp_path, [PSNR, SPEED], KEYS)
    for number, (psnr, loss) in enumerate(scores):
        ended: Any = {"s": "stopped", "d": "done"}[(states or "d" * len(scores))[number]]
        trial = Trial(number, "x", {"a.lr": 0.1, "b": [1]}, ended)
        trial.objectives = {"psnr": psnr, "loss": loss}
        record.trials.append(trial)
    return record


def test_the_best_was_trained_to_the_end(tmp_path: Path):
    record = made(tmp_path, (3.0, 0.0), (9.0, 0.0), (float("nan"), 0.0), states="dsd")
    best = record.best()
    assert best is not None
    assert best.number == 0
    assert made(tmp_path, (9.0, 0.0), states="s").best() is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_the_front_is_what_nothing_dominates(scores: list[tuple[int, int]]):
    record = made(Path("nowhere"), *[(float(a), float(b)) for a, b in scores])
    front = {trial.number for trial in record.front()}
    for number, (a, b) in enumerate(scores):
        better = [(c, d) for c, d in scores if c >= a and d <= b and (c, d) != (a, b)]
        assert (number in front) == (not better)


def test_tables(tmp_path: Path):
    record = made(tmp_path, (1.0, 5.0), (2.0, 5.0), (0.5, 1.0))
    del record.trials[1].values["b"]
    for trial in record.trials:
        record.run(trial).mkdir(parents=True)
        (record.run(trial) / "config.yaml").write_text("train:\n  kimg: 1\n")
    record.save()
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    head = ["number", "id", "state", "kimg", "seconds", "a.lr", "b", "psnr", "loss", "run"]
    assert list(rows[0]) == head
    assert [row["b"] for row in rows] == ["[1]", "", "[1]"]
    with (tmp_path / "pareto.csv").open() as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["1", "2"]
    best = (tmp_path / "best.yaml").read_text()
    assert best.startswith("# trial 1 of ")
    assert best.endswith("train:\n  kimg: 1\n")


def test_damaged(tmp_path: Path):
    (tmp_path / "state.json").write_text('{"trials": [{}]}')
    with pytest.raises(RunError, match="damaged"):
        Record(tmp_path, [PSNR], KEYS)
