"""Defines the interface between rotation and a provider, and judges failures below HTTP.

Some verdicts cool nothing. With `Effect.NONE`, `Scope.HOST` or `Scope.MODEL` means that the key is
not at fault, and that a breaker for the host or the model may count the failure. `Effect.NONE` with
`Scope.KEY` blames nobody.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import SecretStr

from worker.providers.failures import OversizedAnswer
from worker.verdicts import Cooldown, Effect, Fate, Reply, Scope, Verdict

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


class Provider(Protocol[RequestT_contra]):
    """One service: its wire format and its table of verdicts."""

    service: str

    async def call(
        self, secret: SecretStr, request: RequestT_contra, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Send one request with one key and judge the answer.

        `sent` is called when the bytes of the request have left.

        Every answer, and every failure of the provider or the network, becomes a verdict. Only a
        cancellation and errors of our own (a malformed request) are raised. The request is sent at
        most once.
        """
        ...

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        ...


# Each of these is raised before anything has reached the provider, so the request was certainly not
# carried out.
_DEFINITE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

_CODES: tuple[tuple[type[Exception], str, str], ...] = (
    (httpx.ConnectTimeout, "connect_timeout", "the connection could not be opened in time"),
    (httpx.ConnectError, "connect_error", "the connection could not be opened"),
    (httpx.ProxyError, "proxy_error", "the proxy could not be used"),
    (httpx.UnsupportedProtocol, "bad_url", "the base URL is not an http or https URL"),
    (httpx.WriteTimeout, "write_timeout", "the request could not be sent in time"),
    (httpx.WriteError, "write_error", "the connection broke while the request was sent"),
    (httpx.ReadTimeout, "read_timeout", "no answer came in time"),
    (httpx.ReadError, "read_error", "the connection broke before the answer was complete"),
    (OversizedAnswer, "oversized_answer", "the answer was larger than any answer of the provider"),
    (httpx.RemoteProtocolError, "protocol_error", "the answer was cut off or is not HTTP"),
    (httpx.DecodingError, "undecodable_answer", "the answer could not be decoded"),
    (TimeoutError, "total_timeout", "the answer was not complete in time"),
)


def unknown_refusal_of_key(provider: str, *, backoff_ms: int | None = None) -> Verdict:
    """Judge a 401 that is not in the provider's own form.

    Usually a gateway in front of the provider refuses every key alike, and no person should have to
    reset the keys afterwards. So the key rests as after a server error. If no other key is accepted
    either, the host rests. The request was certainly not carried out.

    Args:
        provider: The provider's name for people, such as `Groq`.
        backoff_ms: The shortest wait that the answer asks for, in milliseconds.
    """
    return Verdict(
        Fate.RETRY,
        "edge_blocked",
        f"a gateway in front of {provider} refuses this address (HTTP 401)",
        effect=Effect.COOL,
        cooldown=Cooldown.SERVER_ERROR,
        backoff_ms=backoff_ms,
        status=HTTPStatus.UNAUTHORIZED,
    )


def judge_transport(error: BaseException, *, if_ambiguous: Fate) -> Verdict:
    """Judge a failure that brought no complete answer.

    The key is never blamed. The exceptions have the classes of httpx, on which both SDKs are built
    (see `failures`).

    Args:
        error: The exception that the HTTP client raised.
        if_ambiguous: The fate of a request that may have been carried out: `Fate.RETRY` if
            repeating the request is harmless, else `Fate.SAME_ACCOUNT`.

    Raises:
        asyncio.CancelledError: The error is a soft time limit, which the SDKs treat as a failure.
    """
    if isinstance(error, asyncio.CancelledError):
        raise error
    if isinstance(error, httpx.PoolTimeout):
        return Verdict(
            Fate.RETRY, "pool_timeout", "all connections of this process were in use for too long"
        )
    definite = isinstance(error, _DEFINITE)
    code, sentence = "transport_error", f"the call failed below HTTP ({type(error).__name__})"
    for kind, known_code, known_sentence in _CODES:
        if isinstance(error, kind):
            code, sentence = known_code, known_sentence
            break
    if definite and (cause := str(error)):  # `failures` wrote this text
        sentence = f"{sentence}: {cause}"
    return Verdict(
        Fate.RETRY if definite else if_ambiguous,
        code,
        sentence,
        effect=Effect.NONE,
        scope=Scope.HOST,
        definite=definite,
    )


class Judge:
    """The base class of all providers' judges.

    Args:
        now: Returns the time in seconds since the epoch.
        jitter: Draws a number between two bounds.
    """

    def __init__(
        self, *, now: Callable[[], float], jitter: Callable[[float, float], float]
    ) -> None:
        self._now = now
        self._jitter = jitter

    @staticmethod
    def by_rules(
        rules: Iterable[Callable[..., Verdict | None]], *given: Any, sentence: str
    ) -> Verdict | None:
        """Judge by the first rule that knows the answer.

        Args:
            rules: Functions that take `given` and return None if they do not know the answer.
            given: The answer, and the other arguments of the rules.
            sentence: The provider's message. It is appended to our reason if the blame is not
                certain.
        """
        verdict = next(filter(None, (rule(*given) for rule in rules)), None)
        if verdict is None or verdict.certain or not sentence:
            return verdict
        return replace(verdict, reason=f"{verdict.reason}: {sentence}")


def is_sendable(secret: SecretStr) -> bool:
    """Whether a header can carry the key: visible ASCII without spaces."""
    value = secret.get_secret_value()
    return bool(value) and value.isascii() and value.isprintable() and " " not in value


def unsent_reply(secret: SecretStr, http: httpx.AsyncClient) -> Reply | None:
    """Return the reply to a call that cannot be made; None if the call can be made.

    A call cannot be made with a key that no header can carry, or after `close`.
    """
    if not is_sendable(secret):
        return Reply(UNSENDABLE_KEY)
    return Reply(CLOSED) if http.is_closed else None


UNSENDABLE_KEY = Verdict(
    Fate.NEXT_KEY,
    "invalid_key",
    "the key holds characters that no header can carry",
    effect=Effect.DISABLE,
    scope=Scope.KEY,
)
"""The verdict on a key for which `is_sendable` is false. The key was never sent."""

CLOSED = Verdict(Fate.RETRY, "closed", "this worker is shutting down")
"""The verdict on a call after `close`. The request was never sent."""
