"""A front's decoding: bytes to crop in threads of its own, and how much may wait for them.

What waits is counted in pixels, as the headers announce them, for those are what takes the time: a PNG of 300 kB can
hold 100 megapixels, seconds of work. Large pictures have threads of their own, so that no small one waits for them, and
are counted by themselves, as are those of batches: many of one kind never shut out another.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

from pipelines.failures import RequestError
from pipelines.observe import Meters
from radet.crop import CropPolicy
from radet.degradations import degrade
from radet.errors import ImageError
from radet.images import Limits, read_header
from radet.rows import Row, see

_LARGE = 16_000_000  # pixels
_AHEAD = 100_000_000  # pixels of one kind, for each thread: half a second of JPEG, seconds of PNG
_SHORT = 1 << 20  # bytes: a JPEG's header is found in 0.4 ms, and to wake a thread for it takes as long
_FULL_PAUSE_S = 0.05  # a batch's picture waits where there is no room; a single one is refused


class Decoder:
    """Decodes for one front: `threads` for small pictures, and as many for large ones."""

    def __init__(self, threads: int, meters: Meters) -> None:
        self._meters = meters
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="radet-decode")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="radet-decode-large")
        self._most = threads * _AHEAD
        self._inside: Counter[tuple[bool, bool]] = Counter()  # pixels, by kind: of a batch, large

    async def see(
        self, data: bytes, policy: CropPolicy, limits: Limits, *, condition: str | None = None, patient: bool = False
    ) -> Row:
        """Decoded, cropped and hashed, off the event loop; with a `condition`, of the picture that is degraded so.
        `patient`: wait where too much is to be decoded already.

        Raises ImageError, and RequestError("overloaded") where it is not patient.
        """

        def work() -> Row:
            begun, seen, allowed = time.perf_counter(), data, limits
            if condition is not None:
                seen = degrade(data, condition, limits)
                allowed = replace(limits, max_bytes=len(seen))  # a PNG is larger than what was sent
            row = see(seen, policy, allowed)
            self._meters.decode.observe(time.perf_counter() - begun)
            return Row(facts={"sha256": hashlib.sha256(seen).hexdigest(), **row.facts}, crop=row.crop)

        pixels = _pixels(data, limits) if len(data) <= _SHORT else await asyncio.to_thread(_pixels, data, limits)
        threads = self._large if pixels > _LARGE else self._small
        async with self._room(pixels, patient):
            row = await asyncio.get_running_loop().run_in_executor(threads, work)
        if row.crop is None:
            raise ImageError(row.facts["status"], row.facts["error"])
        return row

    @asynccontextmanager
    async def _room(self, pixels: int, patient: bool) -> AsyncIterator[None]:
        """Room for so many pixels; the first picture of its kind always has it."""
        kind = (patient, pixels > _LARGE)
        while self._inside[kind] and self._inside[kind] + pixels > self._most:
            if not patient:
                raise RequestError("overloaded", "too many pixels wait to be decoded: try again soon")
            await asyncio.sleep(_FULL_PAUSE_S)
        self._inside[kind] += pixels
        try:
            yield
        finally:
            self._inside[kind] -= pixels


def _pixels(data: bytes, limits: Limits) -> int:
    """Those that will be decoded: none where the header is refused."""
    try:
        header = read_header(data, limits)
    except ImageError:
        return 0
    pixels = header.width * header.height
    return pixels if pixels <= limits.max_pixels else 0
