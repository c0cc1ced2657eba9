"""The judge.

What was accepted and refused, and which calls a well-behaved client would not have made.

Counters are exact and grow with the number of keys, accounts and models only; full records and the
evidence of the last violations are kept in rings. Idempotency keys are remembered up to a large
bound; `exact` says whether it was passed.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.accounts import Key

_MOST_KEYS = 10_000
_MOST_IDEMPOTENCY_KEYS = 2_000_000
_VIOLATIONS = 200
_EARLY_S = 0.001
"""Clients count in whole milliseconds, so a call less than one too early is on time."""


@dataclass(slots=True)
class Call:
    """One call and how it was decided.

    Attributes:
        arrived_s: When its headers were read.
        key: Whose call it was.
        model: The model (Groq); empty for Resend.
        status: The status decided, 0 where the client gets no answer at all.
        code: The error's short name, `ok`, or the fault's kind.
        accepted: The work was done: a completion made, an email taken.
        delivered: The client gets a whole answer.
        tokens: What it used (Groq).
        requested: What it asked for, in tokens (Groq).
        idempotency_key: As the client sent it.
        replayed: An answer given before was given again.
        emails: The ids of accepted emails.
        recipients: How many recipients they have.
        contents: A fingerprint of each accepted email, over all accounts the same.
        subjects: The subject of each accepted email.
        cool_until_s: Where the answer tells the client to wait: until when.
        cool_tokens: The wait holds for calls that ask for so many tokens or more: smaller ones may
            fit before.
        dead: The answer says that this key will not work again.
    """

    arrived_s: float
    key: Key
    model: str = ""
    status: int = 200
    code: str = "ok"
    accepted: bool = False
    delivered: bool = True
    tokens: int = 0
    requested: int = 0
    idempotency_key: str = ""
    replayed: bool = False
    emails: tuple[str, ...] = ()
    recipients: int = 0
    contents: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    cool_until_s: float = 0.0
    cool_tokens: int = 0
    dead: bool = False


@dataclass(slots=True)
class _Told:
    since_s: float
    until_s: float
    tokens: int


@dataclass(slots=True)
class _Tally:
    label: str
    service: str
    account: str
    calls: int = 0
    accepted: int = 0
    tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    while_cooling: int = 0
    after_refusal: int = 0
    in_flight: int = 0
    refused_s: float = 0.0

    def count(self, call: Call) -> None:
        self.calls += 1
        self.first_s = self.first_s or call.arrived_s
        self.last_s = max(self.last_s, call.arrived_s)
        self.statuses[call.status] += 1
        self.codes[call.code] += 1
        self.tokens += call.tokens
        if call.accepted:
            self.accepted += 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "service": self.service,
            "account": self.account,
            "calls": self.calls,
            "accepted": self.accepted,
            "tokens": self.tokens,
            "first_s": round(self.first_s, 3),
            "last_s": round(self.last_s, 3),
            "by_status": {str(status): count for status, count in sorted(self.statuses.items())},
            "by_code": dict(self.codes),
        }


class Ledger:
    """Takes one record per call.

    Args:
        clock: Seconds since the epoch.
        grace_ms: How long after a refusal a call may still arrive because it was under way, in
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
        self._violations: deque[dict[str, Any]] = deque(maxlen=_VIOLATIONS)
        self._keys: dict[str, _Tally] = {}
        self._accounts: dict[tuple[str, str, str], _Tally] = {}
        self._services: dict[str, _Tally] = {
            name: _Tally("", name, "") for name in ("groq", "resend")
        }
        self._told: dict[tuple[str, str], _Told] = {}
        self._told_key: dict[tuple[str, str], _Told] = {}
        self._accepted_for: OrderedDict[str, list[str]] = OrderedDict()
        self._contents: OrderedDict[str, int] = OrderedDict()
        self._subjects: OrderedDict[str, list[str]] = OrderedDict()
        self._judgement: Counter[str] = Counter()
        self._worst_cooling_ms = 0.0
        self._exact = True

    def forgive(self, key: Key) -> None:
        """The key works again: calls on it are no longer held against the client."""
        tally = self._keys.get(key.fingerprint)
        if tally is not None:
            tally.refused_s = 0.0

    def record(self, call: Call) -> None:
        """Judge a call by what was told before it arrived, then remember what it was told."""
        now_s = self._clock()
        key = call.key
        tally = self._tally(key)
        scope, key_scope = (key.account.name, call.model), (key.fingerprint, call.model)
        self._judge(call, tally, scope, key_scope)
        if call.cool_until_s > now_s:
            _tell(self._told, scope, now_s, call)
            _tell(self._told_key, key_scope, now_s, call)
        if call.dead and not tally.refused_s:
            tally.refused_s = now_s
        tally.count(call)
        self._services[key.service].count(call)
        place = (key.service, *scope)
        account = self._accounts.get(place)
        if account is None:
            account = self._accounts[place] = _Tally(call.model, key.service, key.account.name)
        account.count(call)
        if call.accepted and not call.delivered:
            self._judgement["accepted_but_answer_lost"] += 1
        if call.accepted and call.emails:
            self._count_emails(call)
        self._calls.append((now_s, call))

    def _tally(self, key: Key) -> _Tally:
        tally = self._keys.get(key.fingerprint)
        if tally is None:
            if len(self._keys) >= _MOST_KEYS:
                self._exact = False
                return self._keys.setdefault("others", _Tally("others", key.service, ""))
            tally = self._keys[key.fingerprint] = _Tally(key.label, key.service, key.account.name)
        return tally

    def _judge(
        self, call: Call, tally: _Tally, scope: tuple[str, str], key_scope: tuple[str, str]
    ) -> None:
        told = _running(self._told, scope, call)
        if told is not None:
            if self._is_late(call, told.since_s):
                self._judgement["calls_while_cooling"] += 1
                tally.while_cooling += 1
                late_ms = (call.arrived_s - told.since_s) * 1_000
                self._worst_cooling_ms = max(self._worst_cooling_ms, late_ms)
                self._violate("call_while_cooling", call, told_s=told.since_s, until_s=told.until_s)
            elif call.arrived_s > told.since_s:
                self._judgement["in_flight_while_cooling"] += 1
                tally.in_flight += 1
        told = _running(self._told_key, key_scope, call)
        if told is not None and self._is_late(call, told.since_s):
            self._judgement["calls_while_cooling_same_key"] += 1
        if tally.refused_s:
            if self._is_late(call, tally.refused_s):
                self._judgement["calls_after_refusal"] += 1
                tally.after_refusal += 1
                self._violate("call_after_refusal", call, told_s=tally.refused_s)
            elif call.arrived_s > tally.refused_s:
                self._judgement["in_flight_after_refusal"] += 1
                tally.in_flight += 1

    def _is_late(self, call: Call, told_s: float) -> bool:
        """Whether the call came so long after the client was told that it cannot have been under way."""
        return call.arrived_s > told_s + self.grace_ms / 1_000

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
            if len(memory) > _MOST_IDEMPOTENCY_KEYS:
                memory.popitem(last=False)
                self._exact = False

    def _violate(
        self,
        kind: str,
        call: Call,
        *,
        told_s: float | None = None,
        until_s: float | None = None,
        accounts: list[str] | None = None,
    ) -> None:
        evidence: dict[str, Any] = {"kind": kind, **_call_dict(call)}
        if told_s is not None:
            evidence["ms_after_told"] = round((call.arrived_s - told_s) * 1_000, 1)
        if until_s is not None:
            evidence["ms_too_early"] = round((until_s - call.arrived_s) * 1_000, 1)
        if accounts is not None:
            evidence["accounts"] = accounts
        self._violations.append(evidence)

    def summary(self) -> dict[str, Any]:
        """All counters and the judgement, as JSON types."""
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
        """Which accounts accepted mail of each subject, once for each email."""
        return dict(self._subjects)

    def full(self) -> list[dict[str, Any]]:
        """The last records, oldest first."""
        return [{"decided_s": round(now_s, 4), **_call_dict(call)} for now_s, call in self._calls]


def _tell(
    told: dict[tuple[str, str], _Told], scope: tuple[str, str], now_s: float, call: Call
) -> None:
    known = told.get(scope)
    if known is None or known.until_s <= now_s:
        told[scope] = _Told(now_s, call.cool_until_s, call.cool_tokens)
    else:
        known.until_s = max(known.until_s, call.cool_until_s)
        known.tokens = min(known.tokens, call.cool_tokens)


def _running(
    told: dict[tuple[str, str], _Told], scope: tuple[str, str], call: Call
) -> _Told | None:
    """What the scope was told, if such a call still has to wait when it arrives.

    Forgets what is over.
    """
    known = told.get(scope)
    if known is not None and call.arrived_s >= known.until_s - _EARLY_S:
        del told[scope]
        return None
    return known if known is not None and call.requested >= known.tokens else None


def _call_dict(call: Call) -> dict[str, Any]:
    record: dict[str, Any] = {
        "arrived_s": round(call.arrived_s, 4),
        "service": call.key.service,
        "key": call.key.fingerprint,
        "label": call.key.label,
        "account": call.key.account.name,
        "status": call.status,
        "code": call.code,
        "accepted": call.accepted,
        "delivered": call.delivered,
    }
    if call.key.service == "groq":
        return record | {"model": call.model, "tokens": call.tokens}
    return record | {
        "idempotency_key": call.idempotency_key,
        "replayed": call.replayed,
        "emails": list(call.emails),
        "subjects": list(call.subjects),
        "recipients": call.recipients,
    }
