"""What a completion counts against the limits."""

from collections.abc import Mapping
from typing import Any

from worker.foreign_json import member
from worker.providers.response import is_count

_MOST_TOKENS = 10**8
"""Far above what one call can use: a larger number would close the account for good."""


def counted_tokens(
    usage: Mapping[str, Any], *, of: str = "total_tokens", cached_too: bool = False
) -> int | None:
    """Return what counts against the limits, in tokens: cached tokens of the prompt do not.

    Args:
        usage: The usage that Groq states.
        of: Which count.
        cached_too: Count cached tokens as well.
    """
    total = usage.get(of)
    if not is_count(total) or total > _MOST_TOKENS:
        return None
    if cached_too:
        return total
    return max(0, total - (cached_tokens(usage) or 0))


def cached_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return how many tokens of the prompt were cached, where Groq says so."""
    cached = member(usage.get("prompt_tokens_details"), "cached_tokens")
    return cached if is_count(cached) and cached <= _MOST_TOKENS else None
