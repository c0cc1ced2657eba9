"""Requests messages from the server when there is room, and reads its replies and hints."""

import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from queue import Empty
from typing import Any, Final

import redis

from worker.aio.transport.leases import LeaseKeeper
from worker.aio.transport.messages import NOTHING_DELAYED, Taken, read_batch
from worker.aio.transport.poller import TAKING, arrives_soon, has_buffered
from worker.aio.transport.requesting import RequestingChannel
from worker.aio.transport.sharing import QueueSharing
from worker.aio.transport.take_limits import RECENT_S

logger = logging.getLogger(__name__)

_BATCH: Final = 200
"""The most messages in one batch, which takes a few milliseconds of the server's time."""
_SHORT_SWEEP_S: Final = 0.1
"""The time between two sweeps, which read all queues, if the server does not report changes."""
_LONG_SWEEP_S: Final = 10.0
"""The time between two sweeps if the server reports changes and no message is delayed.

If a message is delayed, it is kombu's polling interval.
"""
_REFUSED_PAUSE_S: Final = 1.0


class TakingChannel(RequestingChannel):
    """A channel that takes messages in batches, and records each message in the same step."""

    keep_leases: Callable[[], LeaseKeeper | None]
    sharing: QueueSharing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.takes = True
        """False while a consumer does not acknowledge; the channel then works like kombu's own."""
        self.sweep_s = _SHORT_SWEEP_S
        """The current interval between two sweeps, in seconds."""
        self._is_tracking = False
        """Whether the server reports changes."""
        self._due_at_s = 0.0
        """When this channel wakes up for a delayed message, on the monotonic clock."""
        super().__init__(*args, **kwargs)
        self.takes = self.ack_emulation
        self.handlers[TAKING] = self._read_taken

    @property
    def active_queues(self) -> list[str]:
        """The queues that messages are taken from, each once."""
        queues = dict.fromkeys(self._active_queues)
        if self.active_fanout_queues:
            return [queue for queue in queues if queue not in self.active_fanout_queues]
        return list(queues)

    def _update_queue_cycle(self) -> None:
        super()._update_queue_cycle()
        prefix = self.global_keyprefix
        self.hints.watch(
            {
                f"{prefix}{self._q_for_pri(queue, step)}".encode(): (queue, step)
                for queue in self.active_queues
                for step in self.priority_steps
            }
        )

    def ask(self, *, coming: int = 0) -> None:
        """Request as many messages as there is room for.

        Does nothing while a reply is outstanding, or while the queues are known to be empty.

        Args:
            coming: How many received messages are not delivered yet.
        """
        if self._in_poll:
            return
        now_s = time.monotonic()
        if now_s < self.hints.look_at_s and not self.knows_of_messages:
            return
        # This comes before `room`, because the keeper counts the jobs of closed channels.
        keeper = self.keep_leases()
        room = self.qos.room(most=_BATCH, coming=coming)
        if not room or self.qos.are_acks_refused:
            return
        # Room for a quarter of the window is worth a round trip. With less room, the request waits
        # if the hub makes another turn soon anyway.
        if room < min(_BATCH, self.qos.prefetch_count) // 4 and self.connection.cycle.is_nudged:
            return
        self._connect(keeper)
        queues, steps, limit = self._choose(room, now_s)
        if queues:
            # Acknowledgements go first: otherwise more messages would be unacknowledged than the
            # window allows.
            self.qos.flush_acks(beside=True)
            lease_s = keeper.lease_s if keeper is not None else 0
            self._send_request(queues, steps, limit=limit, lease_s=lease_s, now_s=now_s)

    def _choose(self, room: int, now_s: float) -> tuple[list[str], Sequence[int], int]:
        """Choose the queues and the priorities to request, and the number of messages."""
        every = self._queue_cycle.consume(len(self.active_queues))
        queues, limit = self._within_limits(self.hints.worth_asking(every, now_s), room, now_s)
        if not self.hints.left_out.isdisjoint(queues):  # a queue that was left out is allowed now
            queues, limit = self._within_limits(every, room, now_s)
        if not queues:
            return [], (), 0
        queues, steps = self.hints.choose(
            queues, every=every, steps=self.priority_steps, now_s=now_s, sweep_s=self.sweep_s
        )
        return queues, steps, limit

    def _within_limits(self, queues: list[str], room: int, now_s: float) -> tuple[list[str], int]:
        allowed, limit = self.limits.within(queues, room, now_s)
        if len(allowed) < len(queues):
            self.connection.cycle.nudge(RECENT_S)  # look again soon
        return allowed, limit

    def _connect(self, keeper: LeaseKeeper | None) -> None:
        cycle = self.connection.cycle
        if cycle.connect(self):
            self._listen_for_changes(self.client.connection)
            if keeper is not None:
                keeper.catch_up()
                self.qos.recover_at_s = 0.0
                cycle.recover()

    def _listen_for_changes(self, connection: Any) -> None:
        self._is_tracking = False
        self.hints.look_everywhere()
        self.sweep_s = _SHORT_SWEEP_S
        if str(connection.get_protocol()) != "3":
            return
        try:
            # Without this handler, redis-py drops the keys that a hint names.
            connection._parser.set_invalidation_push_handler(_unchanged)  # noqa: SLF001
            # NOLOOP: no hints of changes that this connection makes itself.
            connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
            connection.read_response()
        except redis.ResponseError as exc:
            logger.info(
                "the broker does not report changes (%s); reading the queues every %d ms",
                exc,
                _SHORT_SWEEP_S * 1000,
            )
        else:
            self._is_tracking = True
            self.sweep_s = self._reported_sweep_s(delayed_here=False)

    def _reported_sweep_s(self, *, delayed_here: bool) -> float:
        busy_s = float(self.brpop_timeout or 1)
        # The leader of a delayed queue may be gone or full, so the other channels sweep often while
        # messages are delayed.
        return busy_s if delayed_here else max(busy_s, _LONG_SWEEP_S)

    def _read_taken(self) -> bool:
        """Read all replies and hints that have arrived on the taking connection.

        Raises:
            Empty: No message was delivered.
        """
        connection = self.client.connection
        self._reading = True
        try:
            delivered = self._read_arrived(connection) or self._request_early(connection)
        finally:
            self._reading = False
            if not self.active_queues:  # the last consumer was cancelled meanwhile
                self._drain_reply()
            elif self.connection is not None and self.knows_of_messages:
                self.connection.cycle.share_by(self.share_at_s)
        if not delivered:
            raise Empty
        return True

    def _read_arrived(self, connection: Any) -> bool:
        """Read the replies and hints that have arrived; return whether a message was delivered."""
        delivered = self._read_one(connection)
        # The poller does not see data that is already in redis-py's buffer.
        while (
            connection is self.client.connection and connection._sock and has_buffered(connection)  # noqa: SLF001
        ):
            delivered = self._read_one(connection) or delivered
        return delivered

    def _request_early(self, connection: Any) -> bool:
        """Request messages one turn of the hub earlier than the poller would.

        Returns:
            Whether the reply came at once and a message was delivered.
        """
        if self.connection is None:
            return False
        if not self.hints.all_empty:
            self.ask()
            # Waiting for the reply costs less than a turn of the hub, unless the server is far
            # away.
            if (
                self._in_poll is connection
                and self.connection.cycle.hub is not None
                and arrives_soon(connection)
            ):
                return self._read_arrived(connection)
        elif self.sweep_s < 1:
            self.connection.cycle.nudge(self.sweep_s)
        return False

    def _read_one(self, connection: Any) -> bool:
        taken = self._read_reply(connection)
        if taken is None:
            return False
        delivered = False
        try:
            if not self.hints.all_empty:
                self.ask(coming=len(taken))  # the server works while these messages are delivered
        finally:
            delivered = self._deliver(taken)
        return delivered

    def _read_reply(self, connection: Any) -> Taken | None:
        """Read one reply or hint. Return None unless it answers the request for messages."""
        try:
            answer = self._read(connection)
        except redis.ResponseError as exc:
            self._note_error(exc)
            return None
        if not (isinstance(answer, int) or _is_of_request(answer)):
            was_empty = self.hints.all_empty
            self.hints.note_change(answer)
            if was_empty:
                self._back_off()
            return None
        if (note := self.replies.take()) is not None:
            note(answer)
            return None
        if isinstance(answer, int):
            return self._after_look(answer)
        return self._read_messages(answer)

    def _note_error(self, exc: redis.ResponseError) -> None:
        if (note := self.replies.take()) is not None:
            note(exc)
            return
        self._in_poll = None
        if isinstance(exc, redis.exceptions.NoScriptError):  # it restarted, or lost its scripts
            self._is_script_lost = True
            self.hints.look_everywhere()
            return
        self.hints.pause(time.monotonic() + _REFUSED_PAUSE_S)
        words = "the broker delivers no messages (%s); asking again in %g s"
        logger.warning(words, exc, _REFUSED_PAUSE_S)

    def _read_messages(self, answer: list[Any]) -> Taken:
        """Return the messages of a reply, and note whether the lists are empty now."""
        self._in_poll = None
        set_aside, taken, due_in_us = read_batch(answer, self._asked_lists)
        if set_aside:
            logger.error(
                "moved %d entries of a queue that are not messages to %s",
                set_aside,
                self.qos.unreadable_key,
            )
        self.hints.note_answer(all_taken=len(taken) + set_aside < self._asked_for)
        self._note_found(len(taken) + set_aside, time.monotonic())
        if taken:
            self.limits.note_taken(len(taken), time.monotonic())
        if self._is_tracking and self.hints.requested is None:
            self.sweep_s = self._reported_sweep_s(delayed_here=due_in_us != NOTHING_DELAYED)
            self.hints.look_at_s = min(self.hints.look_at_s, time.monotonic() + self.sweep_s)
        if due_in_us >= 0:
            self._wake_up_in(due_in_us / 1e6)
        self._flush_brpop_reauth()
        return taken

    @staticmethod
    def _read(connection: Any) -> Any:
        """Read a reply or a hint."""
        return connection.read_response(disable_decoding=True, push_request=True)

    @property
    def _hub(self) -> Any:
        """The consumer's event loop, if it has one."""
        return self.connection.cycle.hub if self.connection is not None else None

    def _back_off(self) -> None:
        """Leave a new message to the other workers for a moment."""
        hub = self._hub
        if hub is None:
            return
        workers = self.qos.keeper.workers if self.qos.keeper is not None else 1
        if pause_s := self.backoff.begin(workers=workers, now_s=time.monotonic()):
            hub.call_later(pause_s, _no_op)

    def _after_look(self, count: int) -> Taken | None:
        """Note how many lists hold messages, as a look found.

        Returns:
            None if there are messages, which the next request takes.
        """
        self._in_poll = None
        self.hints.note_answer(all_taken=not count)
        if not count:
            self.backoff.note_look(0)
            return []
        self._looks_until_s = 0.0
        return None

    def _wake_up_in(self, due_in_s: float) -> None:
        """Read the queues again when the next delayed message is due, at the latest."""
        at_s = time.monotonic() + due_in_s
        if at_s >= self.hints.look_at_s:
            return
        self.hints.look_at_s = self._due_at_s = at_s
        if (hub := self._hub) is not None:
            hub.call_later(due_in_s, _no_op)

    @property
    def knows_of_messages(self) -> bool:
        """Whether messages may wait, and this channel is not leaving them to others for now."""
        return not self.hints.all_empty and time.monotonic() >= self.backoff.until_s

    @property
    def share_at_s(self) -> float:
        """When `share` is to be called, on the monotonic clock."""
        return self.sharing.due_s if self.takes else inf

    @property
    def look_in_s(self) -> float:
        """How long the poller may wait until the queues are read again, in seconds."""
        due_in_s = self._due_at_s - time.monotonic()
        return min(self.sweep_s, due_in_s) if due_in_s > 0 else self.sweep_s


def _no_op() -> None:
    pass


def _is_of_request(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and isinstance(answer[0], int)


def _unchanged(hint: Any) -> Any:
    return hint
