"""Estimates when the Nth call from now may start with the keys of a pool, and what limits it.

The estimates are for people: pure arithmetic on a snapshot (`PoolView`). Nothing is reserved.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from worker.keypool.snapshot import BlockView, BucketView, KeyView, PoolView
from worker.verdicts import Dimension

_DAY_MS: Final = 86_400_000
_LONGEST_S: Final = 7 * 86_400.0
WORKERS: Final = "workers"
"""The limit of jobs that do not wait for a key."""
NO_KEY: Final = "no key"
"""The limit of jobs that no key can serve until a person acts."""
PAUSED: Final = "paused"
"""The limit of jobs whose service a person paused."""
DISABLED: Final = "disabled"
"""The limit of jobs whose keys a person disabled for a time."""


@dataclass(frozen=True, slots=True)
class CallCost:
    """The average cost of one call of the jobs that wait.

    Attributes:
        model: The model of the jobs; empty if the service has none.
        tokens: Tokens of the prompt and the answer together.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        emails: Recipients.
    """

    model: str = ""
    tokens: float = 0
    input_tokens: float = 0
    output_tokens: float = 0
    emails: float = 0

    def in_dimension(self, dimension: str) -> float:
        """Return how much of a limit of this dimension the call uses."""
        match dimension:
            case Dimension.TPM | Dimension.TPD:
                return self.tokens
            case Dimension.ITPM:
                return self.input_tokens
            case Dimension.OTPM:
                return self.output_tokens
            case Dimension.EMAILS_DAY | Dimension.EMAILS_MONTH:
                return self.emails
        return 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of when a job may start, or when a backlog may be empty.

    Attributes:
        in_s: In how many seconds; None: not before a person acts, or in more than a week.
        limited_by: The cause of the wait: a dimension such as `rpm` or `tpm`, the reason of a rest,
            `paused` or `disabled` by a person, `workers` if the keys have room, `no key`, or empty
            if nothing has to wait.
    """

    in_s: float | None
    limited_by: str = ""


@dataclass(frozen=True, slots=True)
class _Limit:
    """One limit, counted in calls: how many are left now, fit at most, and refill per second."""

    name: str
    calls: float
    most: float
    per_s: float
    quota_ends_s: float | None

    def within(self, seconds: float, *, opens_s: float) -> float:
        if self.quota_ends_s is None:
            # A full bucket does not refill further while no call may be made.
            at_first = min(self.most, self.calls + self.per_s * opens_s)
            return at_first + self.per_s * (seconds - opens_s)
        ended = 0 if seconds < self.quota_ends_s else 1 + (seconds - self.quota_ends_s) // 86_400
        return self.calls + self.per_s * 86_400 * ended


@dataclass(frozen=True, slots=True)
class _Account:
    """An account: when it opens, why it is closed until then, and its limits."""

    opens_s: float
    reason: str
    limits: Sequence[_Limit]

    def within(self, seconds: float) -> float:
        """Return how many calls the account allows within a time; infinite if no limit is known."""
        if seconds < self.opens_s:
            return 0.0
        calls = (limit.within(seconds, opens_s=self.opens_s) for limit in self.limits)
        return max(0.0, min(calls, default=math.inf))

    def tightest(self, seconds: float) -> str:
        """Return the limit or rest that keeps the account from more calls within a time."""
        if seconds < self.opens_s:
            return self.reason
        return min(self.limits, key=lambda limit: limit.within(seconds, opens_s=self.opens_s)).name


class Forecast:
    """Estimates for jobs of one kind, from a snapshot of their pool.

    Args:
        view: The snapshot.
        cost: The cost of a call of these jobs.
        workers_per_s: How many of these jobs the workers start in a second, measured while no job
            waits for a key. None: jobs wait for keys, so the workers are fast enough.
    """

    def __init__(
        self, view: PoolView, cost: CallCost, *, workers_per_s: float | None = None
    ) -> None:
        self._accounts: Final = list(_accounts_of(view, cost))
        blocks = [block for key in view.keys for block in key.blocks]
        pauses = (_why(block) == PAUSED and block.left_ms is None for block in blocks)
        self._without_accounts: Final = PAUSED if any(pauses) else NO_KEY
        self._workers_per_s: Final = workers_per_s

    def calls_within(self, seconds: float) -> float:
        """Return how many calls may start within a time; infinite if no limit is known yet."""
        return sum(account.within(seconds) for account in self._accounts)

    def call(self, number: int) -> Estimate:
        """Estimate when the Nth call from now may start.

        Args:
            number: 1 for the next one; the place of a job in line, or the size of a backlog.
        """
        by_keys = self._by_keys(number)
        if not self._workers_per_s or by_keys.in_s is None:
            return by_keys
        by_workers_s = number / self._workers_per_s
        return Estimate(by_workers_s, WORKERS) if by_workers_s > by_keys.in_s else by_keys

    def _by_keys(self, number: int) -> Estimate:
        if self.calls_within(0) >= number:
            return Estimate(0.0)
        if self.calls_within(_LONGEST_S) < number:
            return Estimate(None, self._limit_at(_LONGEST_S))
        early_s, late_s = 0.0, _LONGEST_S
        while late_s - early_s > max(0.01, late_s / 10_000):
            middle_s = (early_s + late_s) / 2
            if self.calls_within(middle_s) >= number:
                late_s = middle_s
            else:
                early_s = middle_s
        return Estimate(late_s, self._limit_at(early_s))

    def _limit_at(self, seconds: float) -> str:
        """Return the limit that keeps most accounts from more calls within a time."""
        names = [account.tightest(seconds) for account in self._accounts]
        return max(names, key=names.count) if names else self._without_accounts


def usual_tokens(view: PoolView) -> float:
    """Return how many tokens an accepted call used on average; 0 before the first one."""
    accepted = sum(key.accepted for key in view.keys)
    return sum(key.tokens for key in view.keys) / accepted if accepted else 0.0


def _accounts_of(view: PoolView, cost: CallCost) -> Iterator[_Account]:
    """Yield the accounts that can serve such a job without a person's help, now or later."""
    keys: dict[str, list[KeyView]] = {}
    for key in view.keys:
        keys.setdefault(key.account, []).append(key)
    for shared in keys.values():
        opens = [_opens(key, cost.model) for key in shared]
        usable = [opening for opening in opens if opening[0] < math.inf]
        if usable:
            opens_s, reason = min(usable)
            buckets = [bucket for bucket in shared[0].buckets if bucket.model == cost.model]
            yield _Account(opens_s, reason, list(_limits_of(buckets, cost)))


def _opens(key: KeyView, model: str) -> tuple[float, str]:
    """Return in how many seconds a key may be called for a model (infinite: never), and why."""
    blocks = [block for block in key.blocks if _covers(block, model)]
    return max(((_left_s(block), _why(block)) for block in blocks), default=(0.0, ""))


def _why(block: BlockView) -> str:
    """Return the reason of a block; for a person's, `paused` or `disabled` instead of the text."""
    if not block.disabled_by:
        return block.reason
    return PAUSED if block.scope == "host" else DISABLED


def _left_s(block: BlockView) -> float:
    return math.inf if block.left_ms is None else block.left_ms / 1000


def _covers(block: BlockView, model: str) -> bool:
    return block.scope in {"key", "account", "host"} or block.name in {"", model}


def _limits_of(buckets: Iterable[BucketView], cost: CallCost) -> Iterator[_Limit]:
    for bucket in buckets:
        calls = cost.in_dimension(bucket.dimension)
        if calls <= 0:
            continue
        ends_s = None if bucket.full_in_ms is None else bucket.full_in_ms / 1000
        # As in the pool, a quota of a month is assumed to be full again each day.
        window_ms = bucket.window_ms if ends_s is None else _DAY_MS
        per_s = bucket.limit / window_ms * 1000
        yield _Limit(
            bucket.dimension,
            bucket.remaining / calls,
            bucket.limit / calls,
            per_s / calls,
            ends_s,
        )
