"""How the clients read answers about a key and about batches, without a provider."""

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from worker.providers import Groq, Resend, registry
from worker.providers.groq import client as groq_client
from worker.providers.key_check import UNSENDABLE
from worker.providers.resend import client as resend_client
from worker.providers.response import Answer
from worker.providers.unknowns import ignore
from worker.verdicts import Cooldown, Effect, Fate, SeenQuota, Verdict

SECRET = SecretStr("gsk_canary")
Requests = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture(params=["groq", "resend"])
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Requests]]:
    """Makes a provider whose connections give one answer, or fail; and its requests."""

    def make(service: str, outcome: Any) -> tuple[Any, Requests]:
        at = f"https://{service}.example"
        made: Any = Groq(at) if service == "groq" else Resend(at)
        requests: Requests = []

        def answering(method: str) -> Any:
            async def answer(path: str, **options: Any) -> httpx.Response:
                requests.append((method, path, options))
                if isinstance(outcome, Exception):
                    raise outcome
                status, body = outcome
                return httpx.Response(status, json=body)

            return answer

        for method in ("get", "post"):
            monkeypatch.setattr(made._http, method, answering(method))
        return made, requests

    return make


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
            "it may only send, so its quotas show when they end",
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
async def test_a_key_is_alive_only_where_the_provider_says_so(
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
    assert made == names, "not for a key that no header can carry"
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


# --- batches


# What a stand-in answers to an empty batch, and what follows: None where it takes batches.
@pytest.mark.parametrize(
    ("outcome", "fate", "code", "takes"),
    [
        ((200, {"data": []}), None, "", True),
        ((422, {"name": "validation_error", "message": "empty"}), None, "", True),
        ((404, {"name": "not_found", "message": "no endpoint"}), "fail", "no_batches", False),
        ((405, {"name": "method_not_allowed", "message": "x"}), "fail", "no_batches", False),
        ((500, {"name": "x", "message": "x"}), "retry", "server_error", False),
        (
            (401, {"name": "missing_api_key", "message": "x"}),
            "next_key",
            "invalid_key",
            False,
        ),
        (httpx.ReadError("x"), "retry", "read_error", False),
    ],
)
async def test_a_stand_in_is_asked_once_whether_it_takes_batches(
    client: Callable[..., tuple[Any, Requests]],
    *,
    outcome: Any,
    fate: str | None,
    code: str,
    takes: bool,
) -> None:
    made, requests = client("resend", outcome)
    assert made._has_batches is False
    verdict = await made._ask(SECRET)
    assert made._has_batches is takes
    if fate is None:
        assert verdict is None
    else:
        assert (verdict.fate, verdict.code, verdict.definite) == (fate, code, True)
    [(method, path, options)] = requests
    assert (method, path, options["json"]) == ("post", "/emails/batch", [])


async def test_resends_own_address_takes_batches() -> None:
    made = Resend("https://api.resend.com")
    assert made._has_batches
    await made.close()
    await made.close()


EMAILS: list[dict[str, Any]] = [
    {"to": ["a@x.example", "b@x.example"], "subject": "one", "text": "canary text"},
    {"to": ["c@x.example"], "cc": ["d@x.example"], "subject": "two"},
    {"to": ["e@x.example"], "subject": "three"},
]


def results(body: Any, status: int = 200) -> Any:
    answer = Answer.parse(status, {}, json.dumps(body).encode())
    return resend_client._results(answer, EMAILS, SECRET)


def test_the_results_of_a_batch_have_the_order_of_its_emails() -> None:
    ids = [{"id": "1"}, {"id": "2"}, {"id": "3"}]
    assert results({"data": ids}) == {"results": ids}
    refused = [{"index": 1, "message": "no such domain for gsk_canary"}]
    value = results({"data": [ids[0], ids[2]], "errors": refused})
    first, second, third = value["results"]
    assert (first, third) == (ids[0], ids[2])
    assert second["error"].startswith("Resend rejects the email: no such domain for ")
    assert "canary" not in second["error"]
    silent = results({"data": ids[:2], "errors": [{"index": 2}]})
    assert silent["results"][2] == {"error": "Resend rejects the email"}


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": "1"}]},
        {"data": [{"id": "1"}] * 4},
        {"data": [{"id": "1"}, {"id": "2"}, {"id": ""}]},
        {"data": [{"id": "1"}, {"id": "2"}, {"id": 3}]},
        {"data": {"0": {"id": "1"}}},
        {"data": [{"id": "1"}] * 2, "errors": {"index": 2}},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": 3}]},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": -1}]},
        {"data": [{"id": "1"}] * 2, "errors": [{"index": True}]},
        {"data": [{"id": "1"}] * 2, "errors": ["odd"]},
        {"data": [{"id": "1"}], "errors": [{"index": 2}, {"index": 2}]},
        {},
        [],
    ],
)
def test_an_answer_without_a_result_for_each_email_of_a_batch_has_none(body: Any) -> None:
    assert results(body) is None


def test_only_a_success_has_results_or_an_id() -> None:
    assert results({"data": [{"id": "1"}] * 3}, status=500) is None
    for status, body, value in (
        (200, {"id": "1"}, {"id": "1"}),
        (500, {"id": "1"}, None),
        (200, {"id": ""}, None),
        (200, {"id": 7}, None),
    ):
        answer = Answer.parse(status, {}, json.dumps(body).encode())
        assert resend_client._value(answer) == value


def test_a_batch_counts_the_recipients_of_the_emails_that_were_accepted() -> None:
    verdict = Verdict(Fate.DONE, "ok")
    charged = resend_client._charged
    assert charged(verdict, EMAILS[0], None) is verdict
    assert charged(verdict, EMAILS, None).emails == 5, "it is not known which were accepted"
    value = {"results": [{"id": "1"}, {"error": "x"}, {"id": "3"}]}
    assert charged(verdict, EMAILS, value).emails == 3


def test_a_quota_that_refuses_a_batch_rests_no_key() -> None:
    quotas = (SeenQuota("daily", 90, spent=True),)  # type: ignore[call-arg, arg-type]
    verdict = Verdict(
        Fate.NEXT_KEY, "daily_quota", effect=Effect.COOL, cooldown=Cooldown.DAILY_PROBE,
        cooldown_ms=5, quotas=quotas,
    )  # fmt: skip
    left = resend_client._of_a_batch(verdict)
    assert (left.effect, left.cooldown, left.cooldown_ms) == (Effect.NONE, Cooldown.LIMIT, None)
    assert [quota.spent for quota in left.quotas] == [False]
    assert (left.fate, left.code) == (Fate.NEXT_KEY, "daily_quota")
