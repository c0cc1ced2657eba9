"""The content of a request to a provider, and its estimated use."""

from types import MappingProxyType
from typing import Any

import pytest

from worker.providers import Completion, SendRequest, estimate_tokens
from worker.providers.resend.request import recipients_in

_PAYLOAD = {"from": "Shop <a@Shop.example>", "to": "ann@example.org"}


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
        # Scripts other than ASCII are not underestimated.
        (_asking("字" * 4, max_tokens=1), 3 + 4 + 1),
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
            (40 + 40) // 4 + 2 * 4 + 1,  # reasoning and tool calls of the model count as well
        ),
        (_asking("", max_tokens=1, documents=[{"a": 1}]), 3 + 4 + 1),
        ({"model": "m"}, 1_024),
    ],
)
def test_the_estimate_counts_prompt_and_reserve(params: dict[str, Any], expected: int) -> None:
    assert estimate_tokens(params) == expected


def test_a_completion_knows_its_model_and_hides_its_prompt() -> None:
    completion = Completion.of(_asking("canary"))
    assert (completion.resource, completion.model) == ("m", "m")
    assert "canary" not in repr(completion)


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
    completion = Completion.of(
        _asking("x" * 400, max_tokens=10) | ({"service_tier": tier} if tier else {})
    )
    assert (completion.limited_as, completion.resource) == (
        expected,
        "m",
    )  # a key that may not use the model may not use it in any tier
    assert (completion.input_tokens, completion.output_tokens, completion.tokens) == (104, 10, 114)


def test_a_completion_for_another_model_differs_in_that_alone() -> None:
    completion = Completion.of(_asking("canary", max_tokens=10))
    assert completion.with_model("m") is completion
    other = completion.with_model("n")
    assert (other.model, other.params) == ("n", completion.params | {"model": "n"})
    assert (other.tokens, completion.params["model"]) == (completion.tokens, "m")


def test_the_idempotency_key_of_a_batch_is_made_of_its_number() -> None:
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
