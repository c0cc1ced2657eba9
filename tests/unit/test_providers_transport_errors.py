"""The verdicts on calls that got no answer."""

import asyncio

import httpx
import pytest

from worker.aio.errors import SoftTimeLimit
from worker.providers.base import judge_transport
from worker.providers.failures import OversizedAnswer
from worker.verdicts import Effect, Fate, Scope


# Failures that certainly come before the provider, and those that may come after it.
@pytest.mark.parametrize(
    ("error", "definite", "code"),
    [
        (httpx.ConnectError("x"), True, "connect_error"),
        (httpx.ConnectTimeout("x"), True, "connect_timeout"),
        (httpx.ProxyError("x"), True, "proxy_error"),
        (httpx.UnsupportedProtocol("x"), True, "bad_url"),
        (httpx.WriteError("x"), False, "write_error"),
        (httpx.WriteTimeout("x"), False, "write_timeout"),
        (httpx.ReadError("x"), False, "read_error"),
        (httpx.ReadTimeout("x"), False, "read_timeout"),
        (httpx.RemoteProtocolError("x"), False, "protocol_error"),
        (OversizedAnswer("x"), False, "oversized_answer"),
        (httpx.LocalProtocolError("x"), False, "transport_error"),
        (httpx.DecodingError("x"), False, "undecodable_answer"),
        (httpx.CloseError("x"), False, "transport_error"),
        (TimeoutError(), False, "total_timeout"),
        (OSError("x"), False, "transport_error"),
        (RuntimeError("x"), False, "transport_error"),
    ],
)
def test_a_transport_error_never_blames_the_key(
    error: Exception, code: str, *, definite: bool
) -> None:
    verdict = judge_transport(error, if_ambiguous=Fate.SAME_ACCOUNT)
    assert (verdict.code, verdict.definite) == (code, definite)
    assert verdict.fate is (Fate.RETRY if definite else Fate.SAME_ACCOUNT)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.HOST)
    # Before a connection, the text is our own and gives the reason; other texts may contain
    # anything.
    assert ("x" in verdict.reason.split("(")[0].split()) is definite


def test_a_soft_time_limit_is_not_judged_as_a_failure_of_the_connection() -> None:
    for limit in (asyncio.CancelledError(), SoftTimeLimit()):
        with pytest.raises(type(limit)) as met:
            judge_transport(limit, if_ambiguous=Fate.RETRY)
        assert met.value is limit


def test_a_full_pool_of_connections_blames_neither_host_nor_key() -> None:
    verdict = judge_transport(httpx.PoolTimeout("x"), if_ambiguous=Fate.SAME_ACCOUNT)
    assert (verdict.fate, verdict.definite) == (Fate.RETRY, True)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.KEY)
