"""The state as server-sent events: what the page shows is pushed, so that it need not ask."""

import json
import time
from typing import Final

from tornado.iostream import StreamClosedError

from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.handlers import AdminHandler

LONGEST_S: Final = 900.0
"""How long one stream lasts; a reader that goes on asks again, and is authenticated again."""


class EventStream(AdminHandler):
    """`GET /api/admin/api-keys/events`: the status, and again with each poll."""

    async def get(self) -> None:
        """Send the state until the reader leaves, Redis does not answer, or it was long enough."""
        state = await self.poller.fresh_state()
        self.set_header("Content-Type", "text/event-stream; charset=UTF-8")
        self.set_header("X-Accel-Buffering", "no")  # nginx would keep the events back
        ends_at = time.monotonic() + LONGEST_S
        while time.monotonic() < ends_at:
            self.write(f"event: status\ndata: {json.dumps(self.status_of(state))}\n\n")
            try:
                await self.flush()
                state = await self.poller.next_state()
            except (StreamClosedError, RedisUnreachable):
                return
