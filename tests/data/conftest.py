from pathlib import Path

import pytest

from tests.data.samples import ramp, write_video


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twelve short videos: 2 actions of 3 people, two takes each."""
    for action in ("bend", "wave"):
        (tmp_path / "people" / action).mkdir(parents=True)
        for person in range(3):
            for take in range(2):
                name = f"p{person}_{take}.mp4"
                write_video(tmp_path / "people" / action / name, ramp(20, 32, 40))
    return tmp_path / "people"
