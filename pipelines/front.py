"""The front: pictures in, answers out. It reads urls, decodes and crops; a scorer, here or elsewhere, does the rest.

bytes --(decode threads)--> crop --(scorer)--> evidence --> the same Score as everywhere
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipelines.access import Doorkeeper
from pipelines.backlog import Backlog
from pipelines.failures import RequestError, describe
from pipelines.http import HttpPolicy, HttpReader
from pipelines.intake import Item
from pipelines.model import Explained, ModelFacts, OtherCrop, Problem, Scored
from pipelines.monitor import REPORT_EVERY_S, Report
from pipelines.observe import Meters
from pipelines.process import cores
from pipelines.remote import MonitorClient, ScorerClient
from pipelines.settings import FrontSettings
from radet.crop import CropPolicy
from radet.errors import FetchError, ImageError, RadetError
from radet.images import Limits
from radet.rows import Row, see
from radet.score import Score

_FETCH_THREADS = 16
_KNOWN_FOR_S = 30.0  # how long a front believes what the monitor said last, where that is away
_BATCH_AT_ONCE = 8  # pictures of one batch that are worked on at the same time
_FULL_PAUSE_S = 0.05  # a batch's picture waits where the queue is full; a single one is refused


class Front:
    def __init__(
        self,
        scorer: ScorerClient,
        monitor: MonitorClient,
        *,
        replica: str = "front",
        allow_url: bool = False,
        fronts: int | None = 1,
        threads: int = 1,
        reader: HttpReader | None = None,
    ) -> None:
        """`threads` decode; `fronts` share the rate limits, None: as many as there are scorers; `reader` reads urls,
        where they are allowed."""
        self.settings: FrontSettings = FrontSettings()
        self.meters = Meters(replica)
        self.door = Doorkeeper(fronts=fronts or 1)
        self._as_many_as_scorers = fronts is None
        self.allow_url = allow_url
        self._scorer, self._monitor = scorer, monitor
        self._backlog = Backlog()
        self._reader = self._given_reader = reader
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="radet-decode")
        self._fetching = ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="radet-fetch")
        self._requests = self._bytes = 0
        self._models: list[ModelFacts] = []
        self._heard = -_KNOWN_FOR_S
        self._reporting: asyncio.Task[None] | None = None

    def reconfigure(self, config: dict[str, Any] | None) -> None:
        """Take new limits; requests that are under way keep the old ones. Raises ConfigError."""
        self.settings = FrontSettings.read(config)
        if self.allow_url and self._given_reader is None:
            policy = replace(
                HttpPolicy.from_environment(),
                max_bytes=self.settings.max_bytes,
                total_timeout_s=self.settings.url_timeout_s,
            )
            if self._reader is not None:
                self._reader.close()
            self._reader = HttpReader(policy)

    @asynccontextmanager
    async def admitted(self, announced: int | None) -> AsyncIterator[None]:
        """A place for one request of so many bytes. Raises RequestError("overloaded") before anything is read."""
        need = self.settings.max_request_bytes if announced is None else min(announced, self.settings.max_request_bytes)
        full = self._requests >= self.settings.max_in_flight
        if full or (self._requests and self._bytes + need > self.settings.max_in_flight_bytes):
            raise RequestError("overloaded", "too many requests at once: try again soon")
        self._requests, self._bytes = self._requests + 1, self._bytes + need
        self.meters.in_flight(self._requests)
        try:
            yield
        finally:
            self._requests, self._bytes = self._requests - 1, self._bytes - need
            self.meters.in_flight(self._requests)

    async def score(self, item: Item, index: int = 0, *, patient: bool = False) -> dict[str, Any]:
        """The answer on one picture: the Score, `band` and `timings`. `patient`: wait where the queue is full.

        Raises RadetError: of the picture, of its url, or RequestError("overloaded" | "not_ready").
        """
        begun = time.perf_counter()
        try:
            if not patient:
                self._backlog.check()
            with self._backlog.inside():
                async with asyncio.timeout(self.settings.score_timeout_s):
                    answer = await self._score(item, index, patient, begun)
        except TimeoutError:
            error: RadetError = RequestError("overloaded", "the picture was not scored in time")
            self.meters.images.labels(error.code).inc()
            raise error from None
        except RadetError as error:
            self.meters.images.labels(error.code).inc()
            raise
        self.meters.images.labels("ok").inc()
        return answer

    async def score_all(self, items: list[Item]) -> AsyncIterator[dict[str, Any]]:
        """The items of a batch's answer, in order, each as soon as it and all before it are done."""
        places = asyncio.Semaphore(_BATCH_AT_ONCE)

        async def one(index: int, item: Item) -> dict[str, Any]:
            told: dict[str, Any] = {"index": index, "external_id": item.external_id, "result": None, "error": None}
            async with places:
                try:
                    told["result"] = await self.score(item, index, patient=True)
                except RadetError as error:
                    told["error"] = describe(error)
            return told

        tasks = [asyncio.create_task(one(index, item)) for index, item in enumerate(items)]
        try:
            for task in tasks:
                yield await task
        finally:  # the caller has gone: nobody waits for the rest
            for task in tasks:
                task.cancel()

    async def explain(self, item: Item, *, side: int, opacity: float) -> Explained:
        """Raises as `score`. The picture is decoded here first: only a sound one takes the scorer's time."""
        try:
            async with asyncio.timeout(self.settings.score_timeout_s):
                data, _ = await self._bytes_of(item)
                await self._seen(data, (await self.facts()).policy)
                found = await self._scorer.explain(data, item.external_id or item.url, side, opacity)
        except TimeoutError:
            raise RequestError("overloaded", "the picture was not explained in time") from None
        if isinstance(found, Problem):
            kind: type[RadetError] = ImageError if found.code in ImageError.codes else FetchError
            raise kind(found.code, found.message)
        return found

    async def facts(self) -> ModelFacts:
        """The model that scores. Raises RequestError("not_ready")."""
        if not self._models:
            await self._listen()
        if not self._models:
            raise RequestError("not_ready", "no detector is loaded yet: see /readyz")
        return self._models[0]

    async def readiness(self) -> tuple[list[ModelFacts], list[Problem]]:
        """Models that are ready, and why scorers are not, as the monitor knows it now."""
        problems: list[Problem] = []
        await self._listen()
        try:
            problems = await self._monitor.problems()
        except Exception:  # noqa: BLE001 - away, for whatever reason
            if not self._models:
                problems = [Problem(code="not_ready", message="the service is starting: its monitor does not answer")]
        return self._models, problems

    async def metrics(self) -> bytes:
        """Of the whole service. Raises RequestError("not_ready") where the monitor is away."""
        try:
            await self.report()
            return await self._monitor.text()
        except Exception as error:
            raise RequestError("not_ready", "the monitor does not answer") from error

    async def report(self) -> None:
        await self._monitor.report(Report(replica=self.meters.replica, kind="front", metrics=self.meters.snapshot()))

    def start(self) -> None:
        """Report and listen from now on; needs the running event loop. Again does nothing."""
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._keep_reporting())

    async def _keep_reporting(self) -> None:
        while True:
            await self._listen()
            with suppress(Exception):  # away: metrics are cumulative, so nothing is lost
                await self.report()
            await asyncio.sleep(REPORT_EVERY_S)

    async def _listen(self) -> None:
        try:
            self._models = await self._monitor.models()
            self._heard = time.monotonic()
            if self._as_many_as_scorers:
                self.door.fronts = max(1, len(self._models))
        except Exception:  # noqa: BLE001 - away, for whatever reason
            if time.monotonic() - self._heard > _KNOWN_FOR_S:
                self._models = []

    async def _score(self, item: Item, index: int, patient: bool, begun: float) -> dict[str, Any]:
        data, fetch_s = await self._bytes_of(item)
        policy, decode_s = (await self.facts()).policy, 0.0
        while True:
            then = time.perf_counter()
            row = await self._seen(data, policy)
            decode_s += time.perf_counter() - then
            found = await self._scored(row, policy, patient)
            if isinstance(found, Scored):
                break
            policy = found.facts.policy  # a model that looks at other pixels has just been rolled out
        uri = item.url or f"#{index}"
        score = Score(
            id=item.external_id or uri,
            uri=uri,
            **row.facts,
            **found.evidence,  # type: ignore[arg-type]
            model_id=found.model_id,
            scored_at=datetime.now(UTC),
        )
        timings = {
            "fetch_ms": fetch_s,
            "decode_ms": decode_s,
            "queue_ms": found.queue_s,
            "inference_ms": found.inference_s,
            "total_ms": time.perf_counter() - begun,
        }
        return score.to_dict() | {
            "external_id": item.external_id,
            "band": band(found.band),
            "timings": {name: round(seconds * 1000, 2) for name, seconds in timings.items()},
        }

    async def _scored(self, row: Row, policy: CropPolicy, patient: bool) -> Scored | OtherCrop:
        assert row.crop is not None
        while True:
            try:
                with self._backlog.sent():
                    return await self._scorer.score(row.crop, policy, patient=patient)
            except RequestError as error:
                if not patient or error.code != "overloaded":
                    raise
            await asyncio.sleep(_FULL_PAUSE_S)

    async def _seen(self, data: bytes, policy: CropPolicy) -> Row:
        """Decoded, cropped and hashed, off the event loop. Raises ImageError."""
        limits = Limits(max_bytes=self.settings.max_bytes, max_pixels=self.settings.max_pixels)

        def work() -> Row:
            begun = time.perf_counter()
            row = see(data, policy, limits)
            self.meters.decode.observe(time.perf_counter() - begun)
            return Row(facts={"sha256": hashlib.sha256(data).hexdigest(), **row.facts}, crop=row.crop)

        row = await asyncio.get_running_loop().run_in_executor(self._decoding, work)
        if row.crop is None:
            raise ImageError(row.facts["status"], row.facts["error"])
        return row

    async def _bytes_of(self, item: Item) -> tuple[bytes, float]:
        """The bytes, and the seconds that reading its url took."""
        if item.error is not None:
            raise item.error
        if item.url is None:
            assert item.data is not None
            return item.data, 0.0
        if not self.allow_url or self._reader is None:
            raise FetchError("blocked_address", "reading urls is off here: send the picture itself")
        begun = time.perf_counter()
        data = await asyncio.get_running_loop().run_in_executor(self._fetching, self._reader.read, item.url)
        return data, time.perf_counter() - begun


def band(found: tuple[float, float] | None) -> dict[str, float] | None:
    """Where verdicts change, as answers say it."""
    return None if found is None else {"real_below": found[0], "generated_above": found[1]}


def decode_threads(cpus: float) -> int:
    """As many as Ray has given the process cores, one at least; half of the machine's where it has counted none."""
    return max(1, int(cpus)) if cpus else max(1, cores() // 2)
