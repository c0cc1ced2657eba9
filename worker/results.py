"""Models of the tasks' results; `docs/schemas/` is generated from them, for other languages.

No task uses the models to build its result; the tests check the results against them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.keypool.resets import HeldBlock

_Count = Annotated[int, Field(ge=0)]


class Result(BaseModel):
    """The result of a task. It may have more fields than these."""

    model_config = ConfigDict(extra="allow")


class Served(Result):
    """The result of a job that a service's key served."""

    key: Annotated[str, Field(description="The label of the key that served.")]
    attempts: Annotated[int, Field(ge=1, description="Calls made, over all runs.")]
    waited_s: Annotated[float, Field(ge=0, description="Seconds spent waiting for keys.")]


class CompletionResult(Served):
    """The result of `tasks.ai.complete`. Fields that Groq adds to its message are passed on."""

    text: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    finish_reason: str | None
    model: str | None
    usage: dict[str, Any]
    service_tier: str | None
    request_id: Annotated[str | None, Field(description="Groq's id of the request.")]
    empty_because: Annotated[
        str, Field(description="Why there is no text. Absent if there is a text.")
    ] = ""


class EmailResult(Served):
    """The result of `tasks.email.send`."""

    id: Annotated[str, Field(description="The email's id at Resend.")]


class KeyStatus(Result):
    """One API key."""

    id: str
    label: str
    variable: str
    account: str
    state: Literal["ready", "cooling", "disabled"]
    reason: Annotated[str, Field(description="Why the key does not serve; empty if it does.")]
    left_ms: Annotated[
        int | None,
        Field(
            description="How long until the key serves again, in milliseconds; null: until a reset."
        ),
    ]
    in_flight: _Count
    calls: _Count
    accepted: _Count
    refused: _Count
    faults: _Count
    rejected: _Count
    tokens: _Count
    used_ms: Annotated[int, Field(description="The last use, in milliseconds since 1970.")]
    note: Annotated[str, Field(description="The note that a person left on the key, or empty.")]
    blocks: list[dict[str, Any]]
    buckets: list[dict[str, Any]]


class ServiceStatus(Result):
    """The keys of one service at one instant."""

    service: str
    now_ms: Annotated[int, Field(description="The instant, in milliseconds since 1970.")]
    summary: dict[str, int]
    keys: list[KeyStatus]


KeyStatusResult = dict[str, ServiceStatus]
"""The result of `tasks.admin.key_status`, by service."""


class ResetResult(Result):
    """The result of `tasks.admin.reset_keys`, by service."""

    reset: Annotated[dict[str, _Count], Field(description="How many blocks were cleared.")]
    brought_back: dict[str, list[HeldBlock]]
    left_disabled: Annotated[
        dict[str, list[HeldBlock]],
        Field(description="Keys that stay out because a person disabled them."),
    ]


class PlaceResult(Result):
    """The result of `tasks.admin.place`."""

    place: Annotated[
        int | None,
        Field(description="1 for the next job; None if the job does not wait in a queue."),
    ]
    waiting: Annotated[int | None, Field(description="How many jobs wait in the job's queue.")]
    expected_start: Annotated[
        str | None,
        Field(description="When the first call may start, in ISO 8601; None: it is not known."),
    ]
    limited_by: Annotated[
        str, Field(description="The cause of the wait, such as `rpm` or the reason of a rest.")
    ]


_Instant = Annotated[
    str | None, Field(description="An instant in ISO 8601; None: it is not known.")
]


class QuoteResult(Result):
    """The result of `tasks.admin.quote`."""

    service: str
    model: Annotated[str, Field(description="The assumed model; empty if the service has none.")]
    jobs: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=0, description="The assumed tokens of each job.")]
    waiting: Annotated[
        int | None,
        Field(description="How many jobs wait before them; None: the broker does not report it."),
    ]
    expected_start: _Instant
    start_by: _Instant
    end_by: _Instant
    limited_by: Annotated[
        str, Field(description="The cause of the last job's wait, such as `rpm`.")
    ]
    learned_from: Annotated[
        int,
        Field(
            ge=0,
            description="How many ended jobs the margin was learned from; 0: it is assumed.",
        ),
    ]


class CancelResult(Result):
    """The result of `tasks.admin.cancel`."""

    jobs: Annotated[
        dict[str, Literal["cancelled", "running", "perhaps_running", "SUCCESS", "FAILURE"]],
        Field(description="The outcome for each job, by its id."),
    ]
