"""The limiter of each key: a few tasks run at once, the others in the order of arrival."""

import asyncio

from worker.rotation.limiter import KeyedLimiter


async def test_a_bounded_number_of_tasks_of_one_key_run_at_once() -> None:
    limiter, order = KeyedLimiter(2), list[int]()

    async def take(number: int) -> None:
        await limiter.acquire("a")
        order.append(number)

    first, _ = await limiter.acquire("a"), await limiter.acquire("a")
    waiting = [asyncio.create_task(take(number)) for number in range(2)]
    await limiter.acquire("b")
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == []
    first.release()
    first.release()
    await waiting[0]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == [0], "a second release of one slot lets no task in"
    waiting[1].cancel()
