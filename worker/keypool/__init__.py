"""Decides in Redis, atomically and for all workers together, which key may make a call now."""

from worker.keypool.by_hand import Disabled
from worker.keypool.cooldowns import CooldownPolicy
from worker.keypool.leases import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.keypool.pool import HORIZON_MS, TENANT_HORIZON_MS, KeyPool
from worker.keypool.published_keys import publish_keys, published_keys
from worker.keypool.resets import HeldBlock, ResetDone
from worker.keypool.scripts import Settled
from worker.keypool.settlement import outcome_of
from worker.keypool.snapshot import BlockView, BucketView, KeyView, PoolView

__all__ = [
    "HORIZON_MS",
    "TENANT_HORIZON_MS",
    "BlockView",
    "BucketView",
    "CooldownPolicy",
    "Disabled",
    "HeldBlock",
    "KeyPool",
    "KeyView",
    "Lease",
    "LeaseRequest",
    "Line",
    "NoLease",
    "NoLeaseReason",
    "PoolView",
    "ResetDone",
    "Settled",
    "outcome_of",
    "publish_keys",
    "published_keys",
]
