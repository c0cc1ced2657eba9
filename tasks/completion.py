"""The arguments of a completion, named and bounded as Groq's API has them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from tasks.arguments import Arguments, Deadline, JsonObject, Text

_MOST_TOKENS = 2**31 - 1
"""Far above any model's; a number without end would spoil the arithmetic of the pool."""
_MOST_SEED = 2**63 - 1


class Message(Arguments):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool", "function", "developer"]
    content: Annotated[str, Field(min_length=1)] | Annotated[list[JsonObject], Field(min_length=1)] | None = None
    name: Text | None = None
    tool_calls: list[JsonObject] | None = None
    tool_call_id: Text | None = None
    reasoning: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is required")
        return self


class CompletionArguments(Arguments):
    """What `tasks.ai.complete` takes."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S+$")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
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
    stream: Annotated[bool, Strict()] = False
    deadline_s: Deadline | None = None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages, or prompt for a single user message")
        return self

    def params(self, *, default_model: str) -> dict[str, Any]:
        """The keyword arguments of `chat.completions.create`."""
        given = self.model_dump(exclude_none=True, exclude={"messages", "prompt", "stream", "deadline_s"})
        messages = [message.model_dump(exclude_none=True) for message in self.messages or ()]
        if self.prompt is not None:
            messages = [{"role": "user", "content": self.prompt}]
        return {"model": default_model} | given | {"messages": messages}
