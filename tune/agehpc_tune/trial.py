"""One trial: an ordinary `agehpc train` in processes of its own, followed through its files.

A class of Ray's and no function: Ray stops a class by calling `cleanup`, which waits until the
ranks have saved. A function learns of it at its next report, and its process is gone before that.
"""

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from agehpc.errors import EXIT_DIVERGED, EXIT_DONE
from agehpc_tune.follow import Score, last_words, reached, scores
from agehpc_tune.ranks import Place, Ranks, free_port, wait_until_free

NAME = "agehpc_trial"
_POLL_S = 0.2
_HEARTBEAT_S = 1.0  # Ray can stop a trial between two reports only


class TrialError(RuntimeError):
    """A training that ended early, and not by what it was given to try."""


class Trial(tune.Trainable):
    """A run of `config["command"]` in `config["run"]`, resumed where it was begun before.

    Reports have `kimg`, `seconds`, `node`, `state` (running, done, diverged) and, at an evaluation,
    the objectives. The last one comes when the processes have ended.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the ranks, once whatever trained in the directory has ended."""
        self._run, self._names = Path(config["run"]), config["objectives"]
        self._total, self._log = config["kimg"], self._run / "logs" / "trial.log"
        self._told, self._state = -1, "running"
        self._started = time.monotonic()
        self._nodes: list[_Node] = []
        if not wait_until_free(self._run):
            raise TrialError(f"another process trains in {self._run}")
        self._nodes = _start(config, self._log)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return a bundle for every node of a trial."""
        spread = "STRICT_SPREAD" if config["nodes"] > 1 else "PACK"
        return tune.PlacementGroupFactory([config["bundle"]] * config["nodes"], strategy=spread)

    def step(self) -> dict[str, Any]:
        """Return the next report; TrialError where the training failed."""
        until = time.monotonic() + _HEARTBEAT_S
        while time.monotonic() < until:
            codes = [node.poll() for node in self._nodes]
            ended = None not in codes
            if report := self._next_score(ended):
                return report
            if ended:
                return self._end([code for code in codes if code is not None])
            if any(codes):  # ranks on other nodes wait for what is gone
                for node in self._nodes:
                    node.ask()
            time.sleep(_POLL_S)
        return self._report(reached(self._run))

    def _next_score(self, ended: bool) -> dict[str, Any] | None:
        """Return the first objectives not yet told; those of the end wait for the processes."""
        for score in scores(self._run, self._names):
            if score.step > self._told and score.kimg < self._total:
                self._told = score.step
                return self._report(score.kimg, score)
        return None

    def _end(self, codes: list[int]) -> dict[str, Any]:
        code = max(codes, key=lambda code: (code == EXIT_DIVERGED, code))
        if code == EXIT_DIVERGED:
            self._state = "diverged"
            return self._report(reached(self._run)) | {"done": True}
        found = scores(self._run, self._names)
        if code != EXIT_DONE:
            raise TrialError(f"exit code {code}: {last_words(self._log)}")
        if not found or found[-1].kimg < self._total:
            raise TrialError(
                f"done, but {', '.join(self._names)} of its end are not in {self._run}"
            )
        self._state = "done"
        return self._report(found[-1].kimg, found[-1]) | {"done": True}

    def _report(self, kimg: float, score: Score | None = None) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        values = {} if score is None else score.values
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        about = {"kimg": kimg, "seconds": seconds, "state": self._state, "node": node}
        return about | values

    def cleanup(self) -> None:
        """Stop what still runs; it saves first."""
        for node in self._nodes:
            node.ask()
        for node in self._nodes:
            node.wait()


class _Node:
    """Ranks of the trial's own node."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def poll(self) -> int | None:
        return self._ranks.poll()

    def ask(self) -> None:
        self._ranks.ask()

    def wait(self) -> None:
        self._ranks.stop()


@ray.remote
class _Agent:
    """Starts ranks on another node of a trial, in whose bundle it is."""

    def start(self, *given: Any) -> None:
        self._node = _Node(Ranks(*given))

    def poll(self) -> int | None:
        return self._node.poll()

    def ask(self) -> None:
        self._node.ask()

    def wait(self) -> None:
        self._node.wait()


class _Far(_Node):
    """Ranks of another node, through its agent."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def poll(self) -> int | None:
        return ray.get(self._agent.poll.remote())

    def ask(self) -> None:
        ray.get(self._agent.ask.remote())

    def wait(self) -> None:
        ray.get(self._agent.wait.remote())


def _start(config: dict[str, Any], log: Path) -> list[_Node]:
    count, nodes, bundle = config["ranks"], config["nodes"], config["bundle"]
    here = count // nodes
    threads = max(1, int(bundle["CPU"] // here))
    meeting = ray.util.get_node_ip_address(), free_port()

    def given(node: int) -> tuple[Any, ...]:
        place = Place(node * here, here, count, *meeting)
        own = log if node == 0 else log.with_name(f"trial-{node}.log")
        return config["command"], config["cwd"], own, place, threads

    started: list[_Node] = [_Node(Ranks(*given(0)))]
    group = ray.util.get_current_placement_group()
    assert group is not None
    for node in range(1, nodes):
        agent = _Agent.options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=node
            ),
        ).remote()
        ray.get(agent.start.remote(*given(node)))
        started.append(_Far(agent))
    return started
