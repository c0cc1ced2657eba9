"""Decides after which errors of Redis to retry, and for how long."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own
    TryAgainError,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOG_INTERVAL_S = 5.0
_LOG_AFTER_S = 1.0

_TRANSIENT: Final = (
    ConnectionError,  # refused, lost, no name, "max number of clients reached"
    TimeoutError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
    MasterDownError,
    NoScriptError,  # the server was flushed after the script was loaded
    OSError,
)
_ACCESS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
_CODE_RE: Final = re.compile(
    # Redis 6 quotes a script's error: "Error running script (call to f_…): @user_script:7: -OOM
    # command not allowed …"
    r"(?:Error running script .*[-: ])?"
    r"(?:BUSY|LOADING|OOM|MISCONF|NOREPLICAS|READONLY|CLUSTERDOWN|TRYAGAIN|MASTERDOWN)\b"
)
_DENIED_RE: Final = re.compile("ACL failure in script|The user executing the script ")
"""The errors of a script whose user lacks a right: of Redis 7 and Valkey, and of Redis 6."""
_REPLICA_RE: Final = re.compile(r"(?:Error running script .*[-: ])?READONLY\b")
_ARGUMENTS_RE: Final = re.compile(r",? with args beginning with.*", re.DOTALL)


def is_transient(exc: BaseException) -> bool:
    """Whether the same command may succeed a little later, without an operator.

    After a wrong password or a missing right it may not.
    """
    if isinstance(exc, _ACCESS):
        return False
    return isinstance(exc, _TRANSIENT) or (
        isinstance(exc, ResponseError) and _CODE_RE.match(str(exc)) is not None
    )


def is_temporary_refusal(exc: BaseException) -> bool:
    """Whether Redis answers but rejects commands for now.

    It may be full, busy with a script, or lack replicas.
    """
    return is_transient(exc) and isinstance(exc, ResponseError)


def is_replica_error(exc: BaseException) -> bool:
    """Whether a server rejects a write because it is a replica."""
    return isinstance(exc, ReadOnlyError) or (
        isinstance(exc, ResponseError) and _REPLICA_RE.match(str(exc)) is not None
    )


def is_access_error(exc: BaseException) -> bool:
    """Whether Redis denies access: a wrong password, or a user without the right."""
    return isinstance(exc, _ACCESS) or (
        isinstance(exc, ResponseError) and _DENIED_RE.search(str(exc)) is not None
    )


def safe_message(exc: BaseException) -> str:
    """Return the error message of Redis or the operating system, in one line without arguments.

    Args:
        exc: An error of redis-py, or an error that another library has raised from one.
    """
    while not str(exc).strip() and exc.__cause__ is not None:
        exc = exc.__cause__
    code = getattr(exc, "status_code", None)  # redis-py removes it from the text
    text = _ARGUMENTS_RE.sub("", " ".join(str(exc).split())).strip()
    if isinstance(code, str) and text and not text.startswith(code):
        text = f"{code} {text}"
    return text or type(exc).__name__


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to retry, and with which pauses.

    Attributes:
        first_s: The first pause, in seconds; the pause doubles each time.
        longest_s: The longest pause, in seconds.
        within_s: How long to retry, in seconds.
        any_error: Whether to retry even after an error that is not transient.
    """

    first_s: float
    longest_s: float
    within_s: float
    any_error: bool = False


JOB: Final = RetryPolicy(first_s=0.05, longest_s=1.0, within_s=60.0)
"""The policy for a job that needs a key, or the record of its email."""
RECORD: Final = RetryPolicy(first_s=0.5, longest_s=2.0, within_s=60.0, any_error=True)
"""The policy for a dead letter. Its message is acknowledged afterwards, so any error is retried."""


async def retried(ask: Callable[[], Awaitable[T]], policy: RetryPolicy) -> T:
    """Call Redis until a call succeeds.

    After a second without success, Redis' error message is logged, one line every few seconds.

    Args:
        ask: A function that calls Redis once.
        policy: How long to retry, and with which pauses.

    Raises:
        redis.exceptions.RedisError: The last error, when the policy's time is over. An error that
            is not transient is raised at once, unless the policy retries any error.
        OSError: The same, if the error came from the operating system.
    """
    began_s = time.monotonic()
    pause_s = policy.first_s
    while True:
        try:
            return await ask()
        except (RedisError, OSError) as exc:
            waited_s = time.monotonic() - began_s
            left_s = policy.within_s - waited_s
            if left_s <= 0 or not (policy.any_error or is_transient(exc)):
                warn(
                    "Redis refuses a command or is unreachable (%s); no longer waiting for it",
                    safe_message(exc),
                )
                raise
            logger.debug("a call to Redis failed: %s", safe_message(exc))
            if waited_s >= _LOG_AFTER_S:
                warn("jobs wait for Redis: %s", safe_message(exc))
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, policy.longest_s)


class _LogLimit:
    """When each sentence may be logged again. Threads share this; an extra line does no harm."""

    until_s: Final[dict[str, float]] = {}


def warn(words: str, *about: object) -> None:
    """Log a warning that many jobs would repeat, at most once in 5 seconds."""
    now_s = time.monotonic()
    if now_s >= _LogLimit.until_s.get(words, 0.0):
        _LogLimit.until_s[words] = now_s + _LOG_INTERVAL_S
        logger.warning(words, *about)
