"""The results of the tasks, for type checkers. A result may have more fields than these."""

from typing import Any, Literal, NotRequired, TypedDict


class Function(TypedDict):
    """The function that a model calls; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call of a tool."""

    id: str
    type: str
    function: Function


class Usage(TypedDict, total=False):
    """How many tokens a completion used, and its times at Groq in seconds."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]
    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float


class CompletionResult(TypedDict):
    """The answer to a completion, and facts about its calls.

    `key` is the label of the key that served the job, `attempts` counts its calls, and `waited_s`
    is the time that it waited for keys, in seconds.
    """

    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    finish_reason: str | None
    model: str | None
    usage: Usage
    service_tier: str | None
    request_id: str | None
    empty_because: NotRequired[str]
    key: str
    attempts: int
    waited_s: float


class EmailResult(TypedDict):
    """The id of an email at Resend, and facts about its calls."""

    id: str
    key: str
    attempts: int
    waited_s: float


class KeyStatus(TypedDict):
    """The state of one API key, and if it is not ready, why and for how long (`left_ms`)."""

    id: str
    label: str
    variable: str
    account: str
    state: Literal["ready", "cooling", "disabled"]
    reason: str
    left_ms: int | None
    in_flight: int
    calls: int
    accepted: int
    refused: int
    faults: int
    rejected: int
    tokens: int
    used_ms: int
    note: str
    blocks: list[dict[str, Any]]
    buckets: list[dict[str, Any]]


class ServiceStatus(TypedDict):
    """The keys of one service at one instant, in milliseconds since 1970."""

    service: str
    now_ms: int
    summary: dict[str, int]
    keys: list[KeyStatus]


class Block(TypedDict):
    """Why a key, an account or a model was blocked."""

    scope: str
    name: str
    key: str
    state: str
    reason: str
    disabled_by: str


class ResetDone(TypedDict):
    """By service: how many blocks a reset cleared, which ones, and what stays disabled."""

    reset: dict[str, int]
    brought_back: dict[str, list[Block]]
    left_disabled: dict[str, list[Block]]
