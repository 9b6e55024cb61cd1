"""A sweep, driven: Ray Tune runs the trials, and what they come to is written down at once.

Ray works in a thread. The main one takes signals and watches over Ray, which hangs for ever where
its own processes are killed.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agehpc.cluster.environment import Environment
from agehpc.config.schema import Config
from agehpc.errors import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_RESTART,
    AgehpcError,
    UsageError,
)
from agehpc_tune.cluster import Cluster
from agehpc_tune.display import Display
from agehpc_tune.follow import scores
from agehpc_tune.ranks import GRACE_S, wait_until_free
from agehpc_tune.record import Record, Trial
from agehpc_tune.search import searcher
from agehpc_tune.spaces import Space
from agehpc_tune.spec import BASE, Spec

TRAIN = (sys.executable, "-m", "agehpc", "train")
_WATCH_S = 0.3


class Asked:
    """Which exit code a signal asks for; entered, it takes SIGTERM, SIGUSR1, SIGUSR2 and SIGINT."""

    def __init__(self) -> None:
        self.code: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Asked":
        self._before = self.listen()
        return self

    def listen(self) -> dict[signal.Signals, Any]:
        """Take the signals, once more where somebody else has; return who had them."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
        return {number: signal.signal(number, self._caught) for number in numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        self.code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_RESTART


def run(
    out: Path, spec: Spec, base: Config, space: Space, place: Environment, cpus: int, gpus: int
) -> tuple[Record, int]:
    """Run what is left of a sweep; return its record and the exit code.

    Args:
        out: the sweep directory, written by `spec.write` and locked.
        spec: the sweep.
        base: what every trial starts from.
        space: what is searched.
        place: of this process; the first of as many nodes.
        cpus: of this node.
        gpus: of this node.
    """
    record = Record(out, spec.targets, space.keys)
    for left in out.glob("searcher-*.pkl"):
        if left.name != record.searcher:
            left.unlink()
    display = Display(record, spec.targets, space.keys, base.train.kimg)
    if sum(trial.ended for trial in record.trials) >= spec.trials:
        return record, _exit_code(record)
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(Asked())
        stack.callback(display.close)
        cluster = stack.enter_context(Cluster(place, cpus, gpus, out))
        asked.listen()  # Ray takes SIGTERM for itself, and what it starts is to ignore the others
        _check_fits(spec)
        lost = _drive(out, spec, base, space, record, display, asked, cluster.healthy)
        for trial in record.trials:
            if not trial.ended:
                wait_until_free(record.run(trial))
        if lost:
            display.close()
            cluster.__exit__()
            _leave(out, asked.code)
    if asked.code is not None and not all(trial.ended for trial in record.trials):
        return record, asked.code
    return record, _exit_code(record)


def _exit_code(record: Record) -> int:
    return EXIT_DONE if any(trial.state == "done" for trial in record.trials) else EXIT_FAILURE


def _leave(out: Path, asked: int | None) -> None:
    """End the process where Ray, whose threads wait for what is gone, would not let it end."""
    sys.stdout.flush()
    if asked is None:  # else they had the same signal
        sys.stderr.write(
            "error: Ray's processes on this machine have ended, killed or for want of memory; "
            f"nothing is lost: agehpc tune --resume --out {out}\n"
        )
        sys.stderr.flush()
    os._exit(EXIT_LOST if asked is None else asked)


def _check_fits(spec: Spec) -> None:
    """Raise UsageError where no node can take a trial's bundle, or too few can."""
    import ray

    bundle = spec.resources.bundle()
    fitting = [
        node
        for node in ray.nodes()
        if all(node["Resources"].get(name, 0) >= count for name, count in bundle.items())
    ]
    if len(fitting) < spec.resources.nodes:
        needed = " and ".join(f"{count:g} {name}s" for name, count in bundle.items())
        raise UsageError(
            f"a trial takes {needed} of {spec.resources.nodes} nodes, and {len(fitting)} of "
            f"{len(ray.nodes())} have them; lower --cpus-per-trial, --gpus-per-trial or "
            "--nodes-per-trial"
        )


def _drive(
    out: Path,
    spec: Spec,
    base: Config,
    space: Space,
    record: Record,
    display: Display,
    asked: Asked,
    healthy: Callable[[], bool],
) -> bool:
    """Run the trials until all have ended or a signal has come; True where Ray is gone."""
    from ray import tune

    from agehpc_tune import trial as trials
    from agehpc_tune.asha import scheduler
    from agehpc_tune.recorded import Recorded

    class Stop(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return asked.code is not None

    names = [objective.name for objective in spec.targets]

    def config(one: Trial) -> dict[str, Any]:
        words = [*TRAIN, spec.recipe, "--config", out / BASE, *space.flags(one.values)]
        words += ["--out", record.run(one)]
        return {
            "command": [str(word) for word in words],
            "run": str(record.run(one)),
            "cwd": spec.cwd,
            "objectives": names,
            "kimg": one.values.get("train.kimg", base.train.kimg),
            "ranks": spec.resources.ranks,
            "nodes": spec.resources.nodes,
            "bundle": spec.resources.bundle(),
        }

    inner = searcher(spec.search, space, spec.targets, seed=spec.seed, trials=spec.trials)
    recorded = Recorded(
        inner,
        record,
        spec.targets,
        out,
        trials=spec.trials,
        live=spec.max_concurrent,
        config=config,
        counts=lambda error: healthy() and not (error and asked.code is not None),
        listener=display,
    )
    rungs = None
    if spec.asha is not None:
        ended = [scores(record.run(one), names) for one in record.trials if one.ended]
        rungs = scheduler(spec.asha, spec.targets[0], base.train.kimg, ended)
    shutil.rmtree(out / "ray" / "tune", ignore_errors=True)
    os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(int(GRACE_S) + 60)
    tune.register_trainable(trials.NAME, trials.Trial)
    tuner = tune.Tuner(
        trials.NAME,
        tune_config=tune.TuneConfig(search_alg=recorded, scheduler=rungs, num_samples=-1),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((out / "ray").absolute()),
            stop=Stop(),
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(_WATCH_S)
        if not healthy():
            with recorded.lock:
                return True
        if asked.code is not None and not told:
            told = True
            display.say("asked to stop: the trials save")
    if raised:
        raise AgehpcError(f"Ray Tune failed: {raised[0]!r}") from raised[0]
    return False
