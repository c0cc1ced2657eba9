"""Loads the Lua scripts of the transport from `lua/`, as Redis runs them.

The transport moves messages between the queues' lists and kombu's two keys for unacknowledged
messages: a hash of entries by delivery tag, and an index of the instants at which they were taken.
kombu puts back an entry that is older than the visibility timeout. At every instant a message must
be either in a list or in the hash; these scripts move it from one to the other.

The transport adds two keys. The leases hold, for each entry, the instant of the server's clock from
which its worker is presumed dead unless it renews the lease; 0 if the worker has released the
message. The pulse holds when any worker was last alive. If that is long ago, the server itself was
away, and no worker is presumed dead before all have had time to renew.
"""

from typing import Final

from worker.aio.lua_source import source

_PACKAGE: Final = "worker.aio.transport"

TAKE: Final = source(_PACKAGE, "take")
GIVE_BACK: Final = source(_PACKAGE, "give_back")
FORGET: Final = source(_PACKAGE, "forget")
UPDATE_ENTRY: Final = source(_PACKAGE, "update_entry")
RENEW: Final = source(_PACKAGE, "renew")
EXPIRED: Final = source(_PACKAGE, "expired")
DELAY: Final = source(_PACKAGE, "delay")
WAKE: Final = source(_PACKAGE, "wake")
WAKE_SOME: Final = source(_PACKAGE, "wake_some")
PEEK: Final = source(_PACKAGE, "peek")
FIND: Final = source(_PACKAGE, "find")
SHARE: Final = source(_PACKAGE, "share")
CHARGE: Final = source(_PACKAGE, "charge")
COUNT_PARKED: Final = source(_PACKAGE, "count_parked")
DROP_PARKED: Final = source(_PACKAGE, "drop_parked")
