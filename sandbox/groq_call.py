"""One call to the simulated Groq while its answer is decided, and the settings of the provider."""

from dataclasses import dataclass
from typing import Any

from sandbox.accounts import DEFAULT_TIER, Key, Organisation
from sandbox.models import DEFAULT_MODELS


@dataclass(frozen=True, slots=True)
class GroqSettings:
    """How the simulated Groq behaves without faults.

    Attributes:
        models: The models that exist for every organisation.
        latency_ms: How long a completion takes, in milliseconds.
        jitter_ms: The longest random addition to the latency, in milliseconds.
        completion_tokens: The length of an answer, unless the request limits it further.
        stream_ms: The time between two pieces of a streamed answer, in milliseconds.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    completion_tokens: int = 24
    stream_ms: float = 0.0


@dataclass(slots=True)
class GroqCall:
    """One call while its answer is decided.

    Attributes:
        named: The model as the request names it.
        model: The named model if it exists, else a stand-in.
    """

    key: Key
    arrived_s: float
    request: Any = None
    named: str = ""
    model: str = ""
    requested: int = 0

    @property
    def tier(self) -> str:
        """The service tier; `auto` is served as the default one."""
        tier = self.request.get("service_tier") if isinstance(self.request, dict) else None
        return tier if tier in {"flex", "performance"} else DEFAULT_TIER

    @property
    def organisation(self) -> Organisation:
        """The organisation of the key."""
        account = self.key.account
        assert isinstance(account, Organisation)  # noqa: S101 - narrows the type
        return account
