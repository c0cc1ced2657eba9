"""What the tasks return, for programs in other languages: `docs/schemas/` is generated from it.

Results are built where they arise; the tests hold them against these models.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.keypool.resets import HeldBlock

_Count = Annotated[int, Field(ge=0)]


class Result(BaseModel):
    """The result of a task. It may have more fields than are named."""

    model_config = ConfigDict(extra="allow")


class Served(Result):
    """How a job of a service went."""

    key: Annotated[str, Field(description="The label of the key that served.")]
    attempts: Annotated[int, Field(ge=1, description="Calls made, over all runs.")]
    waited_s: Annotated[float, Field(ge=0, description="Seconds spent waiting for keys.")]


class CompletionResult(Served):
    """What `tasks.ai.complete` returns. Fields that Groq adds to its message are passed on."""

    text: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    finish_reason: str | None
    model: str | None
    usage: dict[str, Any]
    service_tier: str | None
    request_id: Annotated[str | None, Field(description="Groq's own.")]
    empty_because: Annotated[
        str, Field(description="Why there is no text. Absent where there is one.")
    ] = ""


class EmailResult(Served):
    """What `tasks.email.send` returns."""

    id: Annotated[str, Field(description="The email's id at Resend.")]


class KeyStatus(Result):
    """One API key."""

    id: str
    label: str
    variable: str
    account: str
    state: Literal["ready", "cooling", "disabled"]
    reason: Annotated[str, Field(description="Why it does not serve; empty where it does.")]
    left_ms: Annotated[
        int | None,
        Field(description="Until it serves again, in milliseconds; null: until a reset."),
    ]
    in_flight: _Count
    calls: _Count
    accepted: _Count
    refused: _Count
    faults: _Count
    rejected: _Count
    tokens: _Count
    used_ms: Annotated[int, Field(description="Its last use, in milliseconds since 1970.")]
    note: Annotated[str, Field(description="A note that somebody left on it; else empty.")]
    blocks: list[dict[str, Any]]
    buckets: list[dict[str, Any]]


class ServiceStatus(Result):
    """The keys of one service at one instant."""

    service: str
    now_ms: Annotated[int, Field(description="The instant, in milliseconds since 1970.")]
    summary: dict[str, int]
    keys: list[KeyStatus]


KeyStatusResult = dict[str, ServiceStatus]
"""What `tasks.admin.key_status` returns, by service."""


class ResetResult(Result):
    """What `tasks.admin.reset_keys` returns, by service."""

    reset: Annotated[dict[str, _Count], Field(description="How many blocks were cleared.")]
    brought_back: dict[str, list[HeldBlock]]
    left_disabled: Annotated[
        dict[str, list[HeldBlock]],
        Field(description="Keys that stay out because a person disabled them."),
    ]


class PlaceResult(Result):
    """What `tasks.admin.place` returns."""

    place: Annotated[
        int | None,
        Field(description="1 for the next one; None where the job does not wait in a queue."),
    ]
    waiting: Annotated[int | None, Field(description="How many jobs wait in its queue.")]
    expected_start: Annotated[
        str | None,
        Field(description="When its first call may start, in ISO 8601; None: it is not known."),
    ]
    limited_by: Annotated[str, Field(description="What decides that, such as `rpm`.")]


_Instant = Annotated[
    str | None, Field(description="An instant in ISO 8601; None: it is not known.")
]


class QuoteResult(Result):
    """What `tasks.admin.quote` returns."""

    service: str
    model: Annotated[str, Field(description="As assumed; empty where the service has none.")]
    jobs: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=0, description="Tokens a job, as assumed.")]
    waiting: Annotated[
        int | None,
        Field(description="How many jobs wait before them; None: the broker does not say."),
    ]
    expected_start: _Instant
    start_by: _Instant
    end_by: _Instant
    limited_by: Annotated[str, Field(description="What decides the end, such as `rpm`.")]
    learned_from: Annotated[
        int, Field(ge=0, description="How many outcomes the margin rests on; 0: it is assumed.")
    ]


class CancelResult(Result):
    """What `tasks.admin.cancel` returns."""

    jobs: Annotated[
        dict[str, Literal["cancelled", "running", "perhaps_running", "SUCCESS", "FAILURE"]],
        Field(description="What became of each job, by its id."),
    ]
