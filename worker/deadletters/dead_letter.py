"""Defines a dead letter: the data that an operator sees, and the message that a replay needs."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from config.services import SERVICES
from worker.foreign_json import as_int, as_list, as_object, as_text, read_json

KINDS: Final = ("failed", "expired", "unknown", "timeout", "poison")
"""How a job can end without success.

- `failed`: the provider rejected it, or it raised an error
- `expired`: its deadline passed
- `unknown`: it is not known whether it was carried out
- `timeout`: it was stopped at its time limit
- `poison`: its message cannot be run, or too many workers died while they held it
"""

OTHER: Final = "other"
"""The owner of jobs whose task belongs to no service."""
OWNERS: Final = (*SERVICES, OTHER)
"""The owners of jobs: each service, and `other`."""

UNREADABLE: Final = "its data in Redis cannot be read: another program wrote it"
_TEXTS: Final = ("task", "queue", "service", "kind", "reason", "worker", "note", "delivery")
_NUMBERS: Final = ("since_ms", "faults", "deferrals", "calls", "doubt_ms")
_MAX_REASON = 500
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The data that an operator sees of a job that ended without success, without its arguments.

    Attributes:
        id: The job's id.
        task: The task's name.
        queue: The queue that the job came from, to which a replay sends it.
        service: One of `OWNERS`.
        kind: How the job ended; one of `KINDS`.
        reason: Why the job ended, in one sentence.
        at_ms: When the job ended, in milliseconds since 1970.
        since_ms: When the job first ran, in milliseconds since 1970. If it never ran, this is close
            to `at_ms`; for a message that became no job, it is 0.
        faults: How often the provider failed.
        deferrals: How often no key was free.
        calls: How many calls to the provider were made.
        attempts: The latest of these calls: the instant (`at_ms`), the label of the `key`, and the
            `code` of the answer.
        doubt_ms: The earliest instant at which the job may have been carried out; 0 if it certainly
            was not.
        size: The size of the message that is kept for a replay, in bytes; 0 if none is kept.
        worker: The worker that wrote this dead letter.
        note: Why no message is kept, if that is known.
        delivery: Identifies the broker's message; a redelivery has the same identity. Only workers
            use it.
    """

    id: str
    task: str
    queue: str
    service: str
    kind: str
    reason: str
    at_ms: int = 0
    since_ms: int = 0
    faults: int = 0
    deferrals: int = 0
    calls: int = 0
    attempts: tuple[dict[str, Any], ...] = ()
    doubt_ms: int = 0
    size: int = 0
    worker: str = ""
    note: str = ""
    delivery: str = ""

    @property
    def label(self) -> str:
        """The name under which Redis counts this dead letter."""
        return f"{self.service}|{self.kind}"

    @property
    def words(self) -> str:
        """The text in which a person's search looks."""
        calls = (f"{call.get('key', '')} {call.get('code', '')}" for call in self.attempts)
        return "\n".join((self.id, self.task, self.queue, self.reason, self.worker, *calls))

    @property
    def in_doubt(self) -> bool:
        """Whether the job may have been carried out."""
        return self.doubt_ms > 0

    @property
    def replayable(self) -> bool:
        """Whether the kept message can be sent again."""
        return self.size > 0 and not self.note

    def head(self) -> str:
        """Return the dead letter as Redis stores it, without id, time and size.

        Redis stores these three separately.
        """
        values = asdict(self)
        for name in ("id", "at_ms", "size"):
            del values[name]
        return f"{self.label}\n{json.dumps(values, separators=(',', ':'))}"

    @classmethod
    def of(cls, job_id: str, at_ms: int, head: str, size: int) -> Self:
        """Read a dead letter from Redis. If another program wrote it, it cannot be replayed."""
        values = read_json(head.partition("\n")[2])
        if not isinstance(values, dict):
            return cls(
                job_id, "", "", OTHER, "poison", UNREADABLE, at_ms=at_ms, size=size, note=UNREADABLE
            )
        known: dict[str, Any] = {name: as_text(values.get(name)) for name in _TEXTS}
        known |= {name: as_int(values.get(name)) for name in _NUMBERS}
        known["service"] = known["service"] if known["service"] in OWNERS else OTHER
        attempts = tuple(map(_attempt_of, as_list(values.get("attempts"))))
        return cls(job_id, **known, at_ms=at_ms, size=size, attempts=attempts)

    def as_json(self) -> dict[str, Any]:
        """Return all data that operators see, in JSON types."""
        values = asdict(self)
        del values["delivery"]
        return values | {
            "attempts": list(self.attempts),
            "in_doubt": self.in_doubt,
            "replayable": self.replayable,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """The message that a replay sends.

    It contains prompts and mail bodies, so it is shown only if a person asks for it.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Callbacks, group, headers and other options of `send_task`.
        raw: The truncated body of a message that could not be read; it has no arguments then.
    """

    args: list[Any] = field(default_factory=list, repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    raw: str | None = field(default=None, repr=False)

    def text(self) -> str:
        """Return the message as Redis stores it.

        Raises:
            TypeError: JSON cannot represent a value.
            ValueError: A value contains itself.
        """
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a message from Redis; if another program wrote it, its text is in `raw`."""
        values = read_json(text)
        if not isinstance(values, dict):
            return cls(raw=text)
        raw = values.get("raw")
        match [values.get(name) for name in ("args", "kwargs", "options")]:
            case list() as args, dict() as kwargs, dict() as options:
                return cls(args, kwargs, options, raw if isinstance(raw, str) else None)
        return cls(raw=text)


def _attempt_of(call: Any) -> dict[str, Any]:
    """Read one call, which has at least an instant, a key and a code."""
    fields = as_object(call)
    return fields | {
        "at_ms": as_int(fields.get("at_ms")),
        "key": as_text(fields.get("key")),
        "code": as_text(fields.get("code")),
    }


def one_line(text: Any, *, longest: int = _MAX_NAME) -> str:
    """Make an untrusted text safe to show, as one printable line that is not too long.

    Args:
        text: The text.
        longest: The most characters of the line; a longer text is cut and ends with an ellipsis.
    """
    plain = str(text).encode("utf-8", "replace").decode()
    plain = "".join(char if char.isprintable() else " " for char in plain[: longest * 2])
    plain = " ".join(plain.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def reason_line(text: Any) -> str:
    """Make a reason safe to show, like `one_line`, but with more characters."""
    return one_line(text, longest=_MAX_REASON)
