"""The key pool: which key may make a call now, decided atomically in Redis for every worker at once."""

from worker.keypool.leases import NO_TICKET, Lease, Unavailable, Want, Why
from worker.keypool.pool import Cooldowns, KeyPool, Settled
from worker.keypool.resets import HeldBlock, ResetDone
from worker.keypool.snapshot import BlockView, BucketView, KeyView, PoolView

__all__ = [
    "NO_TICKET",
    "BlockView",
    "BucketView",
    "Cooldowns",
    "HeldBlock",
    "KeyPool",
    "KeyView",
    "Lease",
    "PoolView",
    "ResetDone",
    "Settled",
    "Unavailable",
    "Want",
    "Why",
]
