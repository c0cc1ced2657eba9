"""A job is found among the waiting messages, wherever it stands."""

import json

import pytest
from redis.asyncio import Redis

from worker.aio.transport.finding import count_waiting, find_job

JOB = "job-1"
LISTS = ("ai\x06\x166", "ai")
"""The priorities, the urgent one first."""


def message_of(job: str, **headers: str) -> str:
    return json.dumps({"headers": {"id": job, **headers}, "body": ""})


def others(count: int) -> list[str]:
    return [message_of(f"other-{number}") for number in range(count)]


CHILD = message_of("child", parent_id=JOB)
"""A job that JOB sent before JOB was deferred; so it stands in front of JOB."""


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (others(0), others(0)),
        (others(0), others(3)),
        (others(1), others(0)),
        (others(199), others(1)),  # 200 are read in one step
        (others(200), others(0)),
        (others(201), others(300)),
        (others(400), others(0)),
        ([CHILD], others(0)),
        ([*others(5), CHILD, CHILD, *others(3)], [CHILD]),
        ([*others(198), CHILD], others(0)),
        ([*others(199), CHILD], others(200)),
        ([CHILD, *others(250), "no JSON job-1", '["job-1"]', '"job-1"'], others(1)),
    ],
)
async def test_a_job_is_found_at_its_place(
    broker: Redis, before: list[str], behind: list[str]
) -> None:
    queue = [*before, message_of(JOB), *behind]
    await broker.lpush("ai", *queue)
    found = await find_job(broker, JOB, ["ai"])
    assert found is not None
    assert (found.before, found.waiting) == (len(before), len(queue))
    assert found.message["headers"]["id"] == JOB
    await broker.lpush(LISTS[0], *others(7))
    found = await find_job(broker, JOB, LISTS)
    assert found is not None
    assert (found.before, found.waiting) == (7 + len(before), 7 + len(queue)), (
        "urgent messages come first"
    )


@pytest.mark.parametrize("queue", [[], others(3), [CHILD], [CHILD, *others(300)], others(200)])
async def test_a_job_that_does_not_wait_is_not_found(broker: Redis, queue: list[str]) -> None:
    if queue:
        await broker.lpush("ai", *queue)
    assert await find_job(broker, JOB, ["ai"]) is None
    assert await count_waiting(broker, LISTS) == len(queue)


@pytest.mark.parametrize(("ahead", "before"), [(0, 6 + 0 + 0), (1, 6 + 1 + 1), (3, 6 + 3 + 2)])
async def test_in_the_line_of_its_tenant_a_job_takes_turns_with_the_others(
    broker: Redis, ahead: int, before: int
) -> None:
    """Messages in no sublist come first; two of the other tenant's stand beside the job."""
    await broker.lpush("ai", *others(6))
    sublists = {"a": [*others(ahead), message_of(JOB), *others(1)], "b": others(2)}
    for tenant, messages in sublists.items():
        await broker.zadd("ai.tenants", {tenant: 0})
        for number, text in enumerate(messages):
            tag = f"{tenant}-{number}"
            await broker.hset("unacked", tag, json.dumps([json.loads(text), "celery", "ai"]))
            await broker.lpush(f"ai.tenant.{tenant}", f"12 {tag}")
    found = await find_job(broker, JOB, ["ai"])
    assert found is not None
    assert (found.before, found.waiting) == (before, 6 + ahead + 2 + 2)
    assert found.message["headers"]["id"] == JOB
    await broker.zadd("ai.due", {"later": 1})
    assert await count_waiting(broker, ["ai"]) == found.waiting + await broker.zcard("ai.due")


async def test_no_more_than_20_000_messages_of_a_list_are_read(broker: Redis) -> None:
    await broker.lpush("ai", *others(19_999), message_of(JOB))
    found = await find_job(broker, JOB, ["ai"])
    assert found is not None
    assert found.before == 19_999
    await broker.rpush("ai", *others(1))
    assert await find_job(broker, JOB, ["ai"]) is None


@pytest.mark.parametrize(("ahead", "before"), [(127, 127), (128, 128 + 3)])
async def test_messages_behind_the_window_are_counted_behind_those_in_sublists(
    broker: Redis, ahead: int, before: int
) -> None:
    await broker.lpush("ai", *others(ahead), message_of(JOB))
    await broker.zadd("ai.tenants", {"a": 0, "b": 0})
    await broker.lpush("ai.tenant.a", "12 a-1", "12 a-2")
    await broker.lpush("ai.tenant.b", "12 b-1")
    found = await find_job(broker, JOB, ["ai"])
    assert found is not None
    assert (found.before, found.waiting) == (before, ahead + 1 + 3)
