"""Configurations as people write them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from radet.errors import ConfigError
from radet.typed import from_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    rate: float = 1.0
    name: str = ""


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("+2E3", 2e3), ("1.5e-2", 1.5e-2), ("-1", -1.0)])
def test_numbers_with_an_exponent_need_no_point(tmp_path: Path, text: str, number: float) -> None:
    (tmp_path / "a.yaml").write_text(f"rate: {text}\nname: 1e4a\n")
    assert from_yaml(_Config, tmp_path / "a.yaml") == _Config(rate=number, name="1e4a")


def test_text_that_reads_as_a_number_wants_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: 1e4\n")
    with pytest.raises(ConfigError, match="name must be text, in quotes"):
        from_yaml(_Config, tmp_path / "a.yaml")
