"""What the benchmarks share: which pictures they take, and what they say before they begin."""

import sys
from pathlib import Path

import pytest

from benchmarks.command import new_parser, require_modules, run_main
from benchmarks.pictures import evenly, pick
from radet.errors import ConfigError


@pytest.mark.parametrize("count", [1, 7, 1000, 1998])
def test_pictures_are_taken_from_the_first_folder_to_the_last(count: int) -> None:
    chosen = evenly(range(1999), count)
    assert len(chosen) == count
    ends = {0, *chosen, 1999}
    gaps = [after - before for before, after in zip(sorted(ends), sorted(ends)[1:], strict=False)]
    assert max(gaps) <= 1999 // count + 1


def test_fewer_pictures_than_asked_for_are_all_taken_once() -> None:
    assert evenly("abc", 5) == ["a", "b", "c"]


def test_a_folder_without_pictures_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit, match="no pictures below"):
        run_main(lambda: print(pick(tmp_path, 3)))


def test_an_interpreter_without_the_peer_is_refused_before_anything_is_measured() -> None:
    require_modules(sys.executable, "json")
    with pytest.raises(ConfigError, match="No module named 'no_such_peer'"):
        require_modules(sys.executable, "no_such_peer")
    with pytest.raises(ConfigError, match="cannot be started"):
        require_modules("/no/such/python", "json")


def test_help_has_the_docstring_as_it_stands_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = new_parser("first line\n\n    indented")
    parser.add_argument("--rounds", type=int, default=3, help="in all")
    parser.add_argument("--daft", action="store_true", help="too")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    told = capsys.readouterr().out
    assert "\n    indented\n" in told
    assert "in all (default: 3)" in told
    assert "default: False" not in told
    assert "default: None" not in told
