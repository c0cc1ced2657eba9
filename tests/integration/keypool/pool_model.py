"""What a provider and a careful reader of the pool's rules know, in plain Python."""

from dataclasses import dataclass, field

from config.api_key import ApiKey

ACCOUNTS = ("org_a", "org_a", "org_b")
"""Of the three keys."""
LIMIT = 60
"""Requests a minute of each account."""


@dataclass
class Model:
    """What the provider and a careful reader of the rules know."""

    rests: dict[str, int] = field(default_factory=dict)  # scope → until (ms)
    disabled: set[str] = field(default_factory=set)  # ids of keys
    banned: set[str] = field(default_factory=set)  # accounts
    unfit: set[tuple[str, str]] = field(default_factory=set)  # ids of keys, each with a resource
    faults: int = 0  # of the host, in a row
    fault_ms: int = 0
    ok_ms: int = 0  # when a call was accepted last, as far as that was noted
    calls: dict[str, list[int]] = field(
        default_factory=lambda: {name: [] for name in ACCOUNTS}
    )  # starts (ms)
    tries: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(ACCOUNTS, 0)
    )  # calls beyond the limit
    put_off: set[str] = field(
        default_factory=set
    )  # ids of leases that were out when a refusal corrected the level
    stated_ms: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(ACCOUNTS, 0)
    )  # when the provider last stated that less is left than the pool assumed

    def blocked_until(self, key_id: str, account: str) -> int:
        scopes = (f"key {key_id}", f"account {account}", f"pair {account}", "host")
        return max(self.rests.get(scope, 0) for scope in scopes)

    def serves(self, key: ApiKey, *, resource: str = "") -> bool:
        """No person is needed before it serves again."""
        unfit = (key.id, resource) in self.unfit
        return not (unfit or key.id in self.disabled or key.account in self.banned)

    def host_failed(self, now_ms: int) -> bool:
        """One failure a second counts, and from the second in a row on the host rests.

        Whether it rests anew.
        """
        if now_ms - self.fault_ms < 1_000 or self.rests.get("host", 0) > now_ms:
            return False
        self.faults, self.fault_ms = self.faults + 1, now_ms
        if self.faults < 2:
            return False
        self.rests["host"] = now_ms + min(int(1_000 * 1.125 ** (self.faults - 2)), 10_000)
        return True

    def accepted(self, now_ms: int) -> None:
        """The host works. That is noted at most four times a second."""
        self.faults = 0
        if now_ms - self.ok_ms >= 250:
            self.ok_ms = now_ms

    def drop_call(self, account: str, start_ms: int) -> None:
        """Forget a call. Of several that began at one instant it does not matter which."""
        calls = self.calls[account]
        calls.remove(min(calls, key=lambda at_ms: abs(at_ms - start_ms)))

    def overdraft(self, account: str, since_ms: int, *, without: list[int]) -> float:
        """The lowest level of the true bucket, for the calls in the order of their starts.

        `without` has the starts of those that are put off before they begin.
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
        """The level of the true bucket at an instant, once all reserved calls have gone."""
        level, at_ms = float(LIMIT), since_ms
        for start_ms in sorted(self.calls[account]):
            level, at_ms = min(LIMIT, level + (start_ms - at_ms) * LIMIT / 60_000) - 1, start_ms
        return min(LIMIT, level + max(0, until_ms - at_ms) * LIMIT / 60_000)
