"""Dynamic batches."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipelines.batcher import Batcher

Work = Callable[[list[int]], Awaitable[list[int]]]


def worker(sizes: list[int], seconds: float = 0.0) -> Work:
    async def work(items: list[int]) -> list[int]:
        sizes.append(len(items))
        await asyncio.sleep(seconds)
        return [item * 10 for item in items]

    return work


def test_every_item_gets_its_own_result_and_batches_fill_while_the_worker_is_busy() -> None:
    sizes: list[int] = []

    async def run() -> list[int]:
        batcher = Batcher(worker(sizes, 0.05), most=8, wait_s=0.001)
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.02)  # the first is being computed: what comes now goes together
        return [await first, *await asyncio.gather(*map(batcher.submit, range(1, 20)))]

    assert asyncio.run(run()) == [number * 10 for number in range(20)]
    assert sizes == [1, 8, 8, 3]


def test_a_lonely_item_waits_for_company_no_longer_than_it_may() -> None:
    sizes: list[int] = []

    async def run() -> float:
        batcher = Batcher(worker(sizes), most=8, wait_s=0.05)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(batcher.submit(1), batcher.submit(2))
        return loop.time() - begun

    assert 0.04 < asyncio.run(run()) < 5
    assert sizes == [2]


def test_a_full_batch_does_not_wait() -> None:
    async def run() -> None:
        batcher = Batcher(worker([]), most=2, wait_s=60)
        async with asyncio.timeout(5):
            await asyncio.gather(batcher.submit(1), batcher.submit(2))

    asyncio.run(run())


def test_what_came_while_another_batch_was_computed_has_waited_long_enough() -> None:
    async def run() -> None:
        batcher = Batcher(worker([], 0.02), most=2, wait_s=60)
        async with asyncio.timeout(5):
            full = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
            await asyncio.sleep(0.005)
            assert await batcher.submit(3) == 30
            await asyncio.gather(*full)

    asyncio.run(run())


def test_an_error_is_told_to_its_batch_and_the_next_one_goes_on() -> None:
    async def work(items: list[int]) -> list[int]:
        if 0 in items:
            raise ValueError("zero")
        return items

    async def run() -> None:
        batcher = Batcher(work, most=4, wait_s=0.001)
        with pytest.raises(ValueError, match="zero"):
            await batcher.submit(0)
        assert await batcher.submit(1) == 1

    asyncio.run(run())


def test_nobody_computes_for_a_caller_who_has_gone() -> None:
    sizes: list[int] = []

    async def run() -> None:
        batcher = Batcher(worker(sizes, 0.03), most=4, wait_s=0.0)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.01)
        gone = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        kept = asyncio.create_task(batcher.submit(9))
        await asyncio.sleep(0.005)
        for task in gone:
            task.cancel()
        assert (await first, await kept) == (10, 90)

    asyncio.run(run())
    assert sizes == [1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_who_goes_while_his_item_is_computed_takes_nobody_with_him(fails: bool) -> None:
    async def work(items: list[int]) -> list[int]:
        await asyncio.sleep(0.02)
        if fails:
            raise ValueError("zero")
        return items

    async def run() -> list[int | BaseException]:
        batcher = Batcher(work, most=2, wait_s=0.0)
        gone, kept = (asyncio.create_task(batcher.submit(number)) for number in (1, 2))
        await asyncio.sleep(0.005)
        gone.cancel()
        async with asyncio.timeout(5):
            return [
                *await asyncio.gather(kept, return_exceptions=True),
                *await asyncio.gather(batcher.submit(3), return_exceptions=True),
            ]

    found = asyncio.run(run())
    assert [type(one) for one in found] == [ValueError] * 2 if fails else found == [2, 3]


def test_single_and_patient_items_take_turns() -> None:
    seen: list[list[int]] = []

    async def work(items: list[int]) -> list[int]:
        seen.append(items)
        await asyncio.sleep(0.01)
        return items

    async def run() -> None:
        batcher = Batcher(work, most=2, wait_s=0.0)
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.005)
        patient = [asyncio.create_task(batcher.submit(number, patient=True)) for number in range(10, 14)]
        await asyncio.sleep(0)
        await asyncio.gather(first, *patient, *(batcher.submit(number) for number in (1, 2)))

    asyncio.run(run())
    assert [sorted(batch) for batch in seen] == [[0], [1, 10], [2, 11], [12, 13]]
