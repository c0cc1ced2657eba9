"""One dead letter: what an operator sees of it, and apart from that what a replay needs."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

KINDS: Final = ("failed", "expired", "unknown", "timeout", "poison")
"""How a job can end: refused or broken; too late; nobody knows whether it was carried out.

Stopped at its time limit;
a message that cannot be run, or that its worker died of."""

SERVICES: Final = ("groq", "resend", "other")
"""Whose job it was; `other` for tasks of no service of ours."""

_LONGEST_REASON = 500
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What an operator sees of a job that ended without success. Holds no argument of it.

    Attributes:
        id: The job's id.
        task: The task's name.
        queue: Where it came from, and where a replay sends it.
        service: `groq`, `resend` or `other`.
        kind: How it ended; one of `KINDS`.
        reason: Why, in one sentence.
        at_ms: When it ended, in milliseconds since 1970.
        since_ms: When its first turn began; near `at_ms` where it had none, 0 for a message that
            became no job.
        faults: How often the provider failed.
        deferrals: How often no key was free.
        calls: Calls made to the provider.
        trail: The latest calls: when (`at_ms`), with which `key` (its label), and what was answered
            (`code`).
        doubt_ms: It may have been carried out, at this instant at the earliest; 0: surely not.
        size: The size of the message that is kept for a replay, in bytes; 0: none is.
        worker: Which worker wrote this.
        note: Why no message is kept, where that is known.
        delivery: Which message of the broker's it was; the same when that is delivered again. For
            workers only.
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
    trail: tuple[dict[str, Any], ...] = ()
    doubt_ms: int = 0
    size: int = 0
    worker: str = ""
    note: str = ""
    delivery: str = ""

    @property
    def label(self) -> str:
        """What it is counted under."""
        return f"{self.service}|{self.kind}"

    @property
    def in_doubt(self) -> bool:
        """Whether it may have been carried out."""
        return self.doubt_ms > 0

    @property
    def replayable(self) -> bool:
        """Whether there is a message to send again."""
        return self.size > 0 and not self.note

    def head(self) -> str:
        """How it stands in Redis; its id, time and size stand beside it."""
        shown = asdict(self)
        for name in ("id", "at_ms", "size"):
            del shown[name]
        return f"{self.label}\n{json.dumps(shown, separators=(',', ':'))}"

    @classmethod
    def of(cls, letter_id: str, at_ms: int, head: str, size: int) -> Self:
        """Read a letter back."""
        told: dict[str, Any] = dict.fromkeys(("task", "queue", "service", "kind", "reason"), "")
        told |= json.loads(head.partition("\n")[2] or "{}")
        known = {name: told[name] for name in cls.__dataclass_fields__ if name in told}
        return cls(
            **known
            | {"id": letter_id, "at_ms": at_ms, "size": size, "trail": tuple(told.get("trail", ()))}
        )

    def as_json(self) -> dict[str, Any]:
        """Everything that is shown, in JSON types."""
        shown = asdict(self)
        del shown["delivery"]
        return shown | {
            "trail": list(self.trail),
            "in_doubt": self.in_doubt,
            "replayable": self.replayable,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """What a replay sends.

    Holds prompts and mail bodies, so nothing shows it unless it is asked to.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Callbacks, group, headers and so on, as `send_task` takes them.
        raw: The body of a message that could not be read, cut off; instead of arguments.
    """

    args: list[Any] = field(default_factory=list, repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    raw: str | None = field(default=None, repr=False)

    def text(self) -> str:
        """How it stands in Redis.

        Raises:
            TypeError: It holds what JSON cannot.
            ValueError: It goes round in circles.
        """
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a message back."""
        return cls(**json.loads(text))


def shown(text: Any, *, longest: int = _LONGEST_NAME) -> str:
    """A text that a stranger may have written, in a form that every reader can carry.

    One line, of bounded length.
    """
    plain = str(text).encode("utf-8", "replace").decode()
    plain = "".join(char if char.isprintable() else " " for char in plain[: longest * 2])
    plain = " ".join(plain.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def sentence(text: Any) -> str:
    """A reason, fit to be kept."""
    return shown(text, longest=_LONGEST_REASON)
