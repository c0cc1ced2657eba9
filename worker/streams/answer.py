"""Turns the answer of one job into records of a stream. This module does not use Redis."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.foreign_json import as_list

Fields = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a stream.

    Attributes:
        id: The id in Redis, which rejects an id that is not above all earlier ones of the stream.
        fields: The fields, encoded.
        clears: Whether all earlier records are out of date and may be deleted.
        continues: Whether the record is useless without the earlier ones.
    """

    id: str
    fields: Fields
    clears: bool = False
    continues: bool = False


@dataclass(slots=True)
class _Answer:
    """The answer so far, and the number of its parts that have been taken for writing."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    taken: tuple[int, int, int] = (0, 0, 0)

    def rest(self) -> Fields:
        """Take the parts that have not been taken yet."""
        texts, reasonings, calls = self.taken
        self.taken = len(self.texts), len(self.reasonings), len(self.tool_calls)
        fields = {
            "text": encoded("".join(self.texts[texts:])),
            "reasoning": encoded("".join(self.reasonings[reasonings:])),
            "tool_calls": _json(self.tool_calls[calls:]) if len(self.tool_calls) > calls else b"",
        }
        return {name: value for name, value in fields.items() if value}


class AnswerStream:
    """Collects a job's answer and keeps what the writer has not written yet.

    A job may run twice at the same time: its worker was presumed dead, or its message came twice.
    So each run claims an instant (Redis' clock when it begins) and numbers its records after it.
    Once a later run has written, the ids of an earlier one are too small, and Redis rejects them.
    Redis also rejects records that a broken connection delivers late.

    Args:
        name: The stream's name in Redis.
        attempts: How many calls the job had made before this run.
        notify: Notifies the writer that this stream has something to write, and whether it is
            urgent.
    """

    def __init__(
        self, name: str, *, attempts: int, notify: Callable[["AnswerStream", bool], None]
    ) -> None:
        self.name = name
        self.is_claimed = False
        self.finished = asyncio.Event()
        """Set once the last record is written or given up."""
        self.renew_at_s = 0.0
        """When to renew the stream's time to live, on the loop's clock."""
        self.failing_since_s = 0.0
        """Since when writes fail, on the loop's clock; 0 while they succeed."""
        self._notify = notify
        self._attempts = attempts
        self._calls = 0
        self._earlier_attempts = 0
        self._follows = attempts > 0
        self._begun = False
        self._begin_due = False
        self._answer = _Answer()
        self._last: Fields | None = None
        self._last_due = False
        self._claim = 0
        self._number = 0
        self._writes = 0
        self._given_up = False
        self._is_closed_from_outside = False
        self._may_create = True

    # -- reports of the job; no method waits

    def calling(self) -> None:
        """Report that a call to the provider is made."""
        self._calls += 1

    def begin(self) -> None:
        """Report that an answer begins; earlier pieces belong to one that broke off."""
        self._answer = _Answer()
        self._begun = self._begin_due = True
        self._notify_writer()

    def piece(
        self, *, text: str = "", reasoning: str = "", tool_calls: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Report the next piece of the answer."""
        if text:
            self._answer.texts.append(text)
        if reasoning:
            self._answer.reasonings.append(reasoning)
        self._answer.tool_calls.extend(tool_calls)
        self._notify_writer()

    def repeat(self, result: Mapping[str, Any]) -> None:
        """Report the whole answer of another job, which this job shares."""
        calls = as_list(result.get("tool_calls"))
        self.begin()
        self.piece(
            text=str(result.get("text") or ""),
            reasoning=str(result.get("reasoning") or ""),
            tool_calls=[{"index": number} | call for number, call in enumerate(calls)],
        )

    def close(self, kind: str, /, **fields: str) -> None:
        """Report the last record of this run: the job waits, is done, or has failed."""
        self._last = {"type": encoded(kind)} | {
            name: encoded(value) for name, value in fields.items()
        }
        self._last_due = True
        self._notify_writer(urgent=True)

    def close_from_outside(self, *, creates: bool, **fields: str) -> None:
        """Report that the job has ended outside of any run.

        Nothing is written if the stream's last record is an end already.

        Args:
            creates: Whether to write the record if the job has no stream yet.
            **fields: The record's fields.
        """
        self._is_closed_from_outside, self._may_create = True, creates
        self.close("end", **fields)

    def _notify_writer(self, *, urgent: bool = False) -> None:
        if not self._given_up:
            self._notify(self, urgent)

    # -- methods for the writer

    @property
    def closed(self) -> bool:
        """Whether the last record was reported."""
        return self._last is not None

    def claim(self, now_ms: int, last_id: str, attempt: int | None, *, ended: bool = False) -> None:
        """Claim the ids after everything that the stream holds now.

        Args:
            now_ms: Redis' clock, in milliseconds.
            last_id: The id of the stream's last record; empty if it has none.
            attempt: The attempt of the last record; None if there is none.
            ended: Whether the last record is an end.
        """
        if self._is_closed_from_outside and (ended or not (last_id or self._may_create)):
            self.give_up()
        self.is_claimed = True
        self._claim = max(now_ms, int(last_id.partition("-")[0] or 0) + 1)
        self._number = self._writes = 0
        if attempt is not None:
            self._earlier_attempts, self._follows = attempt, True

    def take(self) -> list[Record]:
        """Take the records to write now, in order.

        They count as written unless `on_lost` is called.
        """
        if self._given_up:
            return []
        attempt = {"attempt": b"%d" % (max(self._attempts, self._earlier_attempts) + self._calls)}
        records = []
        if self._begin_due:
            kind = b"restart" if self._follows else b"start"
            records.append(self._record({"type": kind} | attempt, clears=True))
            self._begin_due, self._follows = False, True
        if rest := self._answer.rest():
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
        """Take note that the records are written."""
        self.failing_since_s = 0.0
        if self.closed and not self._last_due:
            self.finished.set()

    def on_lost(self) -> None:
        """Take note that some of the records may be missing: write the whole answer again.

        It is not known which of them arrived, so the missing ones alone cannot be repeated.
        """
        self.renew_at_s = 0.0
        self._answer.taken = (0, 0, 0)
        self._begin_due, self._follows = self._begun, True
        self._last_due = self.closed

    def on_superseded(self) -> bool:
        """Take note that another run has written to the stream: yield it, or claim it again.

        Returns:
            Whether this run claims the stream again. It does if it has written nothing so far, and
            reports more than that its job waits.
        """
        if self._writes > 1 or (self._last is not None and self._last["type"] == b"wait"):
            return False
        self.on_lost()
        self.is_claimed = False
        return True

    def give_up(self) -> None:
        """Write nothing more."""
        self._given_up = True
        self.finished.set()


def encoded(text: str) -> bytes:
    """Encode a text as UTF-8.

    JSON may hold lone surrogates: those that form a pair are joined, others replaced.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
