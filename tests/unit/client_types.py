"""The types of the Python client. `make types` checks this file; nothing runs it."""

from typing import Any, assert_type

from keywheel_client import (
    AsyncKeywheel,
    CompletionResult,
    EmailResult,
    JobId,
    Keywheel,
    Quote,
    ResetDone,
)


def sync(keywheel: Keywheel, stored: str) -> None:
    job = keywheel.complete("Say hello", model="a", priority=9)
    assert_type(job, JobId[CompletionResult])
    assert_type(keywheel.result(job), CompletionResult)
    assert_type(keywheel.result(job)["usage"]["total_tokens"], int)
    assert_type(keywheel.result(keywheel.send_email(to=["a@example.com"])), EmailResult)
    assert_type(keywheel.result(stored), Any)
    assert_type(keywheel.reset_keys(), ResetDone)
    assert_type(keywheel.quote("groq", jobs=7), Quote)
    keywheel.quote("grok")  # type: ignore[arg-type]
    keywheel.complete(promt="a misspelt argument")  # type: ignore[call-arg]
    keywheel.send_email(to=7)  # type: ignore[arg-type]


async def with_asyncio(keywheel: AsyncKeywheel) -> None:
    async with keywheel.pipeline() as pipe:
        job = pipe.complete("Say hello")
    assert_type(await keywheel.result(job), CompletionResult)
    async for event in keywheel.stream(job):
        assert_type(event.text, str)
