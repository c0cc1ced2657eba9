"""Tests that every provider passes. One line in `_CASES` adds a new provider."""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from tests.integration.providers.local_servers import HI, KEY, MAIL
from tests.integration.providers.scripted_api import ScriptedApi
from tests.pages import ROOT, blocks
from worker.aio.errors import SoftTimeLimit
from worker.providers import Groq, Resend
from worker.verdicts import Cooldown, Effect, Fate, Scope

_FEW = 8


@dataclass(frozen=True)
class _Case:
    make: Callable[..., Any]
    request: Any
    success: dict[str, Any]
    if_ambiguous: Fate
    refusal: dict[str, Any]
    """A refusal in the provider's own format."""


_WORDS = f"no such key {KEY.get_secret_value()}"


def _documented() -> Any:
    """The provider of `docs/contributing/add-a-provider.md`."""
    _, client, *_ = blocks(ROOT / "docs/contributing/add-a-provider.md", "python")
    names: dict[str, Any] = {}
    exec(client, names)  # noqa: S102 - a page of ours
    return names["Acme"]


_CASES = {
    "acme": _Case(
        _documented(),
        {"text": "hello", "language": "de"},
        {"translation": "hallo"},
        Fate.RETRY,
        {"message": _WORDS},
    ),
    "groq": _Case(
        Groq,
        HI,
        {"model": "m", "choices": [{"message": {"content": "hello"}}]},
        Fate.RETRY,
        {"error": {"message": _WORDS}},
    ),
    "resend": _Case(
        Resend,
        MAIL,
        {"id": "1"},
        Fate.SAME_ACCOUNT,
        {"name": "validation_error", "message": _WORDS},
    ),
}


@pytest.fixture(params=_CASES)
def case(request: pytest.FixtureRequest) -> _Case:
    return _CASES[request.param]


@pytest.fixture
async def provider(case: _Case, scripted: ScriptedApi) -> AsyncIterator[Any]:
    provider = case.make(scripted.url, timeout_s=10)
    yield provider
    await provider.close()


async def test_a_provider_names_its_service(case: _Case, provider: Any) -> None:
    assert _CASES[provider.service] is case


async def test_a_success_is_done(scripted: ScriptedApi, case: _Case, provider: Any) -> None:
    scripted.answer(200, case.success)
    reply = await provider.call(KEY, case.request)
    assert (reply.verdict.fate, reply.verdict.definite, reply.verdict.effect) == (
        Fate.DONE,
        True,
        Effect.NONE,
    )
    assert reply.value


async def test_a_401_disables_the_key_and_takes_the_next(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    scripted.answer(401, case.refusal)
    reply = await provider.call(KEY, case.request)
    verdict = reply.verdict
    assert (verdict.fate, verdict.effect, verdict.scope) == (
        Fate.NEXT_KEY,
        Effect.DISABLE,
        Scope.KEY,
    )
    assert verdict.definite
    assert "canary" not in repr(reply)


async def test_a_429_without_a_wait_cools_the_key_for_the_default(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    scripted.answer(429)
    verdict = (await provider.call(KEY, case.request)).verdict
    assert (verdict.fate, verdict.effect, verdict.cooldown_ms) == (Fate.NEXT_KEY, Effect.COOL, None)


async def test_a_429_cools_the_key_for_what_retry_after_says(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    scripted.answer(429, headers={"retry-after": "5"})
    assert (await provider.call(KEY, case.request)).verdict.cooldown_ms == 5_000


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_server_error_cools_the_key_briefly(
    scripted: ScriptedApi, case: _Case, provider: Any, status: int
) -> None:
    scripted.answer(status)
    verdict = (await provider.call(KEY, case.request)).verdict
    assert (verdict.fate, verdict.definite) == (case.if_ambiguous, False)
    assert (verdict.effect, verdict.scope, verdict.cooldown_ms) == (Effect.COOL, Scope.KEY, None)
    assert verdict.cooldown is Cooldown.SERVER_ERROR


async def test_a_refused_connection_is_definite_and_leaves_the_key_alone(
    case: _Case, refused_url: str
) -> None:
    provider = case.make(refused_url)
    verdict = (await provider.call(KEY, case.request)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "connect_error", True)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)
    await provider.close()


async def test_a_cancelled_call_raises_and_leaves_the_provider_usable(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    scripted.hang()
    task = asyncio.create_task(provider.call(KEY, case.request))
    await scripted.arrived(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    scripted.answer(200, case.success)
    assert (await provider.call(KEY, case.request)).verdict.fate is Fate.DONE


async def test_a_soft_time_limit_is_raised_and_not_judged(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    limit = SoftTimeLimit(3)

    @types.coroutine
    def limited(call: Any) -> Any:  # as in the pool: a cancellation arrives as the time limit
        step = call.send(None)
        while True:
            try:
                result = yield step
            except asyncio.CancelledError:
                step = call.throw(limit)
            else:
                step = call.send(result)

    async def job() -> BaseException | None:
        try:
            await limited(provider.call(KEY, case.request))
        except SoftTimeLimit as raised:
            return raised
        return None

    scripted.hang()
    running = asyncio.create_task(job())
    await scripted.arrived(1)
    running.cancel()
    assert await running is limit


async def test_a_crowd_that_is_cancelled_leaves_every_connection_free(
    scripted: ScriptedApi, case: _Case
) -> None:
    provider = case.make(scripted.url, timeout_s=10, max_connections=_FEW)
    for _ in range(_FEW):
        scripted.hang()
    tasks = [asyncio.create_task(provider.call(KEY, case.request)) for _ in range(60)]
    await scripted.arrived(_FEW)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    scripted.default = lambda _: scripted.http(200, case.success)
    replies = await asyncio.gather(*(provider.call(KEY, case.request) for _ in range(_FEW)))
    assert {reply.verdict.fate for reply in replies} == {Fate.DONE}
    await provider.close()


async def test_a_key_that_no_header_can_carry_is_disabled_unsent(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    for broken in ("gsk_a b", "re_ä", "gsk_a\nb", ""):
        verdict = (await provider.call(SecretStr(broken), case.request)).verdict
        assert (verdict.fate, verdict.effect, verdict.code) == (
            Fate.NEXT_KEY,
            Effect.DISABLE,
            "invalid_key",
        )
    assert scripted.seen == []


async def test_closing_twice_is_fine_and_a_late_call_is_to_be_retried(
    scripted: ScriptedApi, case: _Case, provider: Any
) -> None:
    await provider.close()
    await provider.close()
    verdict = (await provider.call(KEY, case.request)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "closed", True)
    assert scripted.seen == []


async def test_a_wrong_url_gets_a_verdict(case: _Case) -> None:
    provider = case.make("ftp://127.0.0.1")
    verdict = (await provider.call(KEY, case.request)).verdict
    assert (verdict.fate, verdict.code, verdict.definite) == (Fate.RETRY, "bad_url", True)
    await provider.close()


async def test_a_bug_of_ours_is_raised_and_not_judged(
    case: _Case, provider: Any, monkeypatch: Any
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.providers.groq.client.Groq._post", broken)
    monkeypatch.setattr("worker.providers.resend.client._send", broken)
    monkeypatch.setattr("httpx.AsyncClient.post", broken)
    with pytest.raises(ZeroDivisionError):
        await provider.call(KEY, case.request)
