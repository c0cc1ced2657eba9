"""A request that a provider has carried out."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """A request that a provider has carried out.

    Attributes:
        value: What the provider returned, for the caller.
        key: The label of the key that served.
        attempts: Calls made in this turn, the last one included.
        waited_ms: Time spent waiting for keys in this turn, in milliseconds.
        model: The model that served; empty where the service has none.
    """

    value: dict[str, Any]
    key: str
    attempts: int
    waited_ms: int
    model: str = ""
