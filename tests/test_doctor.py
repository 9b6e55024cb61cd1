import json
import os
import shutil
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from agehpc import doctor
from agehpc.errors import DataError

WANTED = [
    "torch>=2.14,<2.15",
    "decord2>=3.4,<4",
    "av>=18,<19",
    'pytest>=9; extra == "dev"',
]
FITTING = {"torch": "2.14.1", "decord2": "3.4.0", "av": "18.0.1"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that agehpc wants WANTED and that only these versions are installed."""

    def pretend(versions: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(doctor.metadata, "requires", lambda name: WANTED)
        monkeypatch.setattr(doctor.metadata, "version", version)

    return pretend


def statuses(rows: list[doctor.Row]) -> dict[str, str]:
    return {row.name: row.status for row in rows}


def test_this_machine_passes_and_json_says_the_same(capsys: pytest.CaptureFixture[str]):
    code = doctor.main(["--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["ok"]) == (0, True)
    rows = {row["name"]: row for row in told["checks"]}
    for name in ("python", "devices", "decoders", "launcher", "cores", "disk here", "disk temp"):
        assert rows[name]["status"] in ("ok", "warn")
    assert rows["decoders"]["status"] == "ok"
    assert all(row["fix"] for row in told["checks"] if row["status"] != "ok")


def test_a_failed_check_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = [doctor.Row("a", "ok", "fine"), doctor.Row("longer", "fail", "broken", "mend it")]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: rows,))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok    a       fine",
        "fail  longer  broken",
        "              fix: mend it",
        "1 ok, 0 warn, 1 fail",
    ]


def test_packages_in_their_ranges(install: Callable[..., None]):
    install(FITTING)
    assert statuses(doctor.packages()) == {"decord": "ok", "packages": "ok"}


def test_packages_out_of_their_ranges(install: Callable[..., None]):
    install(FITTING | {"torch": "2.13.0", "av": "19.1"})
    rows = doctor.packages()
    assert statuses(rows) == {"decord": "ok", "torch": "warn", "av": "warn", "packages": "ok"}
    assert rows[1].fix == "pip install 'torch<2.15,>=2.14'"


def test_missing_package(install: Callable[..., None]):
    install({"torch": "2.14.0", "decord2": "3.4.0"})
    assert statuses(doctor.packages())["av"] == "fail"


@pytest.mark.parametrize(
    ("versions", "status", "text"),
    [
        ({"decord2": "3.4.0"}, "ok", "decord2 3.4.0"),
        ({"decord": "0.6.0"}, "ok", "decord 0.6.0"),
        ({"decord2": "4.0"}, "warn", "tested are <4,>=3.4"),
        ({"decord2": "3.4.0", "decord": "0.6.0"}, "warn", "overwrite each other"),
        ({}, "fail", "neither"),
    ],
)
def test_decord(install: Callable[..., None], versions: dict[str, str], status: str, text: str):
    install({"torch": "2.14.0", "av": "18.0"} | versions)
    row = doctor.packages()[0]
    assert (row.name, row.status) == ("decord", status)
    assert text in row.text


def test_agehpc_not_installed(monkeypatch: pytest.MonkeyPatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert statuses(doctor.packages()) == {"packages": "warn"}


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.9", "warn"), ("3.11.0", "ok"), ("3.13.5", "ok"), ("3.14.1", "warn")],
)
def test_python(monkeypatch: pytest.MonkeyPatch, version: str, status: str):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    assert statuses(doctor.python()) == {"python": status}


def test_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "driver_present", lambda: False)
    assert statuses(doctor.devices()) == {"devices": "ok"}
    monkeypatch.setattr(doctor, "driver_present", lambda: True)
    assert statuses(doctor.devices()) == {"devices": "fail"}


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch):
    import torch

    card = type("Card", (), {"name": "A100", "total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: card)
    row = doctor.devices()[0]
    assert row.status == "ok"
    assert row.text.startswith("2 GPUs: A100 80 GiB, A100 80 GiB (torch ")


def test_launcher(monkeypatch: pytest.MonkeyPatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    assert doctor.launcher()[0].text == "one process"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert statuses(doctor.launcher()) == {"launcher": "fail"}
    assert "RANK" in doctor.launcher()[0].text
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "a")
    monkeypatch.setenv("MASTER_PORT", "2000")
    text = doctor.launcher()[0].text
    assert text.startswith("torchrun: rank 1 of 2, 2 on ")
    assert text.endswith("rendezvous a:2000")


def test_decoder_that_fails(monkeypatch: pytest.MonkeyPatch):
    from agehpc.data import decode

    def fail(*_: object) -> None:
        raise DataError("it is broken")

    monkeypatch.setattr(decode, "decode_video", fail)
    row = doctor.decoders()[0]
    assert row.status == "fail"
    assert "it is broken" in row.text


def test_decoder_that_returns_the_wrong_frames(monkeypatch: pytest.MonkeyPatch):
    from agehpc.data import decode

    right = decode.decode_video
    monkeypatch.setattr(
        decode, "decode_video", lambda media, indices, *rest: right(media, indices[::-1], *rest)
    )
    assert statuses(doctor.decoders()) == {"decoders": "fail"}


def test_encoder_that_is_missing(monkeypatch: pytest.MonkeyPatch):
    from av.codec.codec import UnknownCodecError

    from agehpc.data import video

    def no_encoder(*_: object, **__: object) -> None:
        raise UnknownCodecError("libx264")

    monkeypatch.setattr(video, "encode", no_encoder)
    row = doctor.decoders()[0]
    assert row.status == "fail"
    assert "libx264" in row.text


def fake_commands(folder: Path, *names: str, exit_code: int = 0) -> None:
    for name in names:
        program = folder / name
        program.write_text(f"#!/bin/sh\necho slurm-wlm 23.1\nexit {exit_code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("names", "exit_code", "status", "text"),
    [
        ((), 0, "ok", "not on this machine"),
        (("srun",), 0, "warn", "sbatch, scontrol not on PATH"),
        (("sbatch", "srun", "scontrol"), 0, "ok", "slurm-wlm 23.1"),
        (("sbatch", "srun", "scontrol"), 1, "warn", "finds no cluster's configuration"),
    ],
)
def test_slurm(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: tuple[str, ...],
    exit_code: int,
    status: str,
    text: str,
):
    fake_commands(tmp_path, *names, exit_code=exit_code)
    monkeypatch.setenv("PATH", str(tmp_path))
    row = doctor.slurm()[0]
    assert row.status == status
    assert text in row.text


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/proc/nowhere")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=11 * 2**30))
    assert statuses(doctor.disk()) == {"disk here": "ok", "disk temp": "fail"}
    assert doctor.disk()[1].fix.startswith("set TMPDIR")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=9 * 2**30))
    assert statuses(doctor.disk())["disk here"] == "warn"
    assert list(tmp_path.iterdir()) == []


def test_shared_memory(monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")
    # A container's usual 64 MiB.
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(total=2**26))
    row = doctor.shared_memory()[0]
    assert (row.status, row.text) == ("warn", "/dev/shm holds 0.1 GiB")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(total=2**33))
    assert doctor.shared_memory()[0].status == "ok"


def test_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {3})
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert statuses(doctor.cores()) == {"cores": "ok"}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    row = doctor.cores()[0]
    assert (row.status, "--cpus-per-task" in row.fix) == ("warn", True)
