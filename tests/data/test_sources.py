import io
import itertools
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehpc.data.find import find
from agehpc.data.labels import label_of
from agehpc.data.sources import Source, group_of, group_pattern, split_groups
from agehpc.errors import DataError, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("wave/p1_1.mp4", "wave/p2_1.MOV", "bend/p1_2.mp4", "bend/notes.txt"):
        file = tmp_path / "videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path / "videos"


def make_tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


def test_folder_glob_file_and_tar_mix(tree: Path, tmp_path: Path):
    tar = make_tar(tmp_path / "more.tar", ["jump/p3_1.mp4", "jump/readme"])
    kind, found = find([str(tree / "wave"), f"{tree}/be*/*.mp4", str(tar)], None)
    assert kind == "video"
    assert {(s.name, s.folder) for s in found} == {
        ("p1_1.mp4", "wave"),
        ("p2_1.MOV", "wave"),
        ("bend/p1_2.mp4", "bend"),
        ("jump/p3_1.mp4", "jump"),
    }
    contents = {s.name: s.read().decode() for s in found}
    assert contents["jump/p3_1.mp4"] == "jump/p3_1.mp4"
    assert contents["bend/p1_2.mp4"] == "bend/p1_2.mp4"


def test_a_file_named_twice_is_packed_once(tree: Path):
    _, found = find([str(tree), str(tree / "wave" / "p1_1.mp4")], None)
    assert len(found) == 3


def test_links_to_folders_are_followed(tree: Path):
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "elsewhere" / "p9_1.mp4").touch()
    (tree / "jump").symlink_to(tree.parent / "elsewhere")
    (tree / "wave" / "up").symlink_to(tree)
    _, found = find([str(tree)], None)
    assert "jump/p9_1.mp4" in {source.name for source in found}
    assert len(found) == 4


def test_a_link_to_a_file_is_of_the_folder_that_it_lies_in(tmp_path: Path, tree: Path):
    """So DVC and git-annex lay out what they store by checksum."""
    (tmp_path / "by-class" / "jump").mkdir(parents=True)
    (tmp_path / "by-class" / "jump" / "a.mp4").symlink_to(tree / "wave" / "p1_1.mp4")
    _, (source,) = find([str(tmp_path / "by-class")], None)
    assert source.folder == "jump"


def test_a_class_that_no_manifest_can_hold(tree: Path):
    """Names of files may be any bytes."""
    (tree / "wave").rename(tree / "wave\udcff")
    sources = find([str(tree)], None)[1]
    with pytest.raises(UsageError, match=r"class 'wave\\udcff' is not text.*--labels none"):
        label_of(sources)


def test_order_does_not_follow_folders(tmp_path: Path):
    for name in [f"{c}/{i}.png" for c in "ab" for i in range(50)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [source.folder for source in find([str(tmp_path)], None)[1]]
    changes = sum(x != y for x, y in itertools.pairwise(folders))
    assert 30 < changes < 70


def test_both_kinds_need_a_choice(tree: Path):
    (tree / "wave" / "photo.jpg").touch()
    with pytest.raises(UsageError, match="--kind video"):
        find([str(tree)], None)
    assert find([str(tree)], "image")[1][0].name == "wave/photo.jpg"


@pytest.mark.parametrize(
    ("argument", "message"),
    [("nowhere", "no such file"), ("no*where/*.mp4", "no file matches"), ("", "no video or image")],
)
def test_nothing_to_pack(tmp_path: Path, argument: str, message: str):
    with pytest.raises(UsageError, match=message):
        find([f"{tmp_path}/{argument}"], None)


def test_broken_and_compressed_tars(tmp_path: Path):
    (tmp_path / "bad.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(DataError, match="not a readable tar"):
        find([str(tmp_path / "bad.tar")], None)
    (tmp_path / "packed.tar.gz").touch()
    with pytest.raises(UsageError, match="decompress"):
        find([str(tmp_path / "packed.tar.gz")], None)


def test_labels_are_folders_where_there_are_two():
    def source(folder: str) -> Source:
        return Source(Path("x.mp4"), f"{folder}/x.mp4", folder)

    assert label_of([source("a"), source("b"), source("a")]) == ["a", "b", "a"]
    assert label_of([source("a"), source("a")]) == [None, None]


def test_groups():
    source = Source(Path("x"), "wave/p12_03.mp4", "wave")
    assert group_of(source, None) == "wave/p12_03.mp4"
    assert group_of(source, group_pattern(r"p(\d+)_")) == "12"
    with pytest.raises(UsageError, match="does not match wave/p12_03"):
        group_of(source, re.compile(r"q(\d)"))
    with pytest.raises(UsageError, match="has no group"):
        group_pattern("p12")
    with pytest.raises(UsageError, match="not a regular expression"):
        group_pattern("p(12")


@given(st.sets(st.text(max_size=8), min_size=1, max_size=40), st.floats(0, 0.999))
def test_split_is_exact_and_never_empty(groups: set[str], fraction: float):
    splits = split_groups(groups, fraction)
    assert set(splits) == groups
    held_out = sum(split == "validation" for split in splits.values())
    if fraction == 0 or len(groups) == 1:
        assert held_out == 0
    else:
        assert 1 <= held_out < len(groups)
        assert abs(held_out - len(groups) * fraction) <= 1


def test_more_groups_keep_most_of_the_split():
    """A group's rank comes from its own name: growing a data set moves few groups."""
    names = [f"person{i}" for i in range(200)]
    before = split_groups(names[:180], 0.1)
    after = split_groups(names, 0.1)
    assert sum(before[name] != after[name] for name in before) < 10
