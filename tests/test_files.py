"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from agehpc.files import atomic_path, unwritable, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_is_taken_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "a.txt", "x")


def test_text_is_utf_8_with_unix_lines(tmp_path):
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_what_cannot_be_written_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    assert unwritable(tmp_path / "new") is None
    assert unwritable(tmp_path / "a" / "b" / "new") is None
    assert unwritable(tmp_path / "file") is None
    assert unwritable(tmp_path) == f"{tmp_path} is a folder"
    assert unwritable(tmp_path / "file" / "new") == f"{tmp_path / 'file'} is no folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may do all
    assert unwritable(tmp_path / "a" / "new") == f"{tmp_path} is not writable"
    assert unwritable(tmp_path / "file") is None
