"""The corpus of `make demo`."""

from collections import Counter
from pathlib import Path

import pytest

from jobs.sample import write_sample
from radet import Detector


def test_a_sample_holds_sound_pictures_and_one_of_each_kind_of_broken_ones(tmp_path: Path) -> None:
    folder = tmp_path / "demo" / "images"
    counts = [write_sample(folder) for _ in range(2)]
    files = [path for path in folder.rglob("*") if path.suffix]
    found = Counter(score.status for score in Detector.from_pretrained("radet-lite").score(files))
    broken = ("empty", "not_an_image", "not_found", "too_many_pixels", "truncated", "unsupported_format")
    assert found == {"ok": 25, **dict.fromkeys(broken, 1)}
    assert counts == [31, 31]


def test_a_folder_with_files_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "mine.jpg").touch()
    (tmp_path / "letters").mkdir()
    with pytest.raises(SystemExit, match="holds other files"):
        write_sample(tmp_path)
    assert (tmp_path / "photographs" / "mine.jpg").exists()
