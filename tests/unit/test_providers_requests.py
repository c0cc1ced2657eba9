import asyncio
import json
import resource
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from config.errors import SettingsError
from worker.aio.errors import SoftTimeLimit
from worker.providers import Completion, SendRequest, connections, estimate_tokens
from worker.providers.base import judge_transport
from worker.providers.failures import OversizedAnswer
from worker.providers.proxies import proxy_for
from worker.providers.resend.request import recipients_in
from worker.providers.response import MAX_SENTENCE, Answer, safe_sentence
from worker.verdicts import Effect, Fate, Scope

_PAYLOAD = {"from": "Shop <a@Shop.example>", "to": "ann@example.org"}

LONG = "".join(chr(ord("A") + n * n % 26) + str(n) for n in range(60))  # no piece comes twice


def _asking(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}]} | more


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (_asking("x" * 400, max_tokens=10), 100 + 4 + 10),
        (
            _asking("x" * 401, max_completion_tokens=10, max_tokens=99),
            101 + 4 + 10,
        ),  # the newer name wins, rounded up
        (_asking("x" * 400), 100 + 4 + 1_024),  # the default reserve
        (_asking("x" * 400, max_tokens=10, n=3), 100 + 4 + 30),
        (_asking("字" * 4, max_tokens=1), 3 + 4 + 1),  # scripts beyond ASCII are not underrated
        (
            _asking("\ud800", max_tokens=1),
            1 + 4 + 1,
        ),  # half a character does not break the estimate
        (_asking(None, max_tokens=1), 4 + 1),
        (_asking([{"type": "text", "text": "x" * 36}], max_tokens=1), 10 + 4 + 1),
        (
            _asking(
                [{"type": "image_url", "image_url": {"url": "data:" + "x" * 99_999}}], max_tokens=1
            ),
            1_000 + 4 + 1,
        ),
        (_asking("", max_tokens=1, tools=[{"a": 1}]), 3 + 4 + 1),
        ({"model": "m", "messages": ["x" * 8], "max_tokens": 1}, 2 + 4 + 1),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "", "reasoning": "x" * 40},
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "look", "arguments": "y" * 36}}],
                    },
                ],
                "max_tokens": 1,
            },
            (40 + 40) // 4 + 2 * 4 + 1,  # what the model thought and called counts as well
        ),
        (_asking("", max_tokens=1, documents=[{"a": 1}]), 3 + 4 + 1),
        ({"model": "m"}, 1_024),
    ],
)
def test_the_estimate_counts_prompt_and_reserve(params: dict[str, Any], expected: int) -> None:
    assert estimate_tokens(params) == expected


def test_a_completion_knows_its_model_and_hides_its_prompt() -> None:
    asked = Completion.of(_asking("canary"))
    assert (asked.resource, asked.model) == ("m", "m")
    assert "canary" not in repr(asked)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (None, "m"),
        ("on_demand", "m"),
        ("flex", "m (flex)"),
        ("performance", "m (performance)"),
        ("auto", "m (auto)"),
    ],
)
def test_limits_belong_to_a_model_and_a_service_tier(tier: str | None, expected: str) -> None:
    asked = Completion.of(
        _asking("x" * 400, max_tokens=10) | ({"service_tier": tier} if tier else {})
    )
    assert (asked.limited_as, asked.resource) == (
        expected,
        "m",
    )  # a key that may not use the model may not in any tier
    assert (asked.input_tokens, asked.output_tokens, asked.tokens) == (104, 10, 114)


def test_a_completion_for_another_model_differs_in_that_alone() -> None:
    asked = Completion.of(_asking("canary", max_tokens=10))
    assert asked.with_model("m") is asked
    other = asked.with_model("n")
    assert (other.model, other.params) == ("n", asked.params | {"model": "n"})
    assert (other.tokens, asked.params["model"]) == (asked.tokens, "m")


def test_a_batch_has_the_number_of_which_its_key_is_made() -> None:
    batch = SendRequest.batch([SendRequest.single(_PAYLOAD, "k")] * 2, number="7")
    assert (batch.number, batch.idempotency_key, len(batch.payload)) == ("7", "batch-7", 2)


def test_each_recipient_counts() -> None:
    assert recipients_in(_PAYLOAD) == 1
    assert recipients_in({"to": ["a", "b"], "cc": "c", "bcc": ("d", "e")}) == 5


def test_equal_payloads_give_equal_bytes() -> None:
    payload = {
        "to": "ann@example.org",
        "from": "a@b.example",
        "tags": [{"name": "é", "value": "\ud800"}],
    }
    backwards = MappingProxyType(dict(reversed(payload.items())))
    assert SendRequest.single(payload, "k").body == SendRequest.single({**backwards}, "k").body
    assert SendRequest.single(backwards, "k").body == SendRequest.single(payload, "k").body
    assert SendRequest.single(payload, "k").body.isascii()


@pytest.mark.parametrize("key", ["", "x" * 257, "a\nb", "ä", " a"])
def test_an_idempotency_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        SendRequest.single(_PAYLOAD, key)


# Which failures are surely before the provider, and which may be after it.
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
    # Before a connection the text is our own and says why; all others' may hold anything.
    assert ("x" in verdict.reason.split("(")[0].split()) is definite


def test_a_soft_time_limit_is_no_failure_of_the_connection() -> None:
    for limit in (asyncio.CancelledError(), SoftTimeLimit()):
        with pytest.raises(type(limit)) as met:
            judge_transport(limit, if_ambiguous=Fate.RETRY)
        assert met.value is limit


def test_a_full_pool_is_our_own_fault() -> None:
    verdict = judge_transport(httpx.PoolTimeout("x"), if_ambiguous=Fate.SAME_ACCOUNT)
    assert (verdict.fate, verdict.definite) == (Fate.RETRY, True)
    assert (verdict.effect, verdict.scope) == (Effect.NONE, Scope.KEY)


def test_a_sentence_is_one_bounded_line_without_secrets() -> None:
    said = "no\x00 \u202e gsk_abc, re_def! hunter2hunter2\n" + "y" * 1_000
    sentence = safe_sentence(said, secret="hunter2hunter2", private=["y" * 200, "no"])
    assert sentence.startswith("no gsk_***, re_*** *** […]")
    assert len(safe_sentence("z " * 1_000, secret="")) == MAX_SENTENCE


@pytest.mark.parametrize(
    ("said", "private", "shown"),
    [
        ("no abcdef", ["abcdef"], "no […]"),
        ("no abcde", ["abcde"], "no abcde"),  # a word of everybody
        ("no abcdefgh", ["abcdef", "abcdefgh"], "no […]"),
        (f"no {LONG[:15]}!", [LONG], f"no {LONG[:15]}!"),
        (f"no {LONG[:16]}!", [LONG], "no […]!"),
        (f"no {LONG[:40]}", [LONG], "no […]"),
        (f"no {LONG[20:36]}{LONG[:16]}", [LONG], "no […][…]"),
        ("no " + "yz" * 200, [], "no " + "yz" * 148 + "…"),
        ("no " + "y" * 297, [], "no " + "y" * 297),
        ("no bearer xyz, re_1,gsk_2", [], "no Bearer *** re_***,gsk_***"),
    ],
)
def test_what_a_provider_quotes_of_a_private_text_is_left_out(
    said: str, private: list[str], shown: str
) -> None:
    assert safe_sentence(said, secret="", private=private) == shown


# How a provider quotes a long text: whole, cut off by itself, cut off by us, from the middle.
@pytest.mark.parametrize(
    "said",
    [
        f"content: {LONG}: is too long",
        f"content: '{LONG[:40]}...' is not allowed",
        f"content: {LONG * 2}",
        f"cannot parse …{LONG[30:70]}…",
    ],
)
def test_no_piece_of_a_private_text_is_repeated(said: str) -> None:
    message = Answer.parse(400, {}, json.dumps({"message": said}).encode()).message
    sentence = safe_sentence(message, secret="", private=[LONG * 2])
    assert "[…]" in sentence
    assert not any(LONG[place : place + 16] in sentence for place in range(len(LONG) - 16))


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "m", "code": "c"}}, "c", "m"),  # Groq
        ({"name": "n", "message": "m"}, "n", "m"),  # Resend
        ({"error": "m"}, "", "m"),
        ({"detail": "m"}, "", "m"),
        ({"error": {"code": 7, "message": None}}, "", ""),
        (["x"], "", ""),
        (None, "", ""),
    ],
)
def test_an_error_is_read_in_every_shape(body: object, code: str, message: str) -> None:
    answer = Answer(400, {}, body)
    assert (answer.code, answer.message) == (code, message)


def test_a_body_nested_without_end_is_no_json() -> None:
    assert Answer.parse(200, {}, b"[" * 200_000).body is None


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://api.example", None),
        (
            {"https_proxy": "http://proxy.example:3128"},
            "https://api.example",
            "http://proxy.example:3128",
        ),
        (
            {"all_proxy": "http://proxy.example:3128"},
            "https://api.example",
            "http://proxy.example:3128",
        ),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "https://api.example", "http://proxy.example:3128"),
        ({"HTTPS_PROXY": "proxy.example:1"}, "https://api.example", "http://proxy.example:1"),
        ({"HTTPS_PROXY": "http://p:65535"}, "https://api.example", "http://p:65535"),
        ({"http_proxy": "http://proxy.example:3128"}, "https://api.example", None),
        (
            {"https_proxy": "https://u:p@proxy.example"},
            "https://api.example",
            "https://u:p@proxy.example",
        ),
        (
            {"https_proxy": "http://proxy.example:3128", "no_proxy": "api.example"},
            "https://api.example",
            None,
        ),
        (
            {"http_proxy": "http://proxy.example", "no_proxy": "a,api.example:81"},
            "http://api.example:81",
            None,
        ),
        (
            {"all_proxy": "socks5://proxy.example:1080", "NO_PROXY": "*"},
            "https://api.example",
            None,
        ),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_the_systems_proxy_is_honoured(
    environment: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(url)
    assert (str(proxy.url) if proxy else None) == expected


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ALL_PROXY", "socks5://u:canary@proxy.example", "ALL_PROXY names a socks5:// proxy"),
        ("all_proxy", "socks5h://proxy.example", "all_proxy names a socks5h:// proxy"),
        ("HTTPS_PROXY", "socks4://proxy.example", "HTTPS_PROXY names a socks4:// proxy"),
        ("https_proxy", "http://", "https_proxy names an address that cannot be read"),
        ("HTTPS_PROXY", "http://canary:x:y", "HTTPS_PROXY names an address that cannot be read"),
        ("HTTPS_PROXY", "ftp://canary@proxy", "HTTPS_PROXY names a ftp:// proxy"),
        ("HTTPS_PROXY", "http://proxy:99999", "HTTPS_PROXY names an address that cannot be read"),
        ("HTTPS_PROXY", "canary:x@proxy:0", "HTTPS_PROXY names an address that cannot be read"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        proxy_for("https://api.example")
    assert str(caught.value).startswith(sentence)
    assert "set HTTPS_PROXY to one, or NO_PROXY to api.example" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("soft_limit", "expected"), [(1_024, 1_024), (resource.RLIM_INFINITY, 1_000_000)]
)
def test_a_process_never_spends_all_its_files_on_connections(
    soft_limit: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft_limit, soft_limit))
    assert connections._open_files() == expected
