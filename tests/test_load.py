"""The stage that reads and decodes, by itself."""

import json
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pipelines.degraded import degraded
from pipelines.items import Entry, Shard
from pipelines.load import Loader
from pipelines.schema import SCORED, unpack
from pipelines.sources import open_source
from radet.crop import CropPolicy
from radet.degradations import degrade
from radet.images import Limits

from .corpus import write_corpus

BLOCK = 64


class Desk:
    """Takes everything."""

    def begin(self, shard: int) -> int:
        return 0

    def dare(self, shard: int, key: bytes | None) -> bool:
        raise AssertionError("nothing has died")

    def wants(self, shard: int, first: int) -> bool:
        raise AssertionError("there is no limit")

    def admit(self, shard: int, first: int, inputs: list[tuple[bytes, bytes | None]]) -> list[bool]:
        return [True] * len(inputs)

    def claim(self, inputs: list[tuple[bytes, bytes]]) -> list[int]:
        return [SCORED] * len(inputs)

    def finish_container(self, name: str, version: str, inputs: int) -> None:
        raise AssertionError("no container was read")


def test_blocks_that_are_handed_on_leave_no_memory(tmp_path: Path, photographs: list[Image.Image]) -> None:
    write_corpus(tmp_path, BLOCK, photographs)
    entries = list(open_source(str(tmp_path), ids=None, column=None, allow_http=False).entries())
    payload = json.dumps(Shard("files", {"entries": entries}))
    loader = Loader(desk=Desk(), policy=CropPolicy(resize=224, size=224), allow_http=False, block=BLOCK)
    process, crops = psutil.Process(), BLOCK * 224 * 224 * 3

    def load(times: int) -> int:
        for number in range(times):
            (batch,) = loader.load(number, payload)
            assert batch.nbytes > crops
        return int(process.memory_full_info().uss)

    warm = load(3)
    assert load(8) - warm < 4 * crops


def test_a_degraded_copy_may_be_larger_than_what_may_be_read(tmp_path: Path) -> None:
    side, path = 4800, tmp_path / "noise.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(path, quality=30)
    location = degraded(str(path), "noise:20")
    payload = json.dumps(Shard("files", {"entries": [Entry("noise", location, location, "1")]}))
    loader = Loader(desk=Desk(), policy=CropPolicy(resize=224, size=224), allow_http=False, block=BLOCK)
    (batch,) = loader.load(0, payload)
    (row,) = unpack(batch).to_pylist()
    assert (row["status"], row["width"]) == ("ok", side), row["error"]
    assert len(degrade(path.read_bytes(), "noise:20")) > Limits().max_bytes > path.stat().st_size
