"""The knowledge of a provider, and of a careful reader of the pool's rules, in plain Python."""

from dataclasses import dataclass, field

from config.api_key import ApiKey

ACCOUNTS = ("org_a", "org_a", "org_b")
"""The accounts of the three keys."""
LIMIT = 60
"""Requests a minute of each account."""


@dataclass
class Model:
    """The knowledge of the provider and of a careful reader of the rules."""

    rests: dict[str, int] = field(default_factory=dict)  # scope → until (ms)
    disabled: set[str] = field(default_factory=set)  # ids of keys
    banned: set[str] = field(default_factory=set)  # accounts
    unfit: set[tuple[str, str]] = field(default_factory=set)  # ids of keys, each with a resource
    faults: int = 0  # consecutive failures of the host
    fault_ms: int = 0
    ok_ms: int = 0  # the last accepted call that was noted
    calls: dict[str, list[int]] = field(
        default_factory=lambda: {name: [] for name in ACCOUNTS}
    )  # starts (ms)
    tries: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(ACCOUNTS, 0)
    )  # calls beyond the limit
    put_off: set[str] = field(
        default_factory=set
    )  # ids of the leases that were open when a refusal corrected the level
    stated_ms: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(ACCOUNTS, 0)
    )  # when the provider last stated that less is left than the pool assumed

    def blocked_until(self, key_id: str, account: str) -> int:
        scopes = (f"key {key_id}", f"account {account}", f"pair {account}", "host")
        return max(self.rests.get(scope, 0) for scope in scopes)

    def serves(self, key: ApiKey, *, resource: str = "") -> bool:
        """Whether the key can serve again without a person."""
        unfit = (key.id, resource) in self.unfit
        return not (unfit or key.id in self.disabled or key.account in self.banned)

    def host_failed(self, now_ms: int) -> bool:
        """Note a failure of the host. One a second counts; two in a row make it rest.

        Return whether a new rest begins.
        """
        if now_ms - self.fault_ms < 1_000 or self.rests.get("host", 0) > now_ms:
            return False
        self.faults, self.fault_ms = self.faults + 1, now_ms
        if self.faults < 2:
            return False
        self.rests["host"] = now_ms + min(int(1_000 * 1.125 ** (self.faults - 2)), 10_000)
        return True

    def accepted(self, now_ms: int) -> None:
        """Note that the host works, at most four times a second."""
        self.faults = 0
        if now_ms - self.ok_ms >= 250:
            self.ok_ms = now_ms

    def drop_call(self, account: str, start_ms: int) -> None:
        """Forget a call. If several began at one instant, any of them may be forgotten."""
        calls = self.calls[account]
        calls.remove(min(calls, key=lambda at_ms: abs(at_ms - start_ms)))

    def overdraft(self, account: str, since_ms: int, *, without: list[int]) -> float:
        """The lowest level of the true bucket, for the calls in the order of their starts.

        `without` has the starts of calls that are put off before they begin.
        """
        level, at_ms, lowest = float(LIMIT), since_ms, float(LIMIT)
        calls = sorted(self.calls[account])
        for start_ms in without:
            calls.remove(min(calls, key=lambda at_ms, start_ms=start_ms: abs(at_ms - start_ms)))
        for start_ms in calls:
            level = min(LIMIT, level + (start_ms - at_ms) * LIMIT / 60_000) - 1
            at_ms, lowest = start_ms, min(lowest, level)
        return lowest

    def level(self, account: str, since_ms: int, until_ms: int) -> float:
        """The level of the true bucket at an instant after the last reserved call."""
        level, at_ms = float(LIMIT), since_ms
        for start_ms in sorted(self.calls[account]):
            level, at_ms = min(LIMIT, level + (start_ms - at_ms) * LIMIT / 60_000) - 1, start_ms
        return min(LIMIT, level + max(0, until_ms - at_ms) * LIMIT / 60_000)
