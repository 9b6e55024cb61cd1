"""What a training leaves in its process."""

from pathlib import Path

import pytest

from tests.train.runs import Training, flags, stages


@pytest.mark.parametrize("ending", ["done", "diverged"])
def test_no_thread_of_a_process_group(shards: Path, tmp_path: Path, ending: str):
    """One that asks for the interpreter while it ends aborts the process."""
    arguments = [*stages(0, 0), "--train.kimg", "0.008", "--observe.tick-kimg", "0.004"]
    if ending == "diverged":
        rates = [f"--players.{name}.optim.lr=1e30" for name in ("autoencoder", "critics")]
        arguments += [*rates, "--train.kimg", "0.04"]
    run = flags(shards, tmp_path / "run", *arguments)
    ended = Training(run, tmp_path / "log", 2, module="tests.train.threads_left").end()
    assert ended.codes == ([0, 0] if ending == "done" else [3, 3]), ended.output
    left = [line for line in ended.output.splitlines() if line.startswith("left:")]
    assert left == ["left:", "left:"]
