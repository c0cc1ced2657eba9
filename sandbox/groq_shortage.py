"""Groq's rate limits for one call: which bucket is short, and the headers about them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.accounts import ModelBuckets
from sandbox.groq_errors import Dimension
from sandbox.limits import Bucket, go_duration


@dataclass(frozen=True, slots=True)
class Shortage:
    """A bucket that has too little for a call, and how long it takes to have enough."""

    wait_s: float
    dimension: Dimension
    limit: int
    used: int
    requested: int


def worst_shortage(
    charges: Iterable[tuple[Dimension, Bucket | None, int]], now_s: float
) -> Shortage | None:
    """Return the bucket that makes a call wait longest, or None."""
    worst = None
    for dimension, bucket, amount in charges:
        wait_s = 0.0 if bucket is None else bucket.wait_s(now_s, amount)
        if bucket is not None and wait_s and (worst is None or wait_s > worst.wait_s):
            used = math.ceil(round(bucket.used_at(now_s), 6))
            worst = Shortage(wait_s, dimension, int(bucket.limit), used, amount)
    return worst


def give_back(buckets: ModelBuckets, now_s: float, tokens: int) -> None:
    """Give the tokens that a call reserved and did not use back to its buckets."""
    for bucket in (buckets.tpm, buckets.tpd, buckets.otpm):
        if bucket is not None:
            bucket.take(now_s, -tokens)


def rate_limit_headers(buckets: ModelBuckets, now_s: float, request_id: str) -> dict[str, str]:
    """Return the headers of two limits: requests a day, and tokens a minute."""
    headers = {"x-request-id": request_id, "x-groq-region": "sandbox"}
    for name, bucket in (("requests", buckets.rpd), ("tokens", buckets.tpm)):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(int(bucket.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining(now_s))
            headers[f"x-ratelimit-reset-{name}"] = go_duration(bucket.reset_s(now_s))
    return headers
