"""Measures how long the deferred jobs of a queue have waited."""

from dataclasses import dataclass, field
from typing import Any

_SAMPLE = 8  # jobs of each kind: a script blocks Redis while it reads them
# Returns job ids and ages of three kinds of jobs: those due first, some at random, and those whose
# ids are given (the oldest so far). Large messages, which may hold attachments, are not read.
_SAMPLE_AGES = """
local time, ages = redis.call('TIME'), {}
local now_ms, sample = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[1])
local function add_age(id)
  if redis.call('HSTRLEN', KEYS[1], id) > 65536 then return end
  local text = redis.call('ZSCORE', KEYS[2], id) and redis.call('HGET', KEYS[1], id)
  local since_ms = text and tonumber(text:match('"keywheel": ?{[^}]-"since_ms": ?(%d+)'))
  if since_ms then ages[#ages + 1], ages[#ages + 2] = id, math.max(0, now_ms - since_ms) end
end
for i = 2, #ARGV do add_age(ARGV[i]) end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, sample - 1)) do add_age(id) end
for _, id in ipairs(redis.call('ZRANDMEMBER', KEYS[2], sample)) do add_age(id) end
return ages
"""


@dataclass
class DeferredAge:
    """Samples the deferred jobs of one priority, and remembers the oldest jobs it has seen.

    Each measurement reads at most a few dozen messages, however many jobs there are. The result is
    a lower bound, which gets better with each measurement.
    """

    _oldest: list[str] = field(default_factory=list)

    def measure(self, client: Any, due: str, texts: str) -> float:
        """Measure once.

        Args:
            client: A client of the broker's Redis.
            due: The sorted set of the jobs, by the instant at which each is due.
            texts: The hash of their messages.

        Returns:
            Lower bound of the time since the oldest job began, in seconds.
        """
        reply = client.eval(_SAMPLE_AGES, 2, texts, due, _SAMPLE, *self._oldest)
        ages_ms = dict(zip(reply[::2], reply[1::2], strict=True))
        self._oldest = sorted(ages_ms, key=lambda job: -ages_ms[job])[:_SAMPLE]
        return max(ages_ms.values(), default=0) / 1000
