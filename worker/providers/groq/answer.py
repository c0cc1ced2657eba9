"""Makes the result of a completion, and counts its tokens against the limits."""

from collections.abc import Mapping
from typing import Any

from worker.foreign_json import as_object, as_text, member
from worker.providers.response import is_count

_PLAIN_FIELDS = {"role", "content", "reasoning", "tool_calls", "channel"}
"""Fields of a message that the result has under another name, or leaves out."""

_BODY_FIELDS = ("usage_breakdown", "mcp_list_tools")


def result_of(
    message: Mapping[str, Any],
    *,
    body: Mapping[str, Any],
    finish_reason: Any,
    logprobs: Any = None,
    request_id: str | None = None,
) -> dict[str, Any]:
    """Make the result of a complete completion.

    Args:
        message: The assistant's message. Its unknown fields are passed on unchanged.
        body: The other fields of the answer: `model`, `usage`, `service_tier` and so on.
        finish_reason: Why the completion ended.
        logprobs: The log probabilities of its tokens, if the request asked for them.
        request_id: Groq's own id of the request.

    Returns:
        A result that always has `text`, `reasoning`, `tool_calls`, `finish_reason`, `model`,
        `usage`, `service_tier` and `request_id`. If Groq sent them, it also has the message's other
        fields, `logprobs`, `usage_breakdown` and `mcp_list_tools`. If reasoning left no room for a
        text, it has `empty_because`.
    """
    result = _other_fields(message)
    result |= {
        "text": message.get("content") or "",
        "reasoning": as_text(message.get("reasoning")),
        "tool_calls": message.get("tool_calls") or [],
        "finish_reason": finish_reason,
        "model": body.get("model"),
        "usage": as_object(body.get("usage")),
        "service_tier": body.get("service_tier"),
        "request_id": request_id,
    }
    result |= {name: body[name] for name in _BODY_FIELDS if body.get(name) is not None}
    if logprobs is not None:
        result["logprobs"] = logprobs
    if because := _empty_because(result):
        result["empty_because"] = because
    return result


def request_id_of(extras: Any, headers: Mapping[str, str]) -> str | None:
    """Return Groq's own id of a request, from the body's `x_groq` or else from a header."""
    return as_text(member(extras, "id")) or headers.get("x-request-id")


def _empty_because(result: Mapping[str, Any]) -> str:
    """Explain why a result has no text although the model used tokens.

    The explanation is empty if there is a text or a tool call, or if the reason is not known.
    """
    if result["text"] or result["tool_calls"] or result["finish_reason"] != "length":
        return ""
    thought = member(result["usage"].get("completion_tokens_details"), "reasoning_tokens")
    if not result["reasoning"] and not thought:
        return ""
    used = result["usage"].get("completion_tokens")
    tokens = f"all {used} tokens" if is_count(used) else "all tokens"
    return (
        f"reasoning used {tokens} that the answer may have: "
        "raise max_completion_tokens, or lower reasoning_effort"
    )


_MOST_TOKENS = 10**8
"""Far above the tokens that one call can use: counting more would close the account for good."""


def counted_tokens(
    usage: Mapping[str, Any], *, of: str = "total_tokens", cached_too: bool = False
) -> int | None:
    """Return how many tokens count against the limits; cached tokens of the prompt do not count.

    Args:
        usage: The usage that Groq states.
        of: The field of `usage` that is counted.
        cached_too: Count cached tokens as well.
    """
    total = usage.get(of)
    if not is_count(total) or total > _MOST_TOKENS:
        return None
    if cached_too:
        return total
    return max(0, total - (cached_tokens(usage) or 0))


def cached_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return how many tokens of the prompt were cached; None if Groq does not state it."""
    cached = member(usage.get("prompt_tokens_details"), "cached_tokens")
    return cached if is_count(cached) and cached <= _MOST_TOKENS else None


def _other_fields(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a message that are not among the fields of every result."""
    return {
        name: value
        for name, value in message.items()
        if name not in _PLAIN_FIELDS and value is not None
    }
