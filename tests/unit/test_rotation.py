"""Rotation between a scripted provider and the real key pool on a real Redis."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from config.keys import ApiKey, make_key
from sandbox.redis import EmbeddedRedis
from worker import rotation as rotation_module
from worker.errors import Deferred, Fault, OutcomeUnknown, RequestRejected, RequestTooLarge
from worker.keypool import Cooldowns, KeyPool, Lease, Unavailable, Want
from worker.rotation import Rotation, Served
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Reply, Scope, Verdict

TAIL = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
SECRETS = [f"gsk_{name}{TAIL}" for name in ("abc123", "def456", "ghi789")]

OK = Reply(Verdict(Fate.DONE, "ok", status=200, tokens=7), {"text": "hello"})


def refused(cooldown_ms: int | None = 60_000, *, account: str | None = None) -> Reply:
    return Reply(
        Verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            "the limit is reached",
            effect=Effect.COOL,
            scope=Scope.ACCOUNT_MODEL,
            cooldown_ms=cooldown_ms,
            account=account,
            status=429,
        )
    )


DEAD = Reply(Verdict(Fate.NEXT_KEY, "invalid_key", "not accepted", effect=Effect.DISABLE, scope=Scope.KEY, status=401))
UNFIT = Reply(Verdict(Fate.NEXT_KEY, "model_blocked", "off", effect=Effect.DISABLE, scope=Scope.KEY_TOPIC, status=403))
FAULTY = Reply(
    Verdict(
        Fate.RETRY, "server_error", "it failed (HTTP 502)", effect=Effect.COOL, cooldown_ms=5_000, definite=False,
        backoff_ms=1_500, status=502,
    )
)  # fmt: skip
NOT_FOUND = Reply(Verdict(Fate.OTHER_ACCOUNT, "model_not_found", "there is no such model", status=404))
AMBIGUOUS = Reply(Verdict(Fate.SAME_ACCOUNT, "read_timeout", "no answer came in time", definite=False))
INVALID = Reply(Verdict(Fate.FAIL, "rejected", "messages: must not be so", status=400))


def too_large(limit: int) -> Reply:
    return Reply(
        Verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            "too many tokens",
            limits=(ObservedLimit(Dimension.TPM, limit),),
            too_large_limit=limit,
            status=413,
        )
    )


class ScriptedProvider:
    """Answers in the order of its script, then well; writes down with which key it was called."""

    service = "groq"

    def __init__(self, *script: Any) -> None:
        self.script = deque(script)
        self.seen: list[tuple[str, str]] = []
        self.called = asyncio.Event()

    @property
    def keys_used(self) -> list[str]:
        return [secret for secret, _ in self.seen]

    async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:  # noqa: ARG002
        self.seen.append((secret.get_secret_value(), request))
        self.called.set()
        step = self.script.popleft() if self.script else OK
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Reply):
            return step
        await asyncio.Event().wait()  # "hang"
        raise AssertionError

    async def close(self) -> None:
        """Nothing is open."""


def keys(count: int = 3, accounts: tuple[str, ...] = ()) -> list[ApiKey]:
    return [
        make_key("groq", secret=secret, variable=f"GROQ_API_KEY_{n}", account=accounts[n] if accounts else None)
        for n, secret in enumerate(SECRETS[:count])
    ]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(redis_url, decode_responses=True, max_connections=8)
    async with Redis.from_pool(connections) as client:
        yield client
        # What a failed test left behind must not outlive its connections.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if task.get_name() == "turn":
                task.cancel()


Make = Callable[..., tuple[Rotation[str], ScriptedProvider]]


@pytest.fixture
def make(redis: Redis) -> Make:
    def build(
        *script: Any, count: int = 3, accounts: tuple[str, ...] = (), **options: Any
    ) -> tuple[Rotation[str], ScriptedProvider]:
        provider = ScriptedProvider(*script)
        defaults = {"cooldowns": Cooldowns(refused_ms=60_000, server_error_ms=5_000)}
        pool = KeyPool(redis, "groq", keys(count, accounts), **(defaults | options))
        return Rotation(pool, provider), provider

    return build


async def serve(rotation: Rotation[str], **want: Any) -> Served:
    return await rotation.serve(Want(**want), lambda key: f"for {key.label}")


async def leases_out(redis: Redis, service: str = "groq") -> tuple[int, int, list[str]]:
    flying = [name for name in await redis.hkeys(f"{{kw:{service}}}:inflight") if name.startswith(("key:", "am:"))]
    return await redis.zcard(f"{{kw:{service}}}:leases"), await redis.hlen(f"{{kw:{service}}}:leased"), flying


NOTHING_OUT = (0, 0, [])


async def test_a_good_answer_comes_back_with_what_it_took(make: Make, redis: Redis) -> None:
    rotation, provider = make()
    served = await serve(rotation, model="m", tokens=10)
    assert served == Served({"text": "hello"}, "gsk_abc123...", attempts=1, waited_ms=0)
    assert provider.seen == [(SECRETS[0], "for gsk_abc123...")]
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_answer_without_a_value_is_an_empty_one(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.DONE, "ok", status=200)))
    assert (await serve(rotation)).value == {}


async def test_the_log_lines_have_their_exact_shape(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    rotation, _ = make(DEAD, refused())
    with caplog.at_level(logging.INFO, logger="worker.keys"):
        await serve(rotation)
    assert [record.getMessage() for record in caplog.records if record.name == "worker.keys"] == [
        "🤖 Using Groq key: gsk_abc123... (attempt 1/3)",
        "🚨 API key marked as failed: gsk_abc123... (1/3 failed)",
        "🤖 Using Groq key: gsk_def456... (attempt 2/3)",
        "🚨 API key marked as failed: gsk_def456... (2/3 failed)",
        "🤖 Using Groq key: gsk_ghi789... (attempt 3/3)",
    ]


async def test_a_key_that_was_out_already_is_not_logged_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = make(DEAD, count=1)
    second, provider = make("hang", count=1)
    slow = asyncio.create_task(serve(second), name="turn")
    await provider.called.wait()
    with caplog.at_level(logging.WARNING, logger="worker.keys"):
        with pytest.raises(Deferred):
            await serve(first)
        slow.cancel()
        await asyncio.wait([slow])
        taken = await first.pool.acquire(Want())
    assert isinstance(taken, Unavailable)
    assert caplog.text.count("🚨") == 1


# What the script answers; which keys are called, in order.
@pytest.mark.parametrize(
    ("script", "used"),
    [
        ([DEAD], [0, 1]),  # a dead key: the next at once
        ([DEAD, DEAD], [0, 1, 2]),  # two of them
        ([refused()], [0, 1]),  # a limit: the next at once
        ([refused(None), DEAD], [0, 1, 2]),  # a limit that says nothing
        ([UNFIT], [0, 1]),  # off for this model only
        ([NOT_FOUND], [0, 1]),  # one other account may know the model
    ],
)
async def test_a_key_at_fault_means_the_next_key_at_once(
    make: Make, redis: Redis, script: list[Reply], used: list[int]
) -> None:
    rotation, provider = make(*script)
    served = await serve(rotation, model="m", topic="m")
    assert provider.keys_used == [SECRETS[n] for n in used]
    assert served.attempts == len(used)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_dead_key_is_not_called_by_later_jobs(make: Make) -> None:
    rotation, provider = make(DEAD)
    for _ in range(6):
        await serve(rotation)
    assert provider.keys_used.count(SECRETS[0]) == 1
    assert len(provider.keys_used) == 7


async def test_when_the_last_key_is_refused_in_the_same_turn_the_job_is_deferred_not_faulted(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(refused(40_000), refused(30_000), refused(50_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert 29_000 <= caught.value.countdown_ms <= 31_500
    assert caught.value.reason == "rate_limit"
    assert len(provider.seen) == 3
    assert await leases_out(redis) == NOTHING_OUT


async def test_when_the_last_key_dies_in_the_same_turn_the_job_waits_for_a_person(make: Make) -> None:
    rotation, provider = make(DEAD, DEAD, DEAD)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert caught.value.countdown_ms == 60_000
    assert caught.value.reason == "every groq key is disabled (invalid_key)"
    assert len(provider.seen) == 3


async def test_keys_that_are_free_again_at_once_do_not_make_the_turn_endless(make: Make, redis: Redis) -> None:
    rotation, provider = make(*[refused(0)] * 50)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert len(provider.seen) == 3
    assert 0 < caught.value.countdown_ms <= 5_000
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_exhausted_pool_defers_until_a_key_is_free(make: Make) -> None:
    rotation, provider = make(refused(20_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=5_000)
    assert 18_500 <= caught.value.countdown_ms <= 21_500
    assert len(provider.seen) == 1


async def test_a_short_rest_is_waited_out_in_the_process(make: Make) -> None:
    rotation, provider = make(refused(150), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    served = await serve(rotation, max_wait_ms=5_000)
    assert len(provider.seen) == 2
    assert served.attempts == 1
    assert 0 < served.waited_ms < 4_000


async def test_a_lease_whose_key_died_during_the_wait_is_not_used(make: Make, redis: Redis) -> None:
    rotation, provider = make(refused(300), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    waiting = asyncio.create_task(serve(rotation, max_wait_ms=5_000), name="turn")
    await _until(lambda: redis.zcard("{kw:groq}:leases"))
    await rotation.pool.disable(rotation.pool.keys[0].id, by="test")
    with pytest.raises(Deferred, match="disabled"):
        await waiting
    assert len(provider.seen) == 1
    assert await leases_out(redis) == NOTHING_OUT


async def test_no_key_at_all_is_a_deferral(make: Make) -> None:
    rotation, _ = make(count=0)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.reason == "no groq key is configured for this job"
    assert caught.value.countdown_ms == 60_000


async def test_a_crowd_waits_while_the_limits_are_unknown(make: Make) -> None:
    rotation, provider = make("hang", count=1, opening=1)
    first = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=0)
    assert "limits" in caught.value.reason
    assert caught.value.countdown_ms >= 1_000
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = await serve(rotation, max_wait_ms=2_000)
    assert second.attempts == 1


async def test_a_crowd_that_may_wait_asks_again_in_the_process(make: Make) -> None:
    rotation, provider = make("hang", count=1, opening=1)
    first = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    second = asyncio.create_task(serve(rotation, max_wait_ms=20_000), name="turn")
    await asyncio.sleep(0)
    assert not second.done()
    first.cancel()
    served = await second
    assert served.attempts == 1
    await asyncio.wait([first])


async def test_a_server_fault_ends_the_turn_with_its_backoff(make: Make, redis: Redis) -> None:
    rotation, provider = make(FAULTY)
    with pytest.raises(Fault) as caught:
        await serve(rotation)
    assert (caught.value.reason, caught.value.backoff_ms) == ("it failed (HTTP 502)", 1_500)
    assert len(provider.seen) == 1
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_fault_without_a_sentence_names_its_code(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.RETRY, "odd")))
    with pytest.raises(Fault, match=r"^odd$"):
        await serve(rotation)


async def test_a_rejection_ends_the_job_with_the_providers_words(make: Make) -> None:
    rotation, provider = make(INVALID)
    with pytest.raises(RequestRejected, match=r"^rejected: messages: must not be so$"):
        await serve(rotation)
    assert len(provider.seen) == 1


async def test_a_rejection_without_a_sentence_names_its_code(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.FAIL, "rejected", status=400)))
    with pytest.raises(RequestRejected, match=r"^rejected$"):
        await serve(rotation)


async def test_a_model_that_two_accounts_do_not_know_is_rejected(make: Make) -> None:
    rotation, provider = make(NOT_FOUND, NOT_FOUND)
    with pytest.raises(RequestRejected, match=r"^model_not_found: there is no such model$"):
        await serve(rotation, model="m")
    assert provider.keys_used == SECRETS[:2]


async def test_a_model_that_the_only_account_does_not_know_is_rejected(make: Make) -> None:
    rotation, provider = make(NOT_FOUND, accounts=("one", "one", "one"))
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, model="m")
    assert len(provider.seen) == 1


async def test_a_request_too_large_is_tried_on_every_account_then_rejected(make: Make) -> None:
    rotation, provider = make(too_large(100), too_large(300), too_large(200))
    with pytest.raises(RequestTooLarge, match=r"^request_too_large: too many tokens$"):
        await serve(rotation, model="m", tokens=1_000)
    assert len(provider.seen) == 3
    # Now the pool knows: nothing is sent any more.
    with pytest.raises(RequestTooLarge, match=r"about 1000 tokens a minute.*limit.*is 300"):
        await serve(rotation, model="m", tokens=1_000)
    assert len(provider.seen) == 3


async def test_keys_that_are_all_unfit_for_the_model_reject_the_job(make: Make) -> None:
    rotation, provider = make(UNFIT, UNFIT, UNFIT)
    with pytest.raises(RequestRejected, match=r"no groq key may be used for m: model_blocked"):
        await serve(rotation, model="m", topic="m")
    with pytest.raises(RequestRejected, match=r"no groq key may be used for m: model_blocked"):
        await serve(rotation, model="m", topic="m")
    assert len(provider.seen) == 3
    assert (await serve(rotation, model="n", topic="n")).attempts == 1


def first_account() -> str:
    return keys()[0].id


async def test_a_request_that_may_have_been_carried_out_ends_the_turn(make: Make) -> None:
    rotation, provider = make(AMBIGUOUS)
    with pytest.raises(Fault, match="no answer came in time"):
        await serve(rotation)
    assert len(provider.seen) == 1


async def test_a_bound_request_stays_with_its_account(make: Make) -> None:
    rotation, provider = make()
    for _ in range(4):
        await serve(rotation, account=first_account())
    assert set(provider.keys_used) == {SECRETS[0]}


async def test_a_limit_does_not_move_a_bound_request_elsewhere(make: Make, redis: Redis) -> None:
    rotation, provider = make(refused(20_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation, account=first_account(), max_wait_ms=100)
    assert 18_500 <= caught.value.countdown_ms <= 21_500
    assert not caught.value.for_good
    assert provider.keys_used == [SECRETS[0]]
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_bound_request_uses_another_key_of_its_account_when_the_first_dies(make: Make) -> None:
    rotation, provider = make(DEAD, accounts=("one", "one", "two"))
    await serve(rotation, account="one")
    assert provider.keys_used == SECRETS[:2]


async def test_a_bound_request_whose_keys_are_all_dead_waits_for_a_person(make: Make) -> None:
    rotation, provider = make(DEAD, DEAD, accounts=("one", "one", "two"))
    with pytest.raises(Deferred, match="every groq key of its account is disabled") as caught:
        await serve(rotation, account="one")
    assert caught.value.for_good
    assert len(provider.seen) == 2


async def test_a_bound_request_whose_account_is_gone_has_an_unknown_outcome(make: Make) -> None:
    rotation, provider = make()
    with pytest.raises(OutcomeUnknown, match="no key of its account is configured"):
        await serve(rotation, account="somebody else")
    assert provider.seen == []


async def test_a_bound_request_that_its_account_refuses_is_not_taken_elsewhere(make: Make) -> None:
    rotation, provider = make(NOT_FOUND)
    with pytest.raises(RequestRejected, match="model_not_found"):
        await serve(rotation, account=first_account())
    assert len(provider.seen) == 1


class Book:
    """An errand that notes what it is told, and fails as the test says."""

    def __init__(self, trouble: BaseException | None = None) -> None:
        self.trouble = trouble
        self.told: list[str] = []

    async def load(self, lease: Lease) -> str:
        self.told.append("load")
        if self.trouble is not None:
            raise self.trouble
        return f"for {lease.key.label}"

    async def judged(self, lease: Lease, reply: Reply) -> None:
        self.told.append(f"{lease.key.label[:7]} {reply.verdict.code}")


async def test_an_errand_is_told_of_every_call_before_and_after(make: Make) -> None:
    rotation, provider = make(refused())
    book = Book()
    served = await rotation.run(Want(), book)
    assert book.told == ["load", "gsk_abc rate_limit", "load", "gsk_def ok"]
    assert served.attempts == 2
    assert provider.seen[1][1] == "for gsk_def456..."


async def test_an_errand_that_cannot_be_loaded_makes_no_call_and_gives_its_lease_back(make: Make, redis: Redis) -> None:
    rotation, provider = make()
    with pytest.raises(ZeroDivisionError):
        await rotation.run(Want(), Book(ZeroDivisionError()))
    assert provider.seen == []
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_errand_hears_of_a_call_whose_job_was_stopped(make: Make, redis: Redis) -> None:
    rotation, provider = make("hang")
    book = Book()
    calling = asyncio.create_task(rotation.run(Want(), book), name="turn")
    await provider.called.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert book.told == ["load", "gsk_abc interrupted"]
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_turn_that_never_ends_is_a_fault(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation_module, "_SPINS", 2)
    rotation, _ = make(DEAD, DEAD, DEAD)
    with pytest.raises(Fault, match="reasonable number of tries"):
        await serve(rotation)


async def test_a_job_cancelled_while_it_waits_gives_its_lease_back(make: Make, redis: Redis) -> None:
    rotation, provider = make(refused(2_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    waiting = asyncio.create_task(serve(rotation, max_wait_ms=5_000), name="turn")
    await _until(lambda: redis.zcard("{kw:groq}:leases"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await leases_out(redis) == NOTHING_OUT
    assert len(provider.seen) == 1


async def test_a_job_cancelled_while_its_answer_is_settled_still_tells_what_it_says_of_the_key(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(DEAD)
    settle, reached = rotation.pool.settle, asyncio.Event()

    async def slow_at_first(*args: Any) -> Any:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await settle(*args)

    monkeypatch.setattr(rotation.pool, "settle", slow_at_first)
    calling = asyncio.create_task(serve(rotation), name="turn")
    await reached.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    view = await rotation.pool.snapshot()
    assert [key.state for key in view.keys].count("disabled") == 1
    assert provider.keys_used == [SECRETS[0]]


async def test_a_bug_in_the_provider_settles_the_lease_and_comes_out(make: Make, redis: Redis) -> None:
    rotation, _ = make(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await serve(rotation)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_request_that_cannot_be_built_settles_the_lease(make: Make, redis: Redis) -> None:
    rotation, provider = make()

    def build(key: ApiKey) -> str:
        raise ValueError(key.label)

    with pytest.raises(ValueError, match="gsk_abc123"):
        await rotation.serve(Want(), build)
    assert not provider.seen
    assert await leases_out(redis) == NOTHING_OUT


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        yield server


@pytest.fixture
async def own_redis(own_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        own_server.url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_connect_timeout=2
    )
    async with Redis.from_pool(connections) as client:
        yield client


async def test_a_job_waits_for_a_redis_that_comes_back(own_server: EmbeddedRedis, own_redis: Redis) -> None:
    provider = ScriptedProvider()
    rotation = Rotation(KeyPool(own_redis, "groq", keys()), provider)
    own_server.stop()
    waiting = asyncio.create_task(serve(rotation), name="turn")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await asyncio.to_thread(own_server.start)
    assert (await waiting).attempts == 1


async def test_a_redis_that_stays_away_is_a_fault(
    own_server: EmbeddedRedis, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation_module, "_REDIS_PATIENCE_S", 0.2)
    rotation = Rotation(KeyPool(own_redis, "groq", keys()), ScriptedProvider())
    own_server.stop()
    with pytest.raises(Fault, match="the key pool's Redis does not answer"):
        await serve(rotation)


async def test_an_answer_is_kept_although_redis_is_gone_at_the_settle(
    own_server: EmbeddedRedis, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Stopping(ScriptedProvider):
        async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:  # noqa: ARG002
            await asyncio.to_thread(own_server.stop)
            return await super().call(secret, request)

    rotation = Rotation(KeyPool(own_redis, "groq", keys()), Stopping())
    served = await serve(rotation)
    assert served.value == {"text": "hello"}
    assert "a lease could not be settled" in caplog.text


async def test_a_refusal_reaches_the_pool_although_redis_is_gone_for_a_moment(
    own_server: EmbeddedRedis, own_redis: Redis
) -> None:
    class Blinking(ScriptedProvider):
        back: asyncio.Task[None] | None = None

        async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:
            if self.back is None:
                await asyncio.to_thread(own_server.stop)
                self.back = asyncio.create_task(asyncio.to_thread(own_server.start))
            return await super().call(secret, request, sent=sent)

    rotation = Rotation(KeyPool(own_redis, "groq", keys()), Blinking(DEAD))
    served = await serve(rotation)
    assert served.attempts == 2
    assert (await rotation.pool.snapshot()).failed == 1


async def test_a_failed_key_is_left_out_of_the_log_where_redis_is_gone(
    own_server: EmbeddedRedis, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Vanishing(KeyPool):
        async def snapshot(self) -> Any:
            await asyncio.to_thread(own_server.stop)
            try:
                return await super().snapshot()
            finally:
                await asyncio.to_thread(own_server.start)

    rotation = Rotation(Vanishing(own_redis, "groq", keys()), ScriptedProvider(DEAD))
    assert (await serve(rotation)).attempts == 2
    assert "🚨" not in caplog.text


async def _until(check: Callable[[], Any], *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await check():  # noqa: ASYNC110 - what is awaited happens in Redis
            await asyncio.sleep(0.005)
