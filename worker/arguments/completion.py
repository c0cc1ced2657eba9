"""Model of a completion's arguments, with the names and bounds of Groq's API."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, Strict, model_validator

from worker.arguments.base import Arguments, Deadline, JsonObject, KeyText, Text, matching
from worker.arguments.notification import NotifyUrl

_MOST_TOKENS = 2**31 - 1
"""Far above the limit of any model; a huge number would break the arithmetic of the pool."""
_RESULT_FIELDS = {"text", "tool_calls", "finish_reason"}
_SET_BY_GROQ = {"executed_tools", "annotations"}
_NOT_EMPTY = {"tool_calls", "reasoning"}
_OF_THE_JOB = {"models", "stream", "dedupe_key", "notify", "deadline_s"}
"""The arguments that are not parameters of the request."""
_MOST_LISTED = 1_000
_MOST_SEED = 2**63 - 1


def _or_a_result(schema: dict[str, Any]) -> None:
    """Allow an earlier result in place of a message, in the schema."""
    message = dict(schema)
    result = {"type": "object", "required": sorted(_RESULT_FIELDS), "not": {"required": ["role"]}}
    schema.clear()
    schema["anyOf"] = [message, result]


class Message(Arguments):
    """One message of a conversation: as in Groq's API, or the result of an earlier completion."""

    model_config = ConfigDict(json_schema_extra=_or_a_result)

    role: Literal["system", "user", "assistant", "tool", "function", "developer"]
    content: Text | Annotated[list[JsonObject], Field(min_length=1)] | None = None
    name: Text | None = None
    tool_calls: list[JsonObject] | None = None
    tool_call_id: Text | None = None
    function_call: JsonObject | None = None
    reasoning: Text | None = None
    executed_tools: list[JsonObject] | None = None
    annotations: list[JsonObject] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_a_result(cls, given: Any) -> Any:
        """Turn the result of an earlier completion into a message of the assistant."""
        if not isinstance(given, dict) or "role" in given or not given.keys() >= _RESULT_FIELDS:
            return given
        return {
            "role": "assistant",
            "content": given["text"],
            "tool_calls": given["tool_calls"],
            "reasoning": given.get("reasoning"),
        }

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self._may_lack_content:
            raise ValueError("content is required")
        return self

    @property
    def _may_lack_content(self) -> bool:
        """Whether `content` may be missing.

        A function may return nothing; an answer may have only calls, or only reasoning.
        """
        parts = (self.tool_calls, self.function_call, self.reasoning, self.executed_tools)
        return self.role == "function" or (self.role == "assistant" and any(parts))

    def params(self) -> dict[str, Any]:
        """Return the message for Groq, without empty fields and fields that only Groq sets."""
        given = self.model_dump(exclude_none=True, exclude=_SET_BY_GROQ)
        if self.content is None and not (self.tool_calls or self.function_call):
            given["content"] = ""
        return {name: value for name, value in given.items() if value or name not in _NOT_EMPTY}


ModelName = Annotated[
    str, Field(min_length=1, max_length=200), matching(r"\S+", "must be one word")
]


class CompletionArguments(Arguments):
    """The arguments of `tasks.ai.complete`.

    They include every parameter of the SDK's `chat.completions.create` except those in `refused`.
    """

    follows: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {
        "timeout": "is not accepted: KEYWHEEL_GROQ_TIMEOUT_S bounds a call, deadline_s the job",
        "extra_headers": "is not accepted: the workers make the request",
        "extra_query": "is not accepted: the workers make the request",
        "extra_body": "is not accepted: pass the parameter by its own name",
    }

    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    model: ModelName | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-_MOST_SEED - 1, le=_MOST_SEED)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    response_format: JsonObject | None = None
    tools: Annotated[list[JsonObject], Field(max_length=128)] | None = None
    tool_choice: Text | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Text | None = None
    reasoning_format: Text | None = None
    include_reasoning: bool | None = None
    service_tier: Literal["auto", "on_demand", "flex", "performance"] | None = None
    user: Text | None = None
    documents: Annotated[list[JsonObject], Field(max_length=_MOST_LISTED)] | None = None
    citation_options: Literal["enabled", "disabled"] | None = None
    compound_custom: JsonObject | None = None
    search_settings: JsonObject | None = None
    include_domains: Annotated[list[Text], Field(max_length=_MOST_LISTED)] | None = None
    exclude_domains: Annotated[list[Text], Field(max_length=_MOST_LISTED)] | None = None
    disable_tool_validation: bool | None = None
    functions: Annotated[list[JsonObject], Field(max_length=128)] | None = None
    function_call: Text | JsonObject | None = None
    logit_bias: dict[Text, Annotated[int, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: dict[Text, Text] | None = None
    store: bool | None = None
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=20)] | None = None
    stream: Annotated[bool, Strict()] | None = None
    dedupe_key: KeyText | None = None
    notify: NotifyUrl | None = None
    deadline_s: Deadline | None = None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages, or prompt for a single user message")
        if self.model is not None and self.models is not None:
            raise ValueError("give either model, or models in order of preference")
        return self

    def named_models(self, default: Sequence[str]) -> tuple[str, ...]:
        """Return the models that may answer, in order of preference.

        If the job names none, these are the default models.
        """
        return tuple(dict.fromkeys(self.models or ((self.model,) if self.model else default)))

    def params(self, *, default_model: str) -> dict[str, Any]:
        """Return the keyword arguments for `chat.completions.create`."""
        given = self.model_dump(exclude_none=True, exclude=_OF_THE_JOB | {"messages", "prompt"})
        messages = [message.params() for message in self.messages or ()]
        if self.prompt is not None:
            messages = [{"role": "user", "content": self.prompt}]
        return {"model": default_model} | given | {"messages": messages}
