"""environment.json names versions, code and machine, and no secret."""

import json
import os
import socket
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from agehpc.observe import environment


def test_describes_versions_and_machine():
    described = environment.describe()
    assert described["packages"]["torch"] == metadata.version("torch")
    assert described["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert described["hosts"] == [socket.gethostname()]
    assert described["cores"] == len(os.sched_getaffinity(0))
    assert len(described["devices"]) == torch.cuda.device_count()
    assert environment.describe(hosts=["n1", "n2"])["hosts"] == ["n1", "n2"]


def test_never_holds_the_process_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    environment.write(tmp_path / "environment.json", environment.describe())
    text = (tmp_path / "environment.json").read_text()
    assert json.loads(text)["agehpc"]
    assert "hunter2" not in text
    assert "SECRET_TOKEN" not in text


def test_never_holds_credentials_of_urls(monkeypatch):
    words = ["agehpc", "train", "--data.shards", "https://ann:hunter2@h/a?sig=1", "--out", "run"]
    monkeypatch.setattr(sys, "argv", words)
    shown = ["agehpc", "train", "--data.shards", "https://***@h/a?***", "--out", "run"]
    assert environment.describe()["command"] == shown


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    module = tmp_path / "agehpc" / "observe" / "environment.py"
    module.parent.mkdir(parents=True)
    module.touch()
    (tmp_path / "agehpc" / "__init__.py").touch()
    monkeypatch.setattr(environment, "__file__", str(module))
    git(tmp_path, "init", "-q")
    return tmp_path


def test_revision_of_a_checkout(checkout):
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    head = git(checkout, "rev-parse", "HEAD")
    assert environment.revision() == head
    (checkout / "agehpc" / "__init__.py").write_text("changed")
    assert environment.revision() == f"{head}-dirty"


def test_a_copy_inside_another_repository_has_none(checkout):
    (checkout / "other").touch()
    git(checkout, "add", "other")
    git(checkout, "commit", "-q", "-m", "one")
    assert environment.revision() is None


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.revision() is None
