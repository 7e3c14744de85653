"""The service over real HTTP in this process: the real front, scorer and detector, without Ray between them.

What Ray adds (replicas, queues, rollouts) is tested in tests/test_serve.py.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from pipelines.front import Front
from pipelines.model import ModelFacts, Problem
from pipelines.monitor import Monitor, Report
from pipelines.replica import Scorer
from pipelines.routes import build_app


class LocalMonitor:
    """A monitor as a front and a scorer see it."""

    def __init__(self) -> None:
        self.monitor = Monitor()
        self.away = False

    def _there(self) -> Monitor:
        if self.away:
            raise TimeoutError
        return self.monitor

    async def report(self, report: Report) -> None:
        self._there().report(report)

    async def models(self) -> list[ModelFacts]:
        return self._there().models()

    async def problems(self, within_s: float | None = None) -> list[Problem]:
        return self._there().problems(within_s)

    async def text(self) -> bytes:
        return self._there().text()


class Service:
    """`url` answers; `run` executes a coroutine on the service's own loop."""

    def __init__(self, model: str, allow_url: bool, **front: Any) -> None:
        self.monitor = LocalMonitor()
        self.scorer = Scorer(model, device="cpu", most=64, replica="scorer-1", tell=self.monitor.report)
        self._front_options = {"allow_url": allow_url, "replica": "front-1", **front}
        self.front: Front
        self.loop = asyncio.new_event_loop()
        self.url = ""
        self.problem: Exception | None = None
        self._server: uvicorn.Server
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(300)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self.front = Front(self.scorer, self.monitor, **self._front_options)
        self.front.reconfigure({})
        try:
            await self.scorer.reconfigure({"max_batch_size": 4})
        except Exception as error:  # noqa: BLE001 - a test looks at it
            self.problem = error
        self.front.start()
        config = uvicorn.Config(build_app(self.front), host="127.0.0.1", port=0, log_level="warning")
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._up.set()
        await serving
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


@contextmanager
def service(model: str = "radet-lite", *, allow_url: bool = False, **front: Any) -> Iterator[Service]:
    one = Service(model, allow_url, **front)
    one.start()
    try:
        yield one
    finally:
        one.stop()
