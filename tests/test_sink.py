"""What is read of an output."""

from pathlib import Path

import pytest

from pipelines.sink import read_scores
from radet.errors import ConfigError

from .test_commit import block, commit, open_run, row


def test_a_damaged_part_is_found_by_its_checksum(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1")))
    manifest = commit(ledger, index, run)
    part = tmp_path / "out" / manifest["parts"][0]["name"]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match="damaged"):
        read_scores(url, verify=True)
