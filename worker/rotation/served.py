"""Describes a request that a provider has carried out."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """A request that a provider has carried out.

    Attributes:
        value: The provider's answer, for the caller.
        key: The label of the key that served.
        attempts: The number of calls in this turn, including the last one.
        waited_ms: Time spent waiting for keys in this turn, in milliseconds.
        model: The model that served; empty if the service has none.
    """

    value: dict[str, Any]
    key: str
    attempts: int
    waited_ms: int
    model: str = ""
