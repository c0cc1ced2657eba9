"""The single list of temporary Redis errors, and how long each caller waits."""

import asyncio
import logging
import ssl
from dataclasses import replace

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as LateError

from config.current import get_settings
from worker.aio import redis_retry
from worker.aio.redis_retry import (
    RetryPolicy,
    is_access_error,
    is_transient,
    retried,
    safe_message,
)
from worker.errors import Deferred, InvalidArguments, JobError, error_of
from worker.redis import retry
from worker.redis.retry import retry_while_down


# The server's reply on the wire, and whether the same command may succeed a little later.
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN "
                "NOSAVE."
            ),
            True,
        ),
        ("LOADING Redis is loading the dataset in memory", True),
        (
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: f00, on "
                "@user_script:3."
            ),
            True,
        ),
        (
            "ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed",
            True,
        ),  # Redis 6
        ("MISCONF Errors writing to the AOF file: No space left on device", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("NOSCRIPT No matching script. Please use EVAL.", True),  # flushed in between
        ("ERR max number of clients reached", True),
        ("NOPERM this user has no permissions to run the 'get' command", False),
        ("NOAUTH Authentication required.", False),
        ("WRONGPASS invalid username-password pair or user is disabled.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("BUSYGROUP Consumer Group name already exists", False),
        ("MOVED 3999 127.0.0.1:6381", False),
        ("ERR unknown command 'FOO', with args beginning with: 'a secret' ", False),
    ],
)
def test_an_error_of_redis_passes_by_itself_or_does_not(answer: str, *, passes: bool) -> None:
    exc = BaseParser.parse_error(answer)
    assert is_transient(exc) is passes
    assert "secret" not in safe_message(exc)
    assert safe_message(exc).split()[0] in answer


@pytest.mark.parametrize(
    ("answer", "denied"),
    [
        ("NOPERM this user has no permissions to run the 'get' command", True),
        ("WRONGPASS invalid username-password pair or user is disabled.", True),
        ("ERR ACL failure in script: User w has no permissions to run the 'set' command", True),
        (
            (
                "ERR Error running script (call to f_0): @user_script:1: @user_script: 1: The user "
                "executing the script can't run this command or subcommand"
            ),
            True,
        ),  # Redis 6
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_a_right_that_is_missing_needs_a_person_also_within_a_script(
    answer: str, *, denied: bool
) -> None:
    assert is_access_error(BaseParser.parse_error(answer)) is denied


def test_a_connection_that_fails_passes_whatever_the_reason() -> None:
    for exc in (LostError("lost"), LateError("late"), ConnectionResetError(), ssl.SSLError("x")):
        assert is_transient(exc)


async def failing(*errors: Exception) -> str:
    left = list(errors)

    async def ask() -> str:
        if left:
            raise left.pop(0)
        return "there"

    return await retried(ask, RetryPolicy(first_s=0.001, longest_s=0.001, within_s=0.5))


async def test_a_caller_retries_until_redis_answers_and_not_if_it_denies_access() -> None:
    busy = BaseParser.parse_error("BUSY Redis is busy running a script.")
    assert await failing(busy, LostError("lost"), busy) == "there"
    denied = BaseParser.parse_error("NOPERM this user has no permissions")
    with pytest.raises(RedisError, match="no permissions"):
        await failing(busy, denied)


async def test_jobs_that_wait_for_redis_are_logged_once_with_its_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_retry, "_LOG_AFTER_S", 0.0)
    redis_retry._LogLimit.until_s.clear()
    busy = BaseParser.parse_error("BUSY Redis is busy running a script.")
    with caplog.at_level(logging.WARNING):
        await failing(*[busy] * 20)
    assert caplog.messages == ["jobs wait for Redis: BUSY Redis is busy running a script."]


async def test_the_last_try_comes_when_the_time_is_over_and_not_a_pause_earlier() -> None:
    busy = BaseParser.parse_error("BUSY Redis is busy running a script.")
    answers = [busy]

    async def ask() -> str:
        if answers:
            raise answers.pop()
        return "there"

    async def refuse() -> str:
        raise busy

    policy = RetryPolicy(first_s=600.0, longest_s=600.0, within_s=0.05)
    async with asyncio.timeout(60):
        with pytest.raises(RedisError, match="busy"):
            await retried(refuse, policy)
        assert await retried(ask, policy) == "there"


@pytest.mark.parametrize(
    "answer",
    [
        "BUSY Redis is busy running a script.",
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "NOREPLICAS Not enough good replicas to write.",
        "READONLY You can't write against a read only replica.",
        LostError("lost"),
        LateError("late"),
        ConnectionResetError(),
    ],
)
async def test_a_job_comes_back_soon_after_an_error_that_passes_by_itself(
    answer: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "JOB", replace(retry.JOB, within_s=0.0))

    async def refused() -> None:
        raise BaseParser.parse_error(answer) if isinstance(answer, str) else answer

    with pytest.raises(Deferred) as caught:
        await retry_while_down(refused)
    assert caught.value.code == "redis_down"
    assert 0 < caught.value.countdown_ms <= 1_500


def test_a_job_that_waits_for_redis_asks_at_least_once_a_second() -> None:
    assert retry.JOB.longest_s <= 1


async def test_a_job_whose_redis_denies_access_comes_back_later_and_says_why() -> None:
    async def denied() -> None:
        raise BaseParser.parse_error(
            "NOPERM this user has no permissions to run the 'evalsha' command"
        )

    with pytest.raises(Deferred, match="Redis refuses: NOPERM this user") as caught:
        await retry_while_down(denied)
    assert caught.value.countdown_ms >= 5_000


async def test_a_job_that_waits_for_redis_is_deferred_well_before_its_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policies: list[RetryPolicy] = []

    async def note(_: object, policy: RetryPolicy) -> None:
        policies.append(policy)

    monkeypatch.setattr(retry, "retried", note)
    for limit_s in (300, 20):
        settings = get_settings().model_copy(update={"task_time_limit_s": limit_s})
        monkeypatch.setattr(retry, "get_settings", lambda settings=settings: settings)
        await retry_while_down(lambda: asyncio.sleep(0))
        assert policies[-1].within_s < settings.task_soft_time_limit_s / 3
    assert [policy.within_s for policy in policies] == [60.0, 2.5]


def test_a_dead_letters_reason_becomes_the_error_again_that_it_was() -> None:
    error = error_of("InvalidArguments: to: is required")
    assert isinstance(error, InvalidArguments)
    assert str(error) == "to: is required"
    other = error_of("ValueError in worker/jobs/execution.py, line 3")
    assert (type(other).__name__, isinstance(other, JobError)) == ("ValueError", True)


async def test_no_job_waits_for_redis_because_of_a_bug() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await retry_while_down(broken)


def test_an_error_with_a_code_alone_is_named_by_its_class() -> None:
    nothing_said = LostError("")
    nothing_said.status_code = "ERR"
    assert safe_message(nothing_said) == "ConnectionError"
