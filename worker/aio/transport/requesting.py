"""Sends requests for messages."""

import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from kombu.utils.scheduling import priority_cycle

from worker.aio.transport import delayed
from worker.aio.transport.delivery import DeliveringChannel
from worker.aio.transport.hints import ListHints
from worker.aio.transport.look_backoff import LookBackoff
from worker.aio.transport.messages import Taken
from worker.aio.transport.poller import arrives_soon, has_buffered
from worker.aio.transport.replies import Note, Replies
from worker.aio.transport.scripts import TAKE
from worker.aio.transport.take_limits import TakeLimits

_SHA: Final = hashlib.sha1(TAKE.encode(), usedforsecurity=False).hexdigest()
_LEADER_SWEEPS: Final = 2.5
"""If the leader of a delayed queue has not read it for this many sweeps, another channel leads."""
_LOOKS_FIRST_S: Final = 1.0
"""How long a channel looks before it takes messages, after another channel was faster."""


class RequestingChannel(DeliveringChannel):
    """A channel that asks for messages with one script.

    The server reports a new message to each channel that waits, and only the fastest gets it. For a
    second, a channel that was too late looks first whether a message is there: a look is one
    command, and the script runs three.
    """

    _in_poll: Any
    sweep_s: float
    """The current interval between two sweeps, in seconds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.hints = ListHints()
        self.limits = TakeLimits()
        self.backoff = LookBackoff()
        self.replies = Replies()
        self._reading = False
        self._is_script_lost = False
        self._is_looking = False
        """Whether the outstanding request is only a look, which takes no messages."""
        self._looks_until_s = 0.0
        self._asked_for = 0
        self._asked_lists: list[str] = []
        self._suffix = f"@{uuid.uuid4().hex[:8]}"
        self._requests = 0
        super().__init__(*args, **kwargs)

    def _send_request(
        self, queues: list[str], steps: Sequence[int], *, limit: int, lease_s: float, now_s: float
    ) -> None:
        self._asked_for = limit
        self._asked_lists = [self._list_of(queue, step) for step in steps for queue in queues]
        self._requests += 1  # also for a look, so that no messages have its suffix
        self._is_looking = self.hints.requested is not None and now_s < self._looks_until_s
        if self._is_looking:
            prefix = self.global_keyprefix
            self._send(now_s, "EXISTS", *(prefix + name for name in self._asked_lists))
            return
        delayed_at = self._delayed_among(queues)
        keys = self._keys_for([queues[number - 1] for number in delayed_at])
        # A server that has lost the script knows it again after one EVAL.
        script = ("EVAL", TAKE) if self._is_script_lost else ("EVALSHA", _SHA)
        self._is_script_lost = False
        in_turn = int(not isinstance(self._queue_cycle, priority_cycle))
        self._send(
            now_s,
            *script,
            len(keys),
            *keys,
            limit,
            # This machine's time, because kombu's own visibility timeout is measured by it.
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
        )

    def _delayed_among(self, queues: list[str]) -> list[int]:
        """Return the numbers, from 1, of the queues whose delayed messages are requested, too."""
        if self.hints.requested is not None:
            # Hints do not concern delayed messages: at their instant, the leader reads all lists.
            return []
        return [number for number, queue in enumerate(queues, 1) if queue in self.delayed_queues]

    def _send(self, now_s: float, *command: Any) -> None:
        connection = self.client.connection
        # No health check, because it could silently open a new connection, which gets no hints.
        connection.send_command(*command, check_health=False)
        self.replies.expect(connection, None)
        self._in_poll = connection
        # kombu's health check closes a connection that has not replied for long after this time.
        self._brpop_sent_at = now_s

    def send_beside(self, note: Note, *command: Any) -> bool:
        """Send a command by the taking connection, and do not wait for a server that is far away.

        Taking a connection from the pool and returning it costs more than the command.

        Args:
            note: Called with the reply, a number, or with the error of the server. If the
                connection is lost before, it is not called.
            *command: The command.

        Returns:
            Whether the command was sent; false if the connection is not open.

        Raises:
            redis.ConnectionError: The connection is lost.
        """
        connection = self.client.connection
        if not (connection and connection._sock):  # noqa: SLF001
            return False
        is_free = not (self._reading or self._in_poll or self.replies)
        connection.send_command(*command, check_health=False)
        self.replies.expect(connection, note)
        if is_free and self.replies.is_near:
            self._reading = True
            try:
                while self.replies and arrives_soon(connection):
                    self._read_reply(connection)
                # The poller does not see data that came together with the reply.
                while connection._sock and has_buffered(connection):  # noqa: SLF001
                    self._read_reply(connection)
            finally:
                self._reading = False
        return True

    def _read_reply(self, connection: Any) -> Taken | None:
        """Read one reply or hint. Return None unless it answers the request for messages."""
        raise NotImplementedError

    def _note_found(self, count: int, now_s: float) -> None:
        """Note how many messages a request took. After a hint that led to none, look first."""
        if count or self.hints.requested is not None:
            self.backoff.note_look(count)
        if self.hints.requested is not None:
            self._looks_until_s = 0.0 if count else now_s + _LOOKS_FIRST_S

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

    def _list_of(self, queue: str, step: int) -> str:
        if not self.limits.allows(queue, step):
            return f"{self.unacked_key}.left"  # this list is always empty
        return str(self._q_for_pri(queue, step))

    def _number_behind(self, queues: list[str], delayed_queue: str) -> int:
        """Return the number, from 1, of the queue that a delayed queue goes before; 0 for none."""
        behind = self.goes_before(delayed_queue)
        return queues.index(behind) + 1 if behind in queues else 0
