"""Dynamic batches: whatever waits when the worker is free goes together.

Why not @serve.batch: it closes a batch when its time is up, also while an earlier one is still computed, so that under
load small batches queue up behind each other where one large one could form.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items for `work`, which takes up to `most` of them and returns as many results, one call at a time.

    `wait_s`: how long the first item of a batch waits for company where nothing is being computed.
    """

    def __init__(self, work: Callable[[list[Item]], Awaitable[list[Result]]], *, most: int, wait_s: float) -> None:
        self.most, self.wait_s = most, wait_s
        self._work = work
        # Two queues: of single items, and of patient ones.
        self._lanes: list[deque[tuple[Item, asyncio.Future[Result]]]] = [deque(), deque()]
        self._next = 0
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def submit(self, item: Item, *, patient: bool = False) -> Result:
        """The item's result. Raises what `work` raised for its batch; an item whose caller has gone is left out.

        `patient` items have a queue of their own, and the two take turns: many of either kind never shut out the other.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._lanes[patient].append((item, future))
        self._arrived.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        busy = False
        while True:
            if not self._waiting():
                self._arrived.clear()
                await self._arrived.wait()
                busy = False
            if not busy:
                await self._company()
            batch = self._take()
            if batch:
                await self._compute(batch)
            busy = True  # what came meanwhile has waited long enough

    async def _company(self) -> None:
        end = asyncio.get_running_loop().time() + self.wait_s
        while self._waiting() < self.most:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting() and len(batch) < self.most:
            turn = self._next if self._lanes[self._next] else 1 - self._next
            self._next = 1 - turn
            item, future = self._lanes[turn].popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    def _waiting(self) -> int:
        return sum(map(len, self._lanes))

    async def _compute(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
