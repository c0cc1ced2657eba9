"""The ledger: records all calls and their outcomes, and which calls violate a wait.

Counters are exact and grow with the number of keys, accounts and models only. Full records and the
evidence of the latest violations are kept in ring buffers. Idempotency keys are remembered up to a
large bound; `exact` says whether it was reached.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

from sandbox.accounts import Key
from sandbox.call import Call
from sandbox.tally import Tally
from sandbox.waits import Waits

_MAX_KEYS = 10_000
_MAX_IDEMPOTENCY_KEYS = 2_000_000
_MAX_VIOLATIONS = 200


class Ledger:
    """Records calls and judges the client.

    Args:
        clock: Seconds since the epoch.
        grace_ms: How long after a refusal a call may still arrive because it was in flight, in
            milliseconds.
        ring: How many full records are kept.
    """

    def __init__(
        self, clock: Callable[[], float], *, grace_ms: float = 250.0, ring: int = 100_000
    ) -> None:
        self._clock = clock
        self.grace_ms = grace_ms
        self._ring = ring
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls: deque[tuple[float, Call]] = deque(maxlen=self._ring)
        self._violations: deque[dict[str, Any]] = deque(maxlen=_MAX_VIOLATIONS)
        self._keys: dict[str, Tally] = {}
        self._accounts: dict[tuple[str, str, str], Tally] = {}
        self._services: dict[str, Tally] = {
            name: Tally("", name, "") for name in ("groq", "resend")
        }
        self._account_waits = Waits()
        self._key_waits = Waits()
        self._accepted_for: OrderedDict[str, list[str]] = OrderedDict()
        self._contents: OrderedDict[str, int] = OrderedDict()
        self._subjects: OrderedDict[str, list[str]] = OrderedDict()
        self._judgement: Counter[str] = Counter()
        self._worst_cooling_ms = 0.0
        self._exact = True

    def mark_working(self, key: Key) -> None:
        """Stop counting calls on a key as violations, because the key works again."""
        tally = self._keys.get(key.fingerprint)
        if tally is not None:
            tally.refused_s = 0.0

    def record(self, call: Call) -> None:
        """Judge a call by the waits in force when it arrived, then note its own wait."""
        now_s = self._clock()
        key = call.key
        tally = self._tally(key)
        scope, key_scope = (key.account.name, call.model), (key.fingerprint, call.model)
        self._judge(call, tally, scope, key_scope)
        if call.cool_until_s > now_s:
            self._account_waits.note(scope, now_s, call)
            self._key_waits.note(key_scope, now_s, call)
        if call.dead and not tally.refused_s:
            tally.refused_s = now_s
        tally.count(call)
        self._services[key.service].count(call)
        account_key = (key.service, *scope)
        account = self._accounts.get(account_key)
        if account is None:
            account = self._accounts[account_key] = Tally(call.model, key.service, key.account.name)
        account.count(call)
        if call.accepted and not call.delivered:
            self._judgement["accepted_but_answer_lost"] += 1
        if call.accepted and call.emails:
            self._count_emails(call)
        self._calls.append((now_s, call))

    def _tally(self, key: Key) -> Tally:
        tally = self._keys.get(key.fingerprint)
        if tally is None:
            if len(self._keys) >= _MAX_KEYS:
                self._exact = False
                return self._keys.setdefault("others", Tally("others", key.service, ""))
            tally = self._keys[key.fingerprint] = Tally(key.label, key.service, key.account.name)
        return tally

    def _judge(
        self, call: Call, tally: Tally, scope: tuple[str, str], key_scope: tuple[str, str]
    ) -> None:
        wait = self._account_waits.in_force(scope, call)
        if wait is not None:
            if self._is_late(call, wait.since_s):
                self._judgement["calls_while_cooling"] += 1
                tally.while_cooling += 1
                late_ms = (call.arrived_s - wait.since_s) * 1_000
                self._worst_cooling_ms = max(self._worst_cooling_ms, late_ms)
                self._violate(
                    "call_while_cooling", call, asked_s=wait.since_s, until_s=wait.until_s
                )
            elif call.arrived_s > wait.since_s:
                self._judgement["in_flight_while_cooling"] += 1
                tally.in_flight += 1
        wait = self._key_waits.in_force(key_scope, call)
        if wait is not None and self._is_late(call, wait.since_s):
            self._judgement["calls_while_cooling_same_key"] += 1
        if tally.refused_s:
            if self._is_late(call, tally.refused_s):
                self._judgement["calls_after_refusal"] += 1
                tally.after_refusal += 1
                self._violate("call_after_refusal", call, asked_s=tally.refused_s)
            elif call.arrived_s > tally.refused_s:
                self._judgement["in_flight_after_refusal"] += 1
                tally.in_flight += 1

    def _is_late(self, call: Call, asked_s: float) -> bool:
        """Whether a call came too late to have been in flight when the client was asked to wait."""
        return call.arrived_s > asked_s + self.grace_ms / 1_000

    def _count_emails(self, call: Call) -> None:
        self._judgement["emails_accepted"] += len(call.emails)
        self._judgement["recipients_accepted"] += call.recipients
        if call.idempotency_key:
            accounts = self._accepted_for.setdefault(call.idempotency_key, [])
            accounts.append(call.key.account.name)
            if len(accounts) > 1:
                self._judgement["emails_accepted_twice"] += 1
                self._violate("email_accepted_twice", call, accounts=list(accounts))
        else:
            self._judgement["emails_without_idempotency_key"] += 1
        for content in call.contents:
            self._contents[content] = count = self._contents.get(content, 0) + 1
            if count > 1:
                self._judgement["content_accepted_twice"] += 1
        for subject in call.subjects:
            self._subjects.setdefault(subject, []).append(call.key.account.name)
        for memory in (self._accepted_for, self._contents, self._subjects):
            if len(memory) > _MAX_IDEMPOTENCY_KEYS:
                memory.popitem(last=False)
                self._exact = False

    def _violate(
        self,
        kind: str,
        call: Call,
        *,
        asked_s: float | None = None,
        until_s: float | None = None,
        accounts: list[str] | None = None,
    ) -> None:
        evidence: dict[str, Any] = {"kind": kind, **call.as_dict()}
        if asked_s is not None:
            evidence["ms_after_told"] = round((call.arrived_s - asked_s) * 1_000, 1)
        if until_s is not None:
            evidence["ms_too_early"] = round((until_s - call.arrived_s) * 1_000, 1)
        if accounts is not None:
            evidence["accounts"] = accounts
        self._violations.append(evidence)

    def summary(self) -> dict[str, Any]:
        """All counters and the judgement, in JSON types."""
        keys = {}
        for name, tally in self._keys.items():
            keys[name] = tally.as_dict() | {
                "calls_while_cooling": tally.while_cooling,
                "calls_after_refusal": tally.after_refusal,
                "calls_in_flight_when_told": tally.in_flight,
                "refused": bool(tally.refused_s),
            }
        names = (
            "calls_while_cooling",
            "calls_while_cooling_same_key",
            "in_flight_while_cooling",
            "calls_after_refusal",
            "in_flight_after_refusal",
            "emails_accepted",
            "recipients_accepted",
            "emails_accepted_twice",
            "emails_without_idempotency_key",
            "content_accepted_twice",
            "accepted_but_answer_lost",
        )
        return {
            "judgement": {name: self._judgement[name] for name in names}
            | {
                "worst_while_cooling_ms": round(self._worst_cooling_ms, 1),
                "grace_ms": self.grace_ms,
                "exact": self._exact,
            },
            "services": {
                name: {
                    k: v
                    for k, v in tally.as_dict().items()
                    if k not in {"label", "account", "service"}
                }
                for name, tally in self._services.items()
            },
            "keys": keys,
            "accounts": [
                {"model": tally.label, **{k: v for k, v in tally.as_dict().items() if k != "label"}}
                for tally in self._accounts.values()
            ],
            "violations": list(self._violations),
        }

    def mail(self) -> dict[str, list[str]]:
        """The accounts that accepted emails of each subject, once for each email."""
        return dict(self._subjects)

    def full(self) -> list[dict[str, Any]]:
        """The latest records, oldest first."""
        return [{"decided_s": round(now_s, 4), **call.as_dict()} for now_s, call in self._calls]
