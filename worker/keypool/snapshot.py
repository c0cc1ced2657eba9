"""Describes a pool at one instant, for people: the state of each key, its reason and its end."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from config.api_key import ApiKey
from worker.foreign_json import as_object
from worker.keypool.names import BlockedScope


@dataclass(frozen=True, slots=True)
class BucketView:
    """One limit of one account (and model).

    Attributes:
        model: The model that the limit applies to; empty if the service has none.
        dimension: The dimension (`rpm`, `tpm`, …).
        limit: How much a full window allows.
        remaining: How much is left now; below 0 if calls are reserved ahead.
        window_ms: The window in milliseconds.
        full_in_ms: In how many milliseconds a quota is full again; None: it refills continuously.
    """

    model: str
    dimension: str
    limit: float
    remaining: float
    window_ms: int
    full_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block that keeps a key from all calls, or from those for one model or resource.

    Attributes:
        scope: The kind of scope: `key`, `account`, `account_model`, `key_resource`, `model` or
            `host`.
        name: The model or resource if the scope has one, else empty.
        state: `cooling`, `disabled` (until a person resets it, or for a time that a person gave),
            or `unfit`: the account does not have the model.
        reason: The reason of the block.
        since_ms: When the block began, in milliseconds since 1970.
        left_ms: How much longer the block lasts, in milliseconds; None: until a person acts.
        from_tokens: The block holds for jobs of this number of tokens or more; 0: for all jobs.
        disabled_by: The person who disabled the scope; empty for a rest, and if the provider
            refused the key.
    """

    scope: str
    name: str
    state: str
    reason: str
    since_ms: int
    left_ms: int | None
    from_tokens: int = 0
    disabled_by: str = ""


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key. `state` is `ready`, `cooling` (a scope that covers it rests) or `disabled`.

    Two kinds of blocks do not change the state, because the key is not asked for what they cover:
    a model that its account does not have (`unfit`), and a from-domain of another team.
    """

    id: str
    label: str
    variable: str
    account: str
    state: str
    blocks: tuple[BlockView, ...]
    in_flight: int
    calls: int
    accepted: int
    refused: int
    faults: int
    rejected: int
    tokens: int
    used_ms: int
    buckets: tuple[BucketView, ...]
    note: str = ""

    @property
    def reason(self) -> str:
        """Why the key does not serve: the reason of the block that `left_ms` belongs to.

        Empty if the key serves.
        """
        if self.state == "ready" or not self._rests:
            return ""
        ends = self.left_ms is not None
        counted = [rest for rest in self._rests if not ends or rest.left_ms is not None]
        return max(counted, key=_holds_ms).reason

    @property
    def left_ms(self) -> int | None:
        """In how many milliseconds the key serves again; 0: now; None: not until a person acts."""
        if self.state == "ready":
            return 0
        ends_ms = [block.left_ms for block in self._rests if block.left_ms is not None]
        endless = any(
            block.left_ms is None and block.scope in {"key", "account", "host"}
            for block in self._rests
        )
        return None if endless else max(ends_ms, default=None)

    @property
    def _rests(self) -> list[BlockView]:
        return [block for block in self.blocks if block.state != "unfit"]


@dataclass(frozen=True, slots=True)
class PoolView:
    """One service's pool at one instant: `now_ms` by the pool's clock, `redis_ms` by Redis'."""

    service: str
    now_ms: int
    keys: tuple[KeyView, ...]
    redis_ms: int = 0

    @property
    def failed(self) -> int:
        """The number of keys that do not serve now."""
        return sum(key.state != "ready" for key in self.keys)

    @property
    def paused(self) -> bool:
        """Whether a person has paused the service."""
        blocks = (block for key in self.keys for block in key.blocks)
        return any(block.scope == "host" and block.disabled_by for block in blocks)

    def summary(self) -> dict[str, Any]:
        """Return only the counts, which are few enough for a worker's stats and for an event."""
        states = [key.state for key in self.keys]
        return {
            "keys": len(states),
            "ready": states.count("ready"),
            "cooling": states.count("cooling"),
            "disabled": states.count("disabled"),
            "in_flight": sum(key.in_flight for key in self.keys),
            "calls": sum(key.calls for key in self.keys),
            "refused": sum(key.refused for key in self.keys),
        }

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types, with the `reason` and `left_ms` of each key."""
        keys = [asdict(key) | {"reason": key.reason, "left_ms": key.left_ms} for key in self.keys]
        return {
            "service": self.service,
            "now_ms": self.now_ms,
            "summary": self.summary(),
            "keys": keys,
        }


def parse(
    seen: Mapping[str, Any],
    *,
    service: str,
    keys: tuple[ApiKey, ...],
    accounts: Mapping[str, str],
    models: tuple[str, ...],
) -> PoolView:
    """Parse the reply of snapshot.lua: for each key its record, then one record for each model."""
    now_ms = int(seen["now_ms"])
    records = iter(seen["records"])
    blocks = _current(seen["blocks"], now_ms)
    views = []
    for key in keys:
        record, account = next(records), accounts[key.id]
        pairs = [(model, next(records)) for model in models]
        covering = tuple(
            _block_of(scope, block, now_ms)
            for scope, block in blocks
            if scope.owner in {"", key.id, account}
        )
        buckets = tuple(bucket for pair in pairs for bucket in _buckets(*pair, now_ms))
        views.append(
            _view_of(
                key,
                account=account,
                record=record,
                buckets=buckets,
                models={model for model, _ in pairs},
                blocks=covering,
            )
        )
    return PoolView(service, now_ms, tuple(views), int(seen["redis_ms"]))


def _current(blocks: Any, now_ms: int) -> list[tuple[BlockedScope, dict[str, Any]]]:
    """Return the blocks that have not ended, in the order in which they are shown."""
    return [
        (BlockedScope.parse(field), block)
        for field, block in sorted(dict(blocks).items(), key=_rank)
        if block["until_ms"] < 0 or block["until_ms"] > now_ms
    ]


def _rank(item: tuple[str, Any]) -> tuple[int, str]:
    """Return the sort key of a block: blocks of the key itself come first."""
    kinds = "person", "key", "account", "key_resource", "account_model", "host", "model", "unfit"
    return kinds.index(BlockedScope.parse(item[0]).kind), item[0]


def _state_of(blocks: tuple[BlockView, ...], models: set[str]) -> str:
    """Return the state of a key as a whole."""
    if any(block.state == "disabled" and block.scope in {"key", "account"} for block in blocks):
        return "disabled"
    # A team that has not verified one from-domain still serves its other domains.
    rests = any(
        block.scope != "key_resource" or block.state != "disabled" or block.name in models
        for block in blocks
        if block.state != "unfit"
    )
    return "cooling" if rests else "ready"


def _view_of(
    key: ApiKey,
    *,
    account: str,
    record: dict[str, Any],
    buckets: tuple[BucketView, ...],
    models: set[str],
    blocks: tuple[BlockView, ...],
) -> KeyView:
    ended = {how: int(record.get(how, 0)) for how in ("ok", "refused", "fault", "rejected")}
    return KeyView(
        id=key.id,
        label=key.label,
        variable=key.variable,
        account=account,
        state=_state_of(blocks, models),
        blocks=blocks,
        in_flight=int(record.get("in_flight", 0)),
        calls=sum(ended.values()),
        accepted=ended["ok"],
        refused=ended["refused"],
        faults=ended["fault"],
        rejected=ended["rejected"],
        tokens=int(record.get("tokens", 0)),
        used_ms=int(record.get("used_ms", 0)),
        buckets=buckets,
        note=str(record.get("note", "")),
    )


def _buckets(model: str, fields: dict[str, Any], now_ms: int) -> Iterator[BucketView]:
    for dimension, bucket in sorted(as_object(fields.get("buckets")).items()):
        ends_ms = bucket.get("ends_ms")
        yield BucketView(
            model=model,
            dimension=dimension,
            limit=bucket["limit"],
            remaining=_remaining(bucket, now_ms),
            window_ms=int(bucket["window_ms"]),
            full_in_ms=None if ends_ms is None else int(ends_ms) - now_ms,
        )


def _remaining(bucket: Mapping[str, Any], now_ms: int) -> float:
    """Return how much is left now; scripts keep the calls of a window for longer than it lasts."""
    if "log" not in bucket:
        return float(bucket["level"])
    return float(bucket["limit"] - sum(at + bucket["window_ms"] > now_ms for at in bucket["log"]))


def _holds_ms(block: BlockView) -> float:
    return math.inf if block.left_ms is None else block.left_ms


def _block_of(scope: BlockedScope, block: dict[str, Any], now_ms: int) -> BlockView:
    endless = block["until_ms"] < 0
    return BlockView(
        scope=scope.shown_kind,
        name=scope.resource,
        state=scope.state(endless=endless),
        reason=block.get("words", block["reason"]),
        since_ms=int(block["since_ms"]),
        left_ms=None if endless else int(block["until_ms"]) - now_ms,
        from_tokens=int(block.get("from_tokens", 0)),
        disabled_by=block["by"] if scope.kind == "person" else "",
    )
