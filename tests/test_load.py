"""The stage that reads and decodes, by itself."""

import json
from pathlib import Path

import psutil
from PIL import Image

from pipelines.items import Shard
from pipelines.load import Loader
from pipelines.schema import SCORED
from pipelines.sources import open_source
from radet.crop import CropPolicy

from .conftest import write_corpus

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
