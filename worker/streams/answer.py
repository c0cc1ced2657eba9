"""What one job has to tell, and what of it is told already. No Redis in here."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a stream.

    Attributes:
        id: Its id in Redis, which refuses one that is not beyond all that the stream has had.
        fields: Its fields, encoded.
        clears: Everything before it is out of date and may go.
        continues: It is worth nothing without those before it.
    """

    id: str
    fields: Fields
    clears: bool = False
    continues: bool = False


@dataclass(slots=True)
class _Said:
    """What the answer has said so far, and how much of that was taken for writing."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    taken: tuple[int, int, int] = (0, 0, 0)

    def rest(self) -> Fields:
        """What was not taken yet."""
        texts, reasonings, calls = self.taken
        self.taken = len(self.texts), len(self.reasonings), len(self.tool_calls)
        found = {
            "text": encoded("".join(self.texts[texts:])),
            "reasoning": encoded("".join(self.reasonings[reasonings:])),
            "tool_calls": _json(self.tool_calls[calls:]) if len(self.tool_calls) > calls else b"",
        }
        return {name: value for name, value in found.items() if value}


class AnswerStream:
    """Hears a job's answer and keeps what the writer has not written yet.

    A job may be under way twice: its worker was taken for dead, or its message came two times. So
    each turn claims an instant (Redis' clock when it begins) and numbers its records behind it.
    Once a later turn has written, the ids of an earlier one are too small, and Redis refuses them.
    It also refuses what a broken connection delivers late.

    Args:
        name: The stream's name in Redis.
        attempts: Calls that the job had made before this turn.
        touch: Tells the writer that there is something to write; its argument says that it is
            urgent.
    """

    def __init__(
        self, name: str, *, attempts: int, touch: Callable[["AnswerStream", bool], None]
    ) -> None:
        self.name = name
        self.looked = False
        self.over = asyncio.Event()
        """Set once the last record is written, or will never be."""
        self.renew_at_s = 0.0
        """When the stream's time to live is set again, on the loop's clock."""
        self.troubled_since_s = 0.0
        """Since when it cannot be written, on the loop's clock; 0 while it can."""
        self._touch = touch
        self._attempts = attempts
        self._calls = 0
        self._before = 0
        self._follows = attempts > 0
        self._begun = False
        self._begin_due = False
        self._said = _Said()
        self._last: Fields | None = None
        self._last_due = False
        self._claim = 0
        self._number = 0
        self._writes = 0
        self._given_up = False
        self._outside = False
        self._begins = True

    # -- what is heard; none of it waits

    def calling(self) -> None:
        """A call to the provider is made."""
        self._calls += 1

    def begin(self) -> None:
        """An answer begins; what was heard before belongs to one that broke off."""
        self._said = _Said()
        self._begun = self._begin_due = True
        self._tell()

    def piece(
        self, *, text: str = "", reasoning: str = "", tool_calls: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """More of the answer."""
        if text:
            self._said.texts.append(text)
        if reasoning:
            self._said.reasonings.append(reasoning)
        self._said.tool_calls.extend(tool_calls)
        self._tell()

    def close(self, kind: str, /, **fields: str) -> None:
        """Say the last thing of this turn: that the job waits, is done, or failed."""
        self._last = {"type": encoded(kind)} | {
            name: encoded(value) for name, value in fields.items()
        }
        self._last_due = True
        self._tell(urgent=True)

    def end_from_outside(self, *, begins: bool, **fields: str) -> None:
        """Say that the job has ended where no turn of it tells.

        Nothing where the stream's last record is an end.

        Args:
            begins: Whether that is said as well where the job has no stream.
            **fields: What the record says.
        """
        self._outside, self._begins = True, begins
        self.close("end", **fields)

    def _tell(self, *, urgent: bool = False) -> None:
        if not self._given_up:
            self._touch(self, urgent)

    # -- what is written

    @property
    def closed(self) -> bool:
        """Whether the last thing was said."""
        return self._last is not None

    def found(self, now_ms: int, last_id: str, attempt: int | None, *, ended: bool = False) -> None:
        """Take in what the stream held before this turn, and claim what comes behind it.

        Args:
            now_ms: Redis' clock.
            last_id: The id of its last record; empty where there is none.
            attempt: The attempt of its last record; None where there is none.
            ended: Its last record is an end.
        """
        if self._outside and (ended or not (last_id or self._begins)):
            self.give_up()
        self.looked = True
        self._claim = max(now_ms, int(last_id.partition("-")[0] or 0) + 1)
        self._number = self._writes = 0
        if attempt is not None:
            self._before, self._follows = attempt, True

    def take(self) -> list[Record]:
        """What is to be written now, in order. It counts as written unless `on_lost` is called."""
        if self._given_up:
            return []
        attempt = {"attempt": b"%d" % (max(self._attempts, self._before) + self._calls)}
        records = []
        if self._begin_due:
            kind = b"restart" if self._follows else b"start"
            records.append(self._record({"type": kind} | attempt, clears=True))
            self._begin_due, self._follows = False, True
        if rest := self._said.rest():
            records.append(self._record({"type": b"delta"} | attempt | rest, continues=True))
        if self._last is not None and self._last_due:
            records.append(self._record(self._last | attempt, continues=self._begun))
            self._last_due = False
        self._writes += bool(records)
        return records

    def _record(self, fields: Fields, *, clears: bool = False, continues: bool = False) -> Record:
        self._number += 1
        return Record(f"{self._claim}-{self._number}", fields, clears, continues)

    def on_written(self) -> None:
        """What was taken is written."""
        self.troubled_since_s = 0.0
        if self.closed and not self._last_due:
            self.over.set()

    def on_lost(self) -> None:
        """What was taken may be written, or half of it, or not: begin anew with all that was said.

        To repeat only what is missing would need to know what arrived.
        """
        self.renew_at_s = 0.0
        self._said.taken = (0, 0, 0)
        self._begin_due, self._follows = self._begun, True
        self._last_due = self.closed

    def on_late(self) -> bool:
        """Another turn has claimed the stream and written to it: yield it, or claim it again.

        Returns:
            Whether to claim it again: this turn had written nothing, and has more to tell than that
            it waits.
        """
        if self._writes > 1 or (self._last is not None and self._last["type"] == b"wait"):
            return False
        self.on_lost()
        self.looked = False
        return True

    def give_up(self) -> None:
        """Nothing more is written."""
        self._given_up = True
        self.over.set()


def encoded(text: str) -> bytes:
    """A text as UTF-8.

    JSON may hold half characters: two that belong together are joined, others replaced.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
