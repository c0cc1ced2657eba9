"""Describes one chat completion, and estimates the tokens that Groq will count for it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worker.providers.groq.stream import Listener
from worker.providers.response import texts_in

DEFAULT_RESERVED_TOKENS = 1_024
"""The tokens that are reserved for the answer if the request sets no cap."""


DEFAULT_TIER = "on_demand"
"""The service tier of a completion that names none."""


_BYTES_A_TOKEN = 4


_MESSAGE_OVERHEAD_TOKENS = 4


_IMAGE_TOKENS = 1_000


_PRIVATE_BESIDE = ("documents", "input", "instructions", "prompt")
"""Other fields that hold users' texts; only requests of other endpoints have the last three."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion to ask for.

    Attributes:
        params: The validated keyword arguments of `chat.completions.create`: `model` and
            `messages`, not `stream`.
        model: The model.
        input_tokens: The estimate of the prompt.
        output_tokens: The tokens reserved for the answer.
        listener: Gets the answer while it arrives; None if the answer is not streamed.
    """

    params: Mapping[str, Any] = field(repr=False)
    model: str
    input_tokens: int
    output_tokens: int
    listener: Listener | None = field(default=None, repr=False)

    @classmethod
    def of(cls, params: Mapping[str, Any], *, listener: Listener | None = None) -> "Completion":
        """Make a completion with its estimate from validated arguments."""
        return cls(
            params, str(params["model"]), prompt_tokens(params), reserved_tokens(params), listener
        )

    @property
    def tokens(self) -> int:
        """The estimate of prompt and answer together."""
        return self.input_tokens + self.output_tokens

    @property
    def is_capped(self) -> bool:
        """Whether the request itself limits the length of the answer."""
        return bool(self.params.get("max_completion_tokens") or self.params.get("max_tokens"))

    def with_model(self, model: str) -> "Completion":
        """Return the same request for another model."""
        return (
            self
            if model == self.model
            else replace(self, params={**self.params, "model": model}, model=model)
        )

    def capped(self, output_tokens: int) -> "Completion":
        """Return the same request with a cap on its answer, in tokens."""
        params = {**self.params, "max_completion_tokens": output_tokens}
        return replace(self, params=params, output_tokens=output_tokens)

    @property
    def limited_as(self) -> str:
        """The name, within the account, of the limits that apply to the request.

        It has the model, and the service tier unless the tier is the default.
        """
        tier = self.params.get("service_tier")
        return self.model if tier in {None, DEFAULT_TIER} else f"{self.model} ({tier})"

    @property
    def resource(self) -> str:
        """The resource to which a key needs access: the model."""
        return self.model


def estimate_tokens(params: Mapping[str, Any]) -> int:
    """Estimate what Groq will count as requested: the prompt and the reserved answer, in tokens."""
    return prompt_tokens(params) + reserved_tokens(params)


def reserved_tokens(params: Mapping[str, Any]) -> int:
    """Return how many tokens are reserved for the answers.

    The number is `max_completion_tokens`, else `max_tokens`, else `DEFAULT_RESERVED_TOKENS`,
    multiplied by `n`.
    """
    reserve = (
        params.get("max_completion_tokens") or params.get("max_tokens") or DEFAULT_RESERVED_TOKENS
    )
    return int(reserve) * int(params.get("n") or 1)


def prompt_tokens(params: Mapping[str, Any]) -> int:
    """Estimate what Groq will count for the prompt, in tokens.

    The estimate is a quarter of the prompt's size in UTF-8 bytes, so that scripts beyond ASCII are
    not underestimated. An image counts 1,000 tokens.
    """
    prompt_bytes, fixed = 0, 0
    for message in params.get("messages") or ():
        fixed += _MESSAGE_OVERHEAD_TOKENS
        for part in _parts_of(message):
            if isinstance(part, Mapping) and "image_url" in part:
                fixed += _IMAGE_TOKENS
            else:
                prompt_bytes += sum(_size(text) for text in texts_in(part))
        prompt_bytes += sum(_size(text) for text in _texts_beside(message))
    for name in ("tools", "functions", "response_format", "documents"):
        if schema := params.get(name):
            prompt_bytes += len(json.dumps(schema, default=str))
    return -(-prompt_bytes // _BYTES_A_TOKEN) + fixed


def prompts_of(params: Mapping[str, Any]) -> list[str]:
    """Return the texts of a request that no log and no error may repeat.

    Groq may quote the request that it refuses. All texts of a message are returned, because the
    request of another SDK may have any form.
    """
    given = params.get("messages")
    texts: list[str] = []
    for message in given if isinstance(given, list | tuple) else [given]:
        texts += texts_in(_without_role(message) if isinstance(message, Mapping) else message)
    for name in _PRIVATE_BESIDE:
        texts += texts_in(params.get(name))
    return texts


def _without_role(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "role"}


def _parts_of(message: Any) -> Iterable[Any]:
    content = message.get("content") if isinstance(message, Mapping) else message
    return content if isinstance(content, list | tuple) else [content]


def _texts_beside(message: Any) -> Iterable[str]:
    """Yield the texts of a message outside its content: reasoning and tool calls."""
    if isinstance(message, Mapping):
        yield from texts_in(message.get("reasoning"))
        yield from texts_in(message.get("tool_calls"))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
