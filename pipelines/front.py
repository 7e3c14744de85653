"""The front: pictures in, answers out. It reads urls, decodes and crops; a scorer, here or elsewhere, does the rest.

bytes --(decode threads)--> crop --(scorer)--> evidence --> the same Score as everywhere
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.access import Doorkeeper
from pipelines.backlog import Backlog
from pipelines.decoding import Decoder
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
from radet.errors import ConfigError, FetchError, RadetError
from radet.images import Limits
from radet.rows import Row
from radet.score import Score
from radet.thresholds import usual_conditions

if TYPE_CHECKING:
    from radet.explain import Explanation

T = TypeVar("T")
Found = TypeVar("Found", Scored, Explained)

_FETCH_THREADS = 16
_NOBODY_S = 3 * REPORT_EVERY_S  # how long a monitor may know of no scorer: one that has just started does not yet
_BATCH_AT_ONCE = 8  # pictures of one batch that are worked on at the same time
_LOOK_EVERY_S = 0.1  # whether requests are under way still
_BATCH_S = 100.0  # until a batch is answered, with what there is: Serve ends a request after 120, in words of its own
_FULL_PAUSE_S = 0.05  # a batch's picture waits where the queue is full; a single one is refused
_EXPLAINED_AT_ONCE = 4  # an explanation costs two to three scores, and its pictures one or two more


class Front:
    """Reads, decodes and answers for one process, within its limits. Belongs to one event loop."""

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
        self._decoder = Decoder(threads, self.meters)
        self._fetching = ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="radet-fetch")
        self._requests = self._bytes = self._explaining = 0
        self._models: list[ModelFacts] = []
        self._heard = 0.0
        self._refusing_until = 0.0
        self._closed: Problem | None = None
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
        self._closed = None

    def close(self, why: ConfigError) -> None:
        """Refuse all, until there are settings."""
        self._closed = Problem(code=why.code, message=why.message)

    @asynccontextmanager
    async def admitted(self, need: int) -> AsyncIterator[None]:
        """A place for one request of so many bytes. Raises RequestError("overloaded") before anything is read."""
        if time.monotonic() < self._refusing_until:
            raise RequestError("not_ready", "the service is stopping: try again soon")
        if self._closed is not None:
            raise RequestError("not_ready", "the service has no settings: see /readyz")
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
        except (TimeoutError, MemoryError) as lack:
            why = "for want of memory" if isinstance(lack, MemoryError) else "in time"
            error: RadetError = RequestError("overloaded", f"the picture was not scored {why}")
            self.meters.images.labels(error.code).inc()
            raise error from None
        except RadetError as error:
            self.meters.images.labels(error.code).inc()
            raise
        self.meters.images.labels("ok").inc()
        return answer

    async def score_all(self, items: list[Item], begun: float) -> AsyncIterator[dict[str, Any]]:
        """The items of a batch's answer, in order, each as soon as it and all before it are done. `begun`: when the
        request came, on the loop's clock; what is not scored when its time is up is `overloaded`."""
        places = asyncio.Semaphore(_BATCH_AT_ONCE)

        async def one(index: int, item: Item) -> dict[str, Any]:
            told: dict[str, Any] = {"index": index, "external_id": item.external_id, "result": None, "error": None}
            try:
                async with asyncio.timeout_at(begun + _BATCH_S), places:
                    told["result"] = await self.score(item, index, patient=True)
            except RadetError as error:
                told["error"] = describe(error)
            except TimeoutError:
                late = RequestError("overloaded", "the time for the batch was up: send this picture again")
                self.meters.images.labels(late.code).inc()
                told["error"] = describe(late)
            return told

        tasks = [asyncio.create_task(one(index, item)) for index, item in enumerate(items)]
        try:
            for task in tasks:
                yield await task
        finally:  # the caller has gone: nobody waits for the rest
            for task in tasks:
                task.cancel()

    async def explain(self, item: Item, draw: "Callable[[Explanation], T]") -> tuple[dict[str, Any], T]:
        """The answer on why a picture scores as it does, and what `draw` makes of that, off the event loop. Raises as
        `score`, and RequestError("overloaded") where a few are explained already."""
        begun = time.perf_counter()
        self._backlog.check()
        if self._explaining >= _EXPLAINED_AT_ONCE:
            raise RequestError("overloaded", "too many explanations at once: try again soon")
        self._explaining += 1
        try:
            with self._backlog.inside():
                async with asyncio.timeout(self.settings.score_timeout_s):
                    return await self._explain(item, draw, begun)
        except TimeoutError:
            raise RequestError("overloaded", "the picture was not explained in time") from None
        finally:
            self._explaining -= 1

    async def facts(self) -> ModelFacts:
        """The model that scores. Raises RequestError("not_ready")."""
        if not self._models:
            await self._listen()
        if not self._models:
            raise RequestError("not_ready", "no detector is loaded yet: see /readyz")
        return self._models[0]

    async def facts_for(self, condition: str | None) -> ModelFacts:
        """The model that scores, and copies that are degraded so, too. Raises RequestError("not_ready"), and
        ("bad_request") for a condition that its thresholds were not held to."""
        model = await self.facts()
        if condition is not None and condition not in (usual := usual_conditions(model.thresholds)):
            known = ", ".join(usual) or "none"
            raise RequestError("bad_request", f"condition: this model has {known}, not {condition!r}")
        return model

    async def readiness(self) -> tuple[list[ModelFacts], list[Problem]]:
        """Models that are ready, and why scorers are not, as the monitor knows it now."""
        problems: list[Problem] = []
        if self._closed is not None:
            return [], [self._closed]
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
        """Tell the monitor this process's metrics. Raises whatever comes of a monitor that is away."""
        await self._monitor.report(Report(replica=self.meters.replica, kind="front", metrics=self.meters.snapshot()))

    async def drain(self, seconds: float) -> None:
        """Returns when what is under way is answered. New requests are refused for so many seconds: by then, whoever
        asked for this has ended the service, or is gone."""
        self._refusing_until = time.monotonic() + seconds
        while self._requests:
            await asyncio.sleep(_LOOK_EVERY_S)

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
        now = time.monotonic()
        try:
            found = await self._monitor.models()
        except Exception:  # noqa: BLE001 - away, for whatever reason: what it said last holds
            self._heard = now
            return
        if found or now - self._heard > _NOBODY_S:
            self._models = found
        if found:
            self._heard = now
            if self._as_many_as_scorers:
                self.door.fronts = len(found)

    async def _score(self, item: Item, index: int, patient: bool, begun: float) -> dict[str, Any]:
        def ask(row: Row, policy: CropPolicy) -> Awaitable[Scored | OtherCrop]:
            return self._scored(row, policy, patient)

        found, facts, spent = await self._found(item, index, patient, ask)
        score = Score(
            id=item.external_id or facts["uri"],
            **facts,
            **found.evidence,  # type: ignore[arg-type]
            model_id=found.model_id,
            scored_at=datetime.now(UTC),
        )
        spent |= {"queue": found.queue_s, "inference": found.inference_s}
        return score.to_dict() | _beside(item, found, spent, begun)

    async def _explain(self, item: Item, draw: "Callable[[Explanation], T]", begun: float) -> tuple[dict[str, Any], T]:
        async def ask(row: Row, policy: CropPolicy) -> Explained | OtherCrop:
            assert row.crop is not None
            with self._backlog.sent():
                return await self._scorer.explain(row.crop, policy, row.facts, item.external_id)

        found, _, spent = await self._found(item, 0, False, ask)
        then = time.perf_counter()
        drawn = await asyncio.to_thread(draw, found.explanation)
        spent |= {"queue": found.queue_s, "explain": found.explain_s, "draw": time.perf_counter() - then}
        return found.explanation.to_dict() | _beside(item, found, spent, begun), drawn

    async def _found(
        self,
        item: Item,
        index: int,
        patient: bool,
        ask: Callable[[Row, CropPolicy], Awaitable[Found | OtherCrop]],
    ) -> tuple[Found, dict[str, Any], dict[str, float]]:
        """What a scorer, asked by `ask`, says of the picture; the fields of its Score that are known without it; and
        the seconds until then."""
        data, fetch_s = await self._bytes_of(item)
        model, decode_s = await self.facts_for(item.condition), 0.0
        policy = model.policy
        limits = Limits(max_bytes=self.settings.max_bytes, max_pixels=self.settings.max_pixels)
        while True:
            then = time.perf_counter()
            row = await self._decoder.see(data, policy, limits, condition=item.condition, patient=patient)
            decode_s += time.perf_counter() - then
            facts = {"uri": item.url or f"#{index}", **row.facts}
            found = await ask(Row(facts=facts, crop=row.crop), policy)
            if not isinstance(found, OtherCrop):
                return found, facts, {"fetch": fetch_s, "decode": decode_s}
            policy = found.facts.policy  # a model that looks at other pixels has just been rolled out

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


def _beside(item: Item, found: Scored | Explained, spent: dict[str, float], begun: float) -> dict[str, Any]:
    """What an answer has besides the score. Seconds in, milliseconds out."""
    spent |= {"total": time.perf_counter() - begun}
    return {
        "external_id": item.external_id,
        "condition": item.condition,
        "band": band(found.band),
        "timings": {f"{name}_ms": round(seconds * 1000, 2) for name, seconds in spent.items()},
    }


def band(found: tuple[float, float] | None) -> dict[str, float] | None:
    """Where verdicts change, as answers say it."""
    return None if found is None else {"real_below": found[0], "generated_above": found[1]}


def decode_threads(cpus: float) -> int:
    """As many as Ray has given the process cores, one at least; half of the machine's where it has counted none."""
    return max(1, int(cpus)) if cpus else max(1, cores() // 2)
