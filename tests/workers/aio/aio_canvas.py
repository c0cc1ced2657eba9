"""Jobs that send other jobs and wait for them."""

import asyncio
from typing import Any

from celery import chord, group
from celery.exceptions import TaskRevokedError
from celery.result import ResultSet

from tests.workers.aio.aio_base import add, app, boom, sleep, total
from worker.aio.result import await_result


@app.task(shared=False, bind=True)
async def replaced(self: Any, x: int) -> Any:
    raise self.replace(group(add.s(x, 1), add.s(x, 2)) | total.s())


@app.task(shared=False, bind=True)
async def parent(self: Any) -> list[Any]:
    """Publish and await a task, a group and a chord from inside a task.

    It does so as a coroutine and from a child task.
    """
    added = add.delay(1, 2)
    several = group(add.s(1, n) for n in range(3)).apply_async()
    whole = chord([add.s(n, n) for n in range(3)])(total.s())
    sent = await asyncio.gather(asyncio.to_thread(add.delay, 5, 5))
    self.update_state(state="PROGRESS", meta={"at": 1})
    return [
        await await_result(added, timeout_s=10),
        await await_result(several, timeout_s=10),
        await await_result(whole, timeout_s=10),
        await await_result(sent[0], timeout_s=10),
        [child.id for child in self.request.children][:1] == [added.id],
    ]


@app.task(shared=False)
async def spreads(n: int) -> int:
    """Send a group of chords of chords."""
    inner = [
        chord([chord([add.s(n, 1), add.s(n, 2)], total.s()), add.s(n, 3)], total.s())
        for _ in range(2)
    ]
    return sum(await await_result(group(inner).apply_async(), timeout_s=40))


@app.task(shared=False, ignore_result=True)
async def unanswered() -> str:
    return "nobody asks"


@app.task(shared=False)
async def awaits_nothing() -> Any:
    return await await_result(unanswered.delay())


@app.task(shared=False)
async def awaits_revoked() -> str:
    """Wait for a chain and a chord, each with a link that is revoked before it runs."""
    errors = []
    for whole in (
        add.s(1, 1).set(countdown=1) | add.s(1),
        chord([add.s(1, 1).set(countdown=1)], total.s()),
    ):
        result = await asyncio.to_thread(whole.apply_async)
        first = result.parent.results[0] if isinstance(result.parent, ResultSet) else result.parent
        await asyncio.to_thread(first.revoke)
        try:
            await await_result(result)
        except TaskRevokedError as exc:
            errors.append(f"{type(exc).__name__}")
    return " ".join(errors)


@app.task(shared=False, bind=True)
async def awaits_failure(self: Any) -> list[str]:
    failed = boom.delay("inner")
    errors = []
    try:
        await await_result(failed, timeout_s=10)
    except ValueError as exc:
        errors.append(str(exc))
    errors.append(type(await await_result(failed, propagate=False)).__name__)
    slow = sleep.delay(0.5)
    try:
        await await_result(slow, timeout_s=0.05)
    except Exception as exc:  # noqa: BLE001
        errors.append(type(exc).__name__)
    return errors
