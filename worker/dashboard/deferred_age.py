"""How long the deferred jobs of a queue have waited."""

from dataclasses import dataclass, field
from typing import Any

_SAMPLE = 8  # of each kind, since Redis does nothing else meanwhile
# Jobs that are due first, others at random, and those that were the oldest so far: since when each
# is under way. A message may hold attachments: a large one is not read.
_SINCE = """
local time, found = redis.call('TIME'), {}
local now_ms, sample = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[1])
local function look(id)
  if redis.call('HSTRLEN', KEYS[1], id) > 65536 then return end
  local text = redis.call('ZSCORE', KEYS[2], id) and redis.call('HGET', KEYS[1], id)
  local since_ms = text and tonumber(text:match('"keywheel": ?{[^}]-"since_ms": ?(%d+)'))
  if since_ms then found[#found + 1], found[#found + 2] = id, math.max(0, now_ms - since_ms) end
end
for place = 2, #ARGV do look(ARGV[place]) end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, sample - 1)) do look(id) end
for _, id in ipairs(redis.call('ZRANDMEMBER', KEYS[2], sample)) do look(id) end
return found
"""


@dataclass
class DeferredAge:
    """Looks at the deferred jobs of one priority again and again, and remembers the oldest of those it has seen.

    It reads a few dozen messages at a time, however many there are; what it tells is a lower bound,
    which gets better with each look.
    """

    _oldest: list[str] = field(default_factory=list)

    def look(self, client: Any, due: str, texts: str) -> float:
        """Look once.

        Args:
            client: A client of the broker's Redis.
            due: The sorted set of the jobs, by the instant at which each is due.
            texts: The hash of their messages.

        Returns:
            The oldest job has been under way at least so long, in seconds.
        """
        told = client.eval(_SINCE, 2, texts, due, _SAMPLE, *self._oldest)
        ages_ms = dict(zip(told[::2], told[1::2], strict=True))
        self._oldest = sorted(ages_ms, key=lambda job: -ages_ms[job])[:_SAMPLE]
        return max(ages_ms.values(), default=0) / 1000
