"""Hostile bodies: ten thousand mutated pictures, and what schemathesis makes of the OpenAPI document.

The pictures are decoded for real; a stand-in scores them, since the detector sees only crops, which are always sound.
"""

import asyncio
import gc
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipelines.failures import RequestError
from pipelines.front import Front
from pipelines.intake import Item
from pipelines.model import Scored
from radet.crop import CropPolicy
from radet.errors import ImageError

from .bad_inputs import _files
from .service import LocalMonitor, Service
from .test_monitor import FACTS, scorer

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
DOCUMENTED = {"ok", *ImageError.codes}
EVIDENCE = {"logit": 0.0, "p_generated": 0.5, "verdict": "uncertain"}


class Standing:
    """A scorer that is asked for a crop, and nothing else."""

    async def score(self, crop: np.ndarray[Any, Any], policy: CropPolicy, *, patient: bool) -> Scored:
        assert crop.shape == (policy.size, policy.size, 3)
        assert crop.dtype == np.uint8
        return Scored(evidence=EVIDENCE, model_id="m", band=None, queue_s=0.0, inference_s=0.0, batch=1)


def mutants(count: int) -> Iterator[bytes]:
    """Truncated, bit-flipped, overwritten, spliced and random bodies, from one sound file of each format."""
    rng = np.random.default_rng(11)
    files = [data for status, data in _files().values() if status == "ok" and len(data) < 60_000]
    for number, data in zip(range(count), itertools.cycle(files), strict=False):
        body = bytearray(data)
        match number % 6:
            case 0:
                del body[int(rng.integers(len(body))) :]
            case 1:
                for at in rng.integers(len(body), size=8):
                    body[at] ^= 1 << int(rng.integers(8))
            case 2:  # where the sizes are
                for at in rng.integers(min(len(body), 64), size=3):
                    body[at] = int(rng.integers(256))
            case 3:
                at = int(rng.integers(len(body)))
                body[at : at + 40] = rng.bytes(40)
            case 4:
                other = files[int(rng.integers(len(files)))]
                body[len(body) // 2 :] = other[len(other) // 2 :]
            case _:
                body = bytearray(body[:16] + rng.bytes(int(rng.integers(1, 4000))))
        yield bytes(body)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_pictures_get_documented_answers_and_leave_no_memory(count: int) -> None:
    async def run() -> tuple[Counter[str], list[int]]:
        monitor = LocalMonitor()
        monitor.monitor.report(scorer("s1", facts=FACTS))
        front = Front(Standing(), monitor, threads=2)  # type: ignore[arg-type]
        found: Counter[str] = Counter()
        memory, longest = [], 0
        for number, body in enumerate(mutants(count)):
            try:
                told = await front.score(Item(data=body))
                found[told["status"]] += 1
            except ImageError as error:
                found[error.code] += 1
                longest = max(longest, len(error.message))
            except RequestError as error:
                found[f"request {error.code}"] += 1
            if number % (count // 10) == count // 10 - 1:
                gc.collect()
                memory.append(psutil.Process().memory_info().rss >> 20)
        assert longest < 500, "a message that quotes the body"
        return found, memory

    found, memory = asyncio.run(run())
    assert set(found) <= DOCUMENTED, found
    assert found.total() == count
    assert min(found["ok"], found["truncated"], found["corrupt"]) > count // 50, found
    assert memory[-1] - memory[len(memory) // 2] < 60, memory


def test_schemathesis_finds_no_server_error(here: Service) -> None:
    """Every operation of the document, with what it allows and with what it does not."""
    command = [SCHEMATHESIS, "run", f"{here.url}/openapi.json", "--checks=not_a_server_error", "--max-examples=25"]
    done = subprocess.run(
        [*command, "--seed=7", "--no-color"], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"Operations:\s+7 selected / 7 total", done.stdout) or "7" in done.stdout, done.stdout[-4000:]
