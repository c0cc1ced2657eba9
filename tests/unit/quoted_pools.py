"""Key pools with one key, for quotes, and instants as seconds from now."""

from datetime import UTC, datetime

from worker.keypool import BucketView, KeyView, PoolView

NOON_MS = 1_800_014_400_000  # 12:00 UTC
PER_S = {"rpm": 60_000, "tpm": 60_000, "rps": 1_000, "epd": 86_400_000}
TO_MIDNIGHT_MS = {"epd": 43_200_000}


def pool(service: str, *buckets: tuple[str, float, float], **counts: int) -> PoolView:
    model = "m" if service == "groq" else ""
    names = ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens", "used_ms")
    key = KeyView(
        id="a", label="a", variable="", account="a", state="ready", blocks=(),
        buckets=tuple(
            BucketView(model, name, limit, left, PER_S[name], TO_MIDNIGHT_MS.get(name))
            for name, limit, left in buckets
        ),
        **(dict.fromkeys(names, 0) | counts),
    )  # fmt: skip
    return PoolView(service, NOON_MS, (key,))


def in_s(instant: str | None) -> float:
    assert instant is not None
    return (datetime.fromisoformat(instant) - datetime.now(UTC)).total_seconds()
