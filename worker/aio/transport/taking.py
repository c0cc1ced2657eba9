"""A channel that asks the server for messages, and reads its replies and hints."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any, Final

import redis
from kombu.utils.scheduling import priority_cycle

from worker.aio.transport import delayed
from worker.aio.transport.delivery import DeliveringChannel
from worker.aio.transport.hints import ListHints
from worker.aio.transport.leases import LeaseKeeper
from worker.aio.transport.messages import NOTHING_DELAYED, Taken, read_batch
from worker.aio.transport.poller import TAKING, arrives_soon, has_buffered
from worker.aio.transport.scripts import TAKE
from worker.aio.transport.take_limits import RECENT_S, TakeLimits

logger = logging.getLogger(__name__)

_BATCH: Final = 200
"""Messages in one batch at most: a few milliseconds of the server's time."""
_SHORT_SWEEP_S: Final = 0.1
"""The sweep interval where the server does not report changes."""
_LONG_SWEEP_S: Final = 10.0
"""The sweep interval where it does, and no message is delayed; else kombu's polling interval."""
_LEADER_SWEEPS: Final = 2.5
"""The leader of a delayed queue reads it once a sweep; after this many, another channel leads."""
_REFUSED_PAUSE_S: Final = 1.0


class TakingChannel(DeliveringChannel):
    """A channel that takes messages in batches, each in one step with its entry."""

    _in_poll: Any
    keep_leases: Callable[[], LeaseKeeper | None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.takes = True
        """False while a consumer does not acknowledge: then the channel works as kombu's own."""
        self.sweep_s = _SHORT_SWEEP_S
        """How long the queues may go without a look, in seconds."""
        self.hints = ListHints()
        self.limits = TakeLimits()
        self._script_sent = False
        self._script_sha = ""
        self._asked_for = 0
        self._asked_lists: list[str] = []
        self._due_at_s = 0.0
        """When the next delayed message is due that this channel wakes up for, if that is soon."""
        self._suffix = f"@{uuid.uuid4().hex[:8]}"
        self._requests = 0
        self._reading = False
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
        """Ask for as many messages as there is room for.

        Not while a reply is on its way, nor while the queues are known to be empty.

        Args:
            coming: How many messages are here and not delivered yet.
        """
        if self._in_poll:
            return
        now_s = time.monotonic()
        if self.hints.all_empty and now_s < self.hints.look_at_s:
            return
        # This comes first: the keeper knows the jobs that run on since the last connection.
        keeper = self.keep_leases()
        room = self.qos.room(most=_BATCH, coming=coming)
        if not room:
            return
        # A quarter of the window is worth a round trip; for less this waits until the hub has
        # nothing else to wake up for.
        if room < min(_BATCH, self.qos.prefetch_count) // 4 and self.connection.cycle.is_nudged:
            return
        self._connect(keeper)
        queues, steps, limit = self._choose(room, now_s)
        if queues:
            self.flush_acks()  # or more messages would be unacknowledged than the window allows
            lease_s = keeper.lease_s if keeper is not None else 0
            self._send_request(queues, steps, limit=limit, lease_s=lease_s, now_s=now_s)

    def _choose(self, room: int, now_s: float) -> tuple[list[str], Sequence[int], int]:
        """Choose the queues and priorities to ask for, and how many messages at most."""
        every = self._queue_cycle.consume(len(self.active_queues))
        queues, limit = self._within_limits(self.hints.worth_asking(every, now_s), room, now_s)
        if not self.hints.left_out.isdisjoint(queues):  # messages may be taken from these again
            queues, limit = self._within_limits(every, room, now_s)
        if not queues:
            return [], (), 0
        queues, steps = self.hints.choose(
            queues, every=every, steps=self.priority_steps, now_s=now_s, sweep_s=self.sweep_s
        )
        return queues, steps, limit

    def _send_request(
        self, queues: list[str], steps: Sequence[int], *, limit: int, lease_s: float, now_s: float
    ) -> None:
        self._asked_for = limit
        self._asked_lists = [self._list_of(queue, step) for step in steps for queue in queues]
        # Hints do not concern delayed messages: at their instant, the leader reads all lists.
        delayed_at = (
            [number for number, queue in enumerate(queues, 1) if queue in self.delayed_queues]
            if self.hints.asked is None
            else []
        )
        keys = self._keys_for([queues[number - 1] for number in delayed_at])
        script = ("EVALSHA", self._script_sha) if self._script_sent else ("EVAL", TAKE)
        in_turn = int(not isinstance(self._queue_cycle, priority_cycle))
        # The time is this machine's, because kombu's own visibility timeout is measured by it. No
        # health check: it would open a new connection unseen, which receives no hints.
        self._requests += 1
        self.client.connection.send_command(
            *script,
            len(keys),
            *keys,
            limit,
            repr(time.time()),
            len(queues),
            in_turn,
            f"{self._suffix}{self._requests:x}",
            lease_s,
            len(steps),
            round(_LEADER_SWEEPS * max(self.sweep_s, 1.0) * 1000),
            *(
                argument
                for number in delayed_at
                for argument in (number, self._number_behind(queues, queues[number - 1]))
            ),
            check_health=False,
        )
        self._in_poll = self.client.connection
        # kombu's health check closes a connection that does not reply for long after this.
        self._brpop_sent_at = now_s

    def _keys_for(self, delayed_queues: list[str]) -> list[str]:
        names = [
            self.unacked_key,
            self.unacked_index_key,
            self.qos.leases_key,
            self.qos.unreadable_key,
            *self._asked_lists,
        ]
        if delayed_queues:
            names.append(delayed.CLOCK_KEY)
            names += [key for queue in delayed_queues for key in self.delayed_keys(queue)]
        return [self.global_keyprefix + name for name in names]

    def _within_limits(self, queues: list[str], room: int, now_s: float) -> tuple[list[str], int]:
        allowed, limit = self.limits.within(queues, room, now_s)
        if len(allowed) < len(queues):
            self.connection.cycle.nudge(RECENT_S)  # look again soon
        return allowed, limit

    def _list_of(self, queue: str, step: int) -> str:
        if not self.limits.allows(queue, step):
            return f"{self.unacked_key}.left"  # nothing is ever in there
        return str(self._q_for_pri(queue, step))

    def _connect(self, keeper: LeaseKeeper | None) -> None:
        cycle = self.connection.cycle
        if cycle.connect(self):
            self._listen_for_changes(self.client.connection)
            if keeper is not None:
                keeper.catch_up()
                self.qos.recover_at_s = 0.0
                cycle.recover()

    def _number_behind(self, queues: list[str], delayed_queue: str) -> int:
        """The number, from 1, of the queue that a delayed queue goes before; 0 for none."""
        behind = self.goes_before(delayed_queue)
        return queues.index(behind) + 1 if behind in queues else 0

    def _listen_for_changes(self, connection: Any) -> None:
        self._script_sent = False
        self.hints.look_everywhere()
        self.sweep_s = _SHORT_SWEEP_S
        if str(connection.get_protocol()) != "3":
            return
        try:
            # Without this handler, the client drops the keys.
            connection._parser.set_invalidation_push_handler(_unchanged)  # noqa: SLF001
            # NOLOOP: no hints of changes that this connection makes itself.
            connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
            connection.read_response()
            connection.send_command("SCRIPT", "LOAD", TAKE)
            self._script_sha = connection.read_response().decode()
        except redis.ResponseError as exc:
            logger.info(
                "the broker does not report changes (%s); reading the queues every %d ms",
                exc,
                _SHORT_SWEEP_S * 1000,
            )
        else:
            self._script_sent = True
            self.sweep_s = self._reported_sweep_s(delayed_here=False)

    def _reported_sweep_s(self, *, delayed_here: bool) -> float:
        busy_s = float(self.brpop_timeout or 1)
        # The leader of a delayed queue may be gone, or full: the other channels look often while
        # messages wait there.
        return busy_s if delayed_here else max(busy_s, _LONG_SWEEP_S)

    def _read_taken(self) -> bool:
        """Read what the taking connection has: replies, and hints that a list changed.

        Raises:
            Empty: There was no message among it.
        """
        connection = self.client.connection
        self._reading = True
        try:
            delivered = self._read_what_came(connection) or self._ask_for_what_changed(connection)
        finally:
            self._reading = False
            if not self.active_queues:  # the last one was cancelled meanwhile
                self._let_go()
        if not delivered:
            raise Empty
        return True

    def _read_what_came(self, connection: Any) -> bool:
        """Read the replies and hints that are here; true if there was a message among them."""
        delivered = self._read_one(connection)
        # The poller does not see what is in the client's buffer already.
        while (
            connection is self.client.connection and connection._sock and has_buffered(connection)  # noqa: SLF001
        ):
            delivered = self._read_one(connection) or delivered
        return delivered

    def _ask_for_what_changed(self, connection: Any) -> bool:
        """Ask one turn of the hub earlier than the poller would.

        Returns:
            Whether the reply came at once and had a message.
        """
        if self.connection is None:
            return False
        if not self.hints.all_empty:
            self.ask()
            # A turn of the hub costs more than this reply, unless the server is far away.
            if (
                self._in_poll is connection
                and self.connection.cycle.hub is not None
                and arrives_soon(connection)
            ):
                return self._read_what_came(connection)
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
                self.ask(coming=len(taken))  # the server works while these are delivered
        finally:
            delivered = self._deliver(taken)
        return delivered

    def _read_reply(self, connection: Any) -> Taken | None:
        """Read one reply or hint; None if it was a hint, or an error."""
        try:
            answer = connection.read_response(disable_decoding=True, push_request=True)
        except redis.exceptions.NoScriptError:  # the scripts were flushed
            self._in_poll, self._script_sent = None, False
            self.hints.look_everywhere()
            return None
        except redis.ResponseError as exc:
            self._in_poll = None
            self.hints.pause(time.monotonic() + _REFUSED_PAUSE_S)
            logger.warning("the broker gives out no messages: %s", exc)
            return None
        if not (isinstance(answer, list) and answer and isinstance(answer[0], int)):
            self.hints.note_change(answer)
            return None
        self._in_poll = None
        set_aside, taken, due_in_us = read_batch(answer, self._asked_lists)
        if set_aside:
            logger.error(
                "moved %d entries of a queue that are not messages to %s",
                set_aside,
                self.qos.unreadable_key,
            )
        self.hints.note_answer(all_taken=len(taken) + set_aside < self._asked_for)
        if taken:
            self.limits.note_taken(len(taken), time.monotonic())
        if self._script_sent and self.hints.asked is None:
            self.sweep_s = self._reported_sweep_s(delayed_here=due_in_us != NOTHING_DELAYED)
            self.hints.look_at_s = min(self.hints.look_at_s, time.monotonic() + self.sweep_s)
        if due_in_us >= 0:
            self._wake_up_in(due_in_us / 1e6)
        self._flush_brpop_reauth()
        return taken

    def _wake_up_in(self, due_in_s: float) -> None:
        """Read the queues again when the next delayed message is due, if not earlier."""
        at_s = time.monotonic() + due_in_s
        if at_s >= self.hints.look_at_s:
            return
        self.hints.look_at_s = self._due_at_s = at_s
        hub = self.connection.cycle.hub if self.connection is not None else None
        if hub is not None:
            hub.call_later(due_in_s, _nothing)

    @property
    def look_in_s(self) -> float:
        """How long the poller may wait until the queues are read again, in seconds."""
        due_in_s = self._due_at_s - time.monotonic()
        return min(self.sweep_s, due_in_s) if due_in_s > 0 else self.sweep_s


def _nothing() -> None:
    pass


def _unchanged(hint: Any) -> Any:
    return hint
