"""Pushes the state to the page as server-sent events, so that the page need not poll."""

import json
import time
from typing import Final

from tornado.iostream import StreamClosedError

from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.handlers import AdminHandler

LONGEST_S: Final = 900.0
"""How long one stream lasts. To go on, a reader must connect and authenticate again."""


class EventStream(AdminHandler):
    """`GET /api/admin/api-keys/events`: the status now, and again after each poll."""

    async def get(self) -> None:
        """Send the state until the reader leaves, Redis does not answer, or the time is over."""
        state = await self.poller.fresh_state()
        self.set_header("Content-Type", "text/event-stream; charset=UTF-8")
        self.set_header("X-Accel-Buffering", "no")  # otherwise nginx would buffer the events
        ends_at = time.monotonic() + LONGEST_S
        while time.monotonic() < ends_at:
            self.write(f"event: status\ndata: {json.dumps(self.status_of(state))}\n\n")
            try:
                await self.flush()
                state = await self.poller.next_state()
            except (StreamClosedError, RedisUnreachable):
                return
