"""How the clients check a key and read the answers, without a provider."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.unit.answering_client import SECRET, Requests, client
from worker.providers import Groq, registry
from worker.providers.groq import client as groq_client
from worker.providers.key_check import UNSENDABLE
from worker.providers.unknowns import ignore

__all__ = ["client"]


@pytest.fixture(params=["groq", "resend"])
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


LISTED = {"data": [{"id": "m"}]}
SPENT = {"emails": {"daily": {"limit": 9, "used": 4}}, "data": LISTED["data"]}
REFUSED = {"error": {"message": "Invalid API Key", "code": "invalid_api_key"}}


@pytest.mark.parametrize(
    ("service_", "outcome", "state", "detail"),
    [
        ("groq", (200, LISTED), "alive", ""),
        ("groq", (500, LISTED), "unknown", "Groq failed (HTTP 500) (HTTP 500)"),
        ("groq", (200, {"data": "odd"}), "unknown", None),
        ("groq", (401, REFUSED), "dead", "Invalid API Key (HTTP 401)"),
        ("groq", httpx.ReadTimeout("x"), "unknown", "no answer came in time"),
        ("groq", TimeoutError(), "unknown", "the answer was not complete in time"),
        ("resend", (200, SPENT), "alive", ""),
        ("resend", (500, SPENT), "unknown", "Resend failed (HTTP 500) (HTTP 500)"),
        ("resend", (200, [SPENT]), "unknown", None),
        (
            "resend",
            (401, {"name": "restricted_api_key", "message": "This API key may only send"}),
            "alive",
            "the key may only send, so its quotas are unknown until they are used up",
        ),
        (
            "resend",
            (400, {"name": "validation_error", "message": "API key is invalid"}),
            "dead",
            "API key is invalid (HTTP 400)",
        ),
        ("resend", httpx.ReadError("x"), "unknown", "the connection broke before the answer was "),
        ("resend", TimeoutError(), "unknown", "the answer was not complete in time"),
    ],
)
async def test_a_key_is_alive_only_if_the_provider_says_so(
    client: Callable[..., tuple[Any, Requests]],
    service_: str,
    outcome: Any,
    state: str,
    detail: str | None,
) -> None:
    made, requests = client(service_, outcome)
    checked = await made.check(SECRET)
    assert checked.state == state
    if detail is not None:
        assert checked.detail.startswith(detail)
        assert bool(detail) or not checked.detail
    assert checked.models == (frozenset("m") if state == "alive" and service_ == "groq" else None)
    limits = [(limit.limit, limit.remaining) for limit in checked.limits]
    assert limits == ([(9, 5.0)] if outcome == (200, SPENT) else [])
    [(method, path, options)] = requests
    assert (method, path) == (
        "get", "/openai/v1/models" if service_ == "groq" else "/usage"
    )  # fmt: skip
    assert options == {"headers": {"Authorization": "Bearer gsk_canary"}}


async def test_a_key_that_no_header_can_carry_is_not_checked(
    client: Callable[..., tuple[Any, Requests]], service: str
) -> None:
    made, requests = client(service, (200, LISTED))
    assert await made.check(SecretStr("gsk_ünsendable")) is UNSENDABLE
    assert requests == []


async def test_a_bug_in_a_check_is_raised(
    client: Callable[..., tuple[Any, Requests]], service: str
) -> None:
    made, _ = client(service, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await made.check(SECRET)
    if service == "resend":
        with pytest.raises(ZeroDivisionError):
            await made._ask(SECRET)


def test_the_sdk_of_a_key_is_made_once_and_kept_for_the_latest_keys_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def make(*, api_key: str, **_: Any) -> Any:
        made.append(api_key)
        return SimpleNamespace(api_key=api_key)

    monkeypatch.setattr(groq_client, "AsyncGroq", make)
    client = Groq("https://groq.example")
    keys = [SecretStr(f"gsk_{number}") for number in range(64)]
    names = [f"gsk_{number}" for number in range(64)]
    client.prepare([SecretStr("gsk ü"), *keys])
    client.prepare(keys)
    assert made == names, "no client is made for a key that no header can hold"
    assert client._client(keys[1]).api_key == "gsk_1"
    client.prepare([SecretStr("gsk_new"), *keys[1:]])
    assert made == [*names, "gsk_new"]
    client.prepare(keys[:1])
    assert made == [*names, "gsk_new", "gsk_0"]


def test_the_sdk_of_groq_logs_no_requests_whatever_else_is_logged() -> None:
    logger = logging.getLogger("groq._base_client")
    logger.setLevel(logging.DEBUG)
    Groq("https://groq.example")
    assert not logger.isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(("timeout_s", "expected_s"), [(None, 7.0), (3.0, 3.0)])
def test_a_client_is_made_as_the_settings_say_unless_a_timeout_is_given(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float | None, expected_s: float
) -> None:
    monkeypatch.setattr(registry, "BUILDERS", {"x": lambda *args, **options: (args, options)})
    settings: Any = SimpleNamespace(
        services={"x": SimpleNamespace(base_url="https://x.example", timeout_s=7.0)}
    )
    made = registry.client_of("x", settings, timeout_s=timeout_s)
    assert made == (("https://x.example",), {"timeout_s": expected_s, "notice": ignore})
