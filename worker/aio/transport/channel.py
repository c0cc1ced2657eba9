"""A channel of the transport: asks for messages, and takes them in batches."""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

import redis
from kombu.utils.scheduling import priority_cycle

from worker.aio.transport import delayed
from worker.aio.transport.delivery import DeliveringChannel
from worker.aio.transport.hints import ListHints
from worker.aio.transport.leases import LeaseKeeper, connecting, keeper_of
from worker.aio.transport.messages import NOTHING_DELAYED, Message, Taken, read_batch
from worker.aio.transport.poller import TAKING, arrives_soon, has_buffered
from worker.aio.transport.qos import TransportQoS
from worker.aio.transport.scripts import TAKE

logger = logging.getLogger(__name__)

_MOST = 200
"""Messages in one batch at most: a few milliseconds of the server's time."""
_LATELY_S = 0.05
"""So long at most it takes until a message that was taken is known to whoever bounds its queue."""
_UNTOLD_SWEEP_S = 0.1
_QUIET_SWEEP_S = 10.0
"""Between two looks where the server tells of changes and no message is delayed.

Else kombu's polling interval.
"""
_GUARD_SWEEPS = 2.5
"""Who guards a delayed queue looks at it once a sweep.

After this many another channel takes over.
"""
_REFUSED_PAUSE_S = 1.0
LEASE_S = 60.0
RECOVER_S = 5.0
"""The longest time between two looks for what dead workers had, in seconds."""


class Channel(DeliveringChannel):
    """A channel that takes messages in batches and books them in the same step."""

    QoS = TransportQoS
    Message = Message
    from_transport_options = (*DeliveringChannel.from_transport_options, "lease_s")
    lease_s: float = LEASE_S
    """How long a worker may be silent before its messages go to others, in seconds; 0.

    For the visibility timeout.
    """
    keyprefix_fanout: str
    _in_poll: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._commands: redis.Redis | None = None
        self.takes = True
        """False while somebody consumes without acknowledging: then the channel is kombu's own."""
        self._trusting: set[str] = set()
        self.sweep_s = _UNTOLD_SWEEP_S
        """How long the queues may go without a look, in seconds."""
        self._script_sent = False
        self._script_sha = ""
        self._asked_for = 0
        self._asked_lists: list[str] = []
        self.hints = ListHints()
        self._urgent_only: dict[str, int] = {}
        self._more_of: dict[str, Callable[[], int]] = {}
        self._taken_lately: deque[tuple[float, int]] = deque()
        self._due_at_s = 0.0
        """When the next delayed message is due that this channel wakes up for, if that is soon."""
        self._suffix = f"@{uuid.uuid4().hex[:8]}"
        self._questions = 0
        self._reading = False
        super().__init__(*args, **kwargs)
        # kombu has tried a connection that only consumers use: one that publishes would keep it for
        # nothing.
        if self._async_pool is not None:
            self._async_pool.disconnect()
        self.takes = self.ack_emulation
        self.handlers[TAKING] = self._read_taken

    # -- one client

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """The connections of this channel.

        Those for commands are shared by the channels of one `Connection`.
        """
        if asynchronous:
            return super()._get_pool(asynchronous=True)
        transport = self.connection
        if transport.commands is None:
            transport.commands = super()._get_pool()
        self.keyprefix_fanout = self.keyprefix_fanout.format(
            db=self._connparams()["db"]
        )  # as kombu does beside
        return transport.commands

    def _disconnect_pools(self) -> None:
        if self.connection is not None and self.connection.commands is self._pool:
            self.connection.commands = None
        super()._disconnect_pools()

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:  # these are bound to a connection of their own
            return super()._create_client(asynchronous=True)
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = super()._create_client()
        return self._commands

    # -- which queues

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,  # noqa: FBT001 - kombu's
        callback: Any,
        consumer_tag: str,
        **kwargs: Any,
    ) -> Any:
        """Consume from a queue.

        Without acknowledgements nothing can be booked: that is left to kombu.
        """
        if no_ack and queue not in self._fanout_queues:
            self._trusting.add(consumer_tag)
            if self.takes:
                self._let_go()
                self._forget_connection()
                self.takes = False
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        cancelled = super()._basic_cancel(consumer_tag)
        # A worker greets its neighbours on this channel and reads their answers without
        # acknowledging, before it begins to take jobs. A BRPOP that is still on its way can only
        # bring more of those: no other queue is consumed yet.
        if consumer_tag in self._trusting:
            self._trusting.discard(consumer_tag)
            if not self._trusting and not self.active_queues and self.ack_emulation:
                self._in_poll = None
                self._forget_connection()
                self.takes = True
                self.hints.look_everywhere()
        # After the last one nobody reads an answer that is on its way, for as long as a warm
        # shutdown takes. One that is being read (a signal comes at any time) has who reads it.
        elif not self.active_queues and not self._reading:
            self._let_go()
        return cancelled

    def take_urgent_only(self, queue: str, below: int | None) -> None:
        """Leave a queue's messages with this priority and less urgent ones in the broker.

        None takes all again.
        """
        if below is None:
            self._urgent_only.pop(queue, None)
        else:
            self._urgent_only[queue] = below
        self.hints.look_everywhere()

    def take_at_most(self, queue: str, more: Callable[[], int]) -> None:
        """Take no more of a queue than `more` says whenever it is asked.

        What it does not know of yet is taken off.
        """
        self._more_of[queue] = more

    def _within_bounds(self, queues: list[str], room: int, now_s: float) -> tuple[list[str], int]:
        """The queues of which some may be taken, and how many at most.

        Looks again soon if others must wait.
        """
        if not self._more_of:
            return queues, room
        while self._taken_lately and self._taken_lately[0][0] < now_s - _LATELY_S:
            self._taken_lately.popleft()
        lately = sum(count for _, count in self._taken_lately)
        bounds = {
            queue: self._more_of[queue]() - lately for queue in queues if queue in self._more_of
        }
        allowed = [queue for queue in queues if bounds.get(queue, 1) > 0]
        if len(allowed) < len(queues):
            self.connection.cycle.nudge(_LATELY_S)
        return allowed, min(room, *(bound for bound in bounds.values() if bound > 0), room)

    def _list_of(self, queue: str, step: int) -> str:
        if step >= self._urgent_only.get(queue, step + 1):
            return f"{self.unacked_key}.left"  # nothing is ever in there
        return str(self._q_for_pri(queue, step))

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

    def flush_acks(self) -> None:
        """Send the acknowledgements of this channel's messages."""
        if isinstance(self._qos, TransportQoS):
            self._qos.flush_acks()

    def flush_acks_when_due(self) -> None:
        """Send them if it is worth it."""
        if isinstance(self._qos, TransportQoS):
            self._qos.flush_acks_when_due()

    def rebook(self, message: Any, headers: dict[str, Any]) -> None:
        """Let a message that was delivered have these headers as well if it comes again, as when this worker dies.

        Raises:
            redis.RedisError: The server cannot be reached, or refuses.
        """
        self.qos.rebook(message, headers)

    # -- leases

    @property
    def recover_every_s(self) -> float:
        """How often to look for what dead workers had, in seconds."""
        return min(RECOVER_S, self.lease_s / 4) if self.lease_s > 0 else RECOVER_S

    def recover(self) -> None:
        """Give back what dead workers had."""
        if self.takes and self.active_queues:
            self.qos.recover()

    def keep_leases(self) -> LeaseKeeper | None:
        """See that what this channel takes is renewed."""
        if self.lease_s <= 0:
            return None
        keeper = self.qos.keeper
        if keeper is None:
            lease_s = (
                min(self.lease_s, self.visibility_timeout)
                if self.visibility_timeout > 0
                else self.lease_s
            )
            names = (
                self.unacked_key,
                self.unacked_index_key,
                self.qos.leases_key,
                self.qos.pulse_key,
            )
            first, second, third, fourth = (self.global_keyprefix + name for name in names)
            client = self.connection.client
            key = (client.hostname, client.port, client.virtual_host, client.userid, first, lease_s)
            params = self._connparams()
            keeper = keeper_of(
                key,
                lambda: LeaseKeeper(
                    connecting(params, lease_s),
                    lease_s=lease_s,
                    keys=(first, second, third, fourth),
                ),
            )
            self.qos.keeper = keeper
            keeper.join(self.qos)
        return keeper

    # -- ask and take

    def ask(self, *, coming: int = 0) -> None:
        """Ask for as many messages as there is room for, unless that is asked already or the queues are empty.

        Args:
            coming: How many are here and not handed over yet.
        """
        if self._in_poll:
            return
        keeper = self.keep_leases()  # first: it knows what runs on since the last connection
        room = self.qos.room(most=_MOST, coming=coming)
        now_s = time.monotonic()
        if not room or (self.hints.is_dry and now_s < self.hints.look_at_s):
            return
        # A quarter of the window is worth a round trip; less is once the hub has nothing else to
        # come back for.
        if room < min(_MOST, self.qos.prefetch_count) // 4 and self.connection.cycle.is_nudged:
            return
        self._see_to_connection(keeper)
        every = self._queue_cycle.consume(len(self.active_queues))
        queues, bounded = self._within_bounds(self.hints.worth_asking(every, now_s), room, now_s)
        if not self.hints.left_out.isdisjoint(queues):  # they may be taken of again
            queues, bounded = self._within_bounds(every, room, now_s)
        if not queues:
            return
        queues, steps = self.hints.choose(
            queues, every=every, steps=self.priority_steps, now_s=now_s, sweep_s=self.sweep_s
        )
        if not queues:
            return
        self.flush_acks()  # or the book would hold more than the window allows
        self._asked_for = bounded
        self._asked_lists = [self._list_of(queue, step) for step in steps for queue in queues]
        names = (
            self.unacked_key,
            self.unacked_index_key,
            self.qos.leases_key,
            self.qos.unreadable_key,
            *self._asked_lists,
        )
        # What is due of the delayed ones has an instant of its own, and whoever guards it looks
        # everywhere then.
        places = [
            place
            for place, queue in enumerate(queues, 1)
            if queue in self.delayed_queues and self.hints.asked is None
        ]
        if places:
            names += (
                delayed.CLOCK_KEY,
                *(key for place in places for key in self.delayed_keys(queues[place - 1])),
            )
        keys = [self.global_keyprefix + name for name in names]
        script = ("EVALSHA", self._script_sha) if self._script_sent else ("EVAL", TAKE)
        in_turn = int(not isinstance(self._queue_cycle, priority_cycle))
        # The clock is this machine's, because kombu's own visibility timeout goes by it. No health
        # check: it would open a new connection unseen, one that no hints come to.
        self._questions += 1
        self.client.connection.send_command(
            *script,
            len(keys),
            *keys,
            bounded,
            repr(time.time()),
            len(queues),
            in_turn,
            f"{self._suffix}{self._questions:x}",
            keeper.lease_s if keeper is not None else 0,
            len(steps),
            round(_GUARD_SWEEPS * max(self.sweep_s, 1.0) * 1000),
            *(
                number
                for place in places
                for number in (place, self._place_behind(queues, queues[place - 1]))
            ),
            check_health=False,
        )
        self._in_poll = self.client.connection
        self._brpop_sent_at = (
            now_s  # kombu's health check drops a connection that leaves this unanswered
        )

    def _see_to_connection(self, keeper: LeaseKeeper | None) -> None:
        cycle = self.connection.cycle
        if cycle.connect(self):
            self._listen_for_changes(self.client.connection)
            if keeper is not None:
                keeper.catch_up()
                self.qos.recover_at_s = 0.0
                cycle.recover()

    def _place_behind(self, queues: list[str], delayed_queue: str) -> int:
        """The place, counted from 1, of the queue that a delayed queue goes before; 0 for none."""
        behind = self.goes_before(delayed_queue)
        return queues.index(behind) + 1 if behind in queues else 0

    def _listen_for_changes(self, connection: Any) -> None:
        self._script_sent = False
        self.hints.look_everywhere()
        self.sweep_s = _UNTOLD_SWEEP_S
        if str(connection.get_protocol()) != "3":
            return
        try:
            connection._parser.set_invalidation_push_handler(_as_it_is)  # noqa: SLF001 - else the client drops the keys
            # NOLOOP: not of what this connection takes itself.
            connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
            connection.read_response()
            connection.send_command("SCRIPT", "LOAD", TAKE)
            self._script_sha = connection.read_response().decode()
        except redis.ResponseError as exc:
            logger.info(
                "the broker does not tell of changes (%s); looking every %d ms",
                exc,
                _UNTOLD_SWEEP_S * 1000,
            )
        else:
            self._script_sent = True
            self.sweep_s = self._told_sweep_s(delayed_here=False)

    def _told_sweep_s(self, *, delayed_here: bool) -> float:
        busy_s = float(self.brpop_timeout or 1)
        # Who guards a delayed queue may be gone, or full: the others look often while something
        # waits there.
        return busy_s if delayed_here else max(busy_s, _QUIET_SWEEP_S)

    def _read_taken(self) -> bool:
        """Read what the taking connection has: replies, and hints that a list changed.

        Raises:
            Empty: No message was among it.
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
        """Read replies and hints, as far as they are here; true if a message was among it."""
        delivered = self._read_one(connection)
        # What is in the client's buffer already wakes no poller.
        while (
            connection is self.client.connection and connection._sock and has_buffered(connection)  # noqa: SLF001
        ):
            delivered = self._read_one(connection) or delivered
        return delivered

    def _ask_for_what_changed(self, connection: Any) -> bool:
        """Ask a turn of the hub earlier than it would.

        True if the answer came at once and had a message.
        """
        if self.connection is None:
            return False
        if not self.hints.is_dry:
            self.ask()
            # A turn of the hub costs more than the answer takes, unless the server is far away.
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
            if not self.hints.is_dry:
                self.ask(
                    coming=len(taken)
                )  # the server looks for the next while these are handed over
        finally:
            delivered = self._deliver(taken)
        return delivered

    def _read_reply(self, connection: Any) -> Taken | None:
        """Read one reply or hint; nothing if it was a hint, or a refusal."""
        try:
            answer = connection.read_response(disable_decoding=True, push_request=True)
        except redis.exceptions.NoScriptError:  # somebody flushed the scripts
            self._in_poll, self._script_sent = None, False
            self.hints.look_everywhere()
            return None
        except (
            redis.exceptions.ReadOnlyError
        ) as exc:  # the server became a replica: another is the primary now
            connection.disconnect()
            raise redis.ConnectionError(str(exc)) from exc
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
                "%d entries that are no messages were found in a queue; they are in %s",
                set_aside,
                self.qos.unreadable_key,
            )
        self.hints.note_answer(all_taken=len(taken) + set_aside < self._asked_for)
        if taken and self._more_of:
            self._taken_lately.append((time.monotonic(), len(taken)))
        if self._script_sent and self.hints.asked is None:
            self.sweep_s = self._told_sweep_s(delayed_here=due_in_us != NOTHING_DELAYED)
            self.hints.look_at_s = min(self.hints.look_at_s, time.monotonic() + self.sweep_s)
        if due_in_us >= 0:
            self._wake_up_in(due_in_us / 1e6)
        self._flush_brpop_reauth()
        return taken

    def _wake_up_in(self, due_in_s: float) -> None:
        """Look into the queues again when the next delayed message is due, if not earlier."""
        at_s = time.monotonic() + due_in_s
        if at_s >= self.hints.look_at_s:
            return
        self.hints.look_at_s = self._due_at_s = at_s
        hub = self.connection.cycle.hub if self.connection is not None else None
        if hub is not None:
            hub.call_later(due_in_s, _nothing)

    @property
    def look_in_s(self) -> float:
        """How long the poller may wait until the queues are looked into again, in seconds."""
        due_in_s = self._due_at_s - time.monotonic()
        return min(self.sweep_s, due_in_s) if due_in_s > 0 else self.sweep_s

    # -- end

    def close(self) -> None:
        """Close: what was taken and not acknowledged goes back."""
        if not self.closed:
            self._let_go()
            try:
                self.flush_acks()
            except (redis.RedisError, OSError) as exc:
                if self.qos.keeper is None:
                    logger.warning(
                        "could not acknowledge at the end (%s); those messages will come again", exc
                    )
        super().close()
        self._hang_up()

    def abandon(self) -> None:
        """End a channel that could not be closed in order.

        Its messages go back when the server is there again.
        """
        self.closed = True
        if self.connection is not None:
            self.connection.cycle.discard(self)
        if self._qos is not None:
            with suppress(redis.RedisError, OSError, AttributeError):
                self._qos.restore_unacked_once()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close what was opened to give messages back.

        Kombu does that after it has closed all connections.
        """
        for name in ("client", "subclient"):
            if (client := self.__dict__.get(name)) is not None:
                client.connection_pool.disconnect()
        self._disconnect_pools()

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # kombu forgets the connection's address when it closes it, and would stumble over nothing.
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("this channel's connection is closed")
        return super()._connparams(asynchronous=asynchronous)

    def _let_go(self) -> None:
        """Give back the answer that is still on its way."""
        if not self.takes:
            return
        connection = self._in_poll
        try:
            while connection and self._in_poll is connection:
                if taken := self._read_reply(connection):
                    self.qos.give_back([(tag, text, [name]) for name, tag, text in taken])
        except (redis.RedisError, OSError) as exc:
            logger.debug("an answer was lost with its connection: %r", exc)
            if self.qos.keeper is not None:
                self.qos.keeper.release_question(f"{self._suffix}{self._questions:x}")
        self._in_poll = None

    def _forget_connection(self) -> None:
        client = self.__dict__.get("client")
        if client is not None and client.connection is not None:
            client.connection.disconnect()


def _nothing() -> None:
    pass


def _as_it_is(hint: Any) -> Any:
    return hint
