"""The simulated Resend: decides the answer to each call, which the server then writes."""

import hashlib
import json
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sandbox import resend_errors
from sandbox.accounts import Accounts, Team, make_key
from sandbox.answer import Answer, Ending, encode
from sandbox.call import Call
from sandbox.faults import Faults
from sandbox.idempotency import IdempotencyKeys, Remembered, digest
from sandbox.ledger import Ledger
from sandbox.limits import iso_utc, retry_after
from sandbox.resend_faults import break_answer
from sandbox.resend_intake import Intake, take_in
from sandbox.resend_refused import Refused, key_refused, refused_by, slow_down, team_of
from sandbox.resend_request import everybody, recipients

_UNKNOWN = Team("unknown")
_KEPT_EMAILS = 10_000
_MAX_KEY_CHARS = 256
_SUPPRESSED = "suppressed@resend.dev"
"""Resend's own test address: an email to it is accepted like any other, and not delivered."""


@dataclass(frozen=True, slots=True)
class ResendSettings:
    """How the simulated Resend behaves without faults.

    Attributes:
        latency_ms: How long accepting an email takes, in milliseconds.
        jitter_ms: A random addition to the latency, in milliseconds at most.
        refusal_form: The status for an unknown key: 400, 401 or 403.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    refusal_form: int = 401


class Resend:
    """Answers Resend's calls.

    Args:
        accounts: The accounts and keys.
        ledger: Records every call.
        faults: The faults in force.
        clock: Seconds since the epoch.
        settings: The behaviour without faults.
        rng: The random numbers.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        ledger: Ledger,
        faults: Faults,
        clock: Callable[[], float],
        settings: ResendSettings,
        rng: random.Random,
    ) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self.settings = settings
        self._rng = rng
        self.clear()

    def clear(self) -> None:
        """Forget emails and idempotency keys."""
        self._emails: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()
        self._idempotency: dict[str, IdempotencyKeys] = {}

    def send(
        self, secret: str, path: str, body: bytes, headers: Mapping[str, str], *, arrived_s: float
    ) -> Answer:
        """Answer POST /emails and POST /emails/batch.

        Args:
            secret: The key of the call.
            path: `/emails` or `/emails/batch`.
            body: The raw body.
            headers: The headers; only `Idempotency-Key` and `x-batch-validation` matter.
            arrived_s: When the headers were read.
        """
        refused, call = self._enter(secret, arrived_s, sending=True)
        call.idempotency_key = name = headers.get("Idempotency-Key", "")
        if refused is not None:
            return self._refuse(refused, call)
        try:
            request = json.loads(body)
        except ValueError:
            return self._refuse(
                Refused("validation_error", "The request body is not valid JSON."), call
            )
        if "Idempotency-Key" in headers and not 1 <= len(name) <= _MAX_KEY_CHARS:
            return self._refuse(Refused("invalid_idempotency_key"), call)
        team, now_s = team_of(call.key), self._clock()
        known, request_digest = self._idempotency.setdefault(team.name, IdempotencyKeys()), b""
        if name:
            request_digest = digest(path, request)
            if remembered := known.get(name, now_s):
                return self._replay(remembered, request_digest, call)
        batch = path.endswith("/batch")
        permissive = batch and headers.get("x-batch-validation", "").lower() == "permissive"
        intake = take_in(request, team.domains, batch=batch, permissive=permissive)
        if refused := self._refuse_content(team, intake, now_s):
            return self._refuse(refused, call)
        reply = self._take(team, intake.emails, call)
        if not batch:
            reply = reply["data"][0]
        elif permissive:
            reply["errors"] = intake.errors
        return self._answer(
            encode(reply), call, known.begin(name, request_digest, now_s) if name else None
        )

    def _enter(
        self, secret: str, arrived_s: float, *, sending: bool
    ) -> tuple[Refused | None, Call]:
        """Check key, faults, team and rate limit, in the order in which they can refuse a call."""
        key = self._accounts.lookup("resend", secret) if secret else None
        if key is None:
            kind = (
                resend_errors.key_refusal(self.settings.refusal_form)
                if secret
                else "missing_api_key"
            )
            return Refused(kind), Call(arrived_s, make_key("resend", secret, _UNKNOWN))
        refused = key_refused(key, sending=sending)
        if (
            refused is None
            and sending
            and (fault := self._faults.pick("resend", key, "", arrived_s))
        ):
            refused = refused_by(fault, key, self._clock())
        return refused or self._check_rate(team_of(key), arrived_s), Call(arrived_s, key)

    def _check_rate(self, team: Team, arrived_s: float) -> Refused | None:
        """Count the call against the team's rate."""
        now_s = self._clock()
        if team.exhausted_until_s > arrived_s:
            return slow_down(team, team.exhausted_until_s - now_s, now_s)
        if not team.window.take(now_s):
            return slow_down(team, team.window.reset_s(now_s), now_s)
        return None

    def _refuse_content(self, team: Team, intake: Intake, now_s: float) -> Refused | None:
        """Refuse an invalid request or one that exceeds a quota; otherwise charge the quotas."""
        if intake.invalid is not None:
            invalid = intake.invalid
            return Refused("validation_error", invalid.message, invalid.name, invalid.status)
        count = sum(map(recipients, intake.emails))
        for quota, kind in (
            (team.daily, "daily_quota_exceeded"),
            (team.monthly, "monthly_quota_exceeded"),
        ):
            if not quota.fits(now_s, count):
                # A batch is accepted as a whole or not at all, and the answer does not say how much
                # is left: single emails of the batch may fit.
                return Refused(
                    kind, cool_until_s=quota.resets_at_s if len(intake.emails) == 1 else 0.0
                )
        team.daily.take(now_s, count)
        team.monthly.take(now_s, count)
        return None

    def _replay(self, remembered: Remembered, request_digest: bytes, call: Call) -> Answer:
        """Answer a request whose idempotency key is known."""
        if remembered.digest != request_digest:
            return self._refuse(Refused("invalid_idempotent_request"), call)
        if remembered.answer is None:
            return self._refuse(Refused("concurrent_idempotent_requests"), call)
        call.replayed, call.code = True, "replayed"
        return self._deliver(Answer(200, remembered.answer, self._headers(team_of(call.key))), call)

    def _take(self, team: Team, emails: list[dict[str, Any]], call: Call) -> dict[str, Any]:
        """Accept emails; returns the body of the answer to a batch."""
        ids = [str(uuid.UUID(int=self._rng.getrandbits(128), version=4)) for _ in emails]
        for number, email in zip(ids, emails, strict=True):
            self._keep(team, number, email)
        call.accepted = bool(ids)
        call.emails = tuple(ids)
        call.recipients = sum(map(recipients, emails))
        call.contents = tuple(map(_content, emails))
        call.subjects = tuple(str(email.get("subject", "")) for email in emails)
        return {"data": [{"id": number} for number in ids]}

    def _answer(self, body: bytes, call: Call, remembered: Remembered | None) -> Answer:
        answer = Answer(200, body, self._headers(team_of(call.key)), delay_s=self._latency_s())

        def finish() -> None:
            if remembered is not None:
                remembered.answer = body

        if answer.delay_s:
            answer.finish = finish
        else:
            finish()
        return self._deliver(answer, call)

    def _latency_s(self) -> float:
        latency_ms = self.settings.latency_ms
        if self.settings.jitter_ms:
            latency_ms += self._rng.random() * self.settings.jitter_ms
        return latency_ms / 1_000

    def _keep(self, team: Team, number: str, email: dict[str, Any]) -> None:
        kept = {name: value for name, value in email.items() if name != "attachments"}
        event = "suppressed" if _SUPPRESSED in everybody(email) else "delivered"
        self._emails[number] = (
            team.name,
            {
                "object": "email",
                "id": number,
                "created_at": iso_utc(self._clock()),
                "last_event": event,
                **kept,
            },
        )
        if len(self._emails) > _KEPT_EMAILS:
            self._emails.popitem(last=False)

    def _deliver(self, answer: Answer, call: Call) -> Answer:
        """Record a success, and break the answer if a fault hits it."""
        fault = self._faults.pick("resend", call.key, "", call.arrived_s, breaking=True)
        call.status = answer.status
        if fault is not None:
            break_answer(answer, fault)
            call.code, call.delivered = fault.kind, False
            call.status = 0 if answer.ending is Ending.RESET else answer.status
        self._ledger.record(call)
        return answer

    def _refuse(self, refused: Refused, call: Call) -> Answer:
        call.code, call.cool_until_s = refused.kind, refused.cool_until_s
        if refused.kind in {"reset_before", "hang_before"}:
            call.status, call.delivered = 0, False
            self._ledger.record(call)
            return Answer(0, ending=Ending.RESET, hold_s=refused.hang_s)
        if refused.kind == "gateway_page":
            answer = resend_errors.page(refused.status or 502)
            if refused.retry_after_s is not None:
                answer.headers = {"retry-after": str(refused.retry_after_s)}
            call.status = answer.status
            self._ledger.record(call)
            return answer
        refusal = resend_errors.REFUSALS[refused.kind]
        status = refused.status or refusal.status
        call.status, call.dead = status, refusal.dead
        self._ledger.record(call)
        body = resend_errors.error_body(
            status, refused.name or refusal.name, refused.message or refusal.message
        )
        headers = (
            self._headers(team_of(call.key))
            if call.key.account is not _UNKNOWN and not refusal.dead
            else {}
        )
        if refused.retry_after_s is not None:
            headers["retry-after"] = str(refused.retry_after_s)
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                headers |= {
                    "ratelimit-remaining": "0",
                    "ratelimit-reset": headers["retry-after"],
                }
        return Answer(status, body, headers)

    def _headers(self, team: Team) -> dict[str, str]:
        now_s = self._clock()
        window = team.window
        headers = {
            "ratelimit-limit": str(window.limit),
            "ratelimit-remaining": str(window.remaining(now_s)),
            "ratelimit-reset": str(retry_after(window.reset_s(now_s))),
            "ratelimit-policy": f"{window.limit};w=1",
        }
        if team.daily.limit:
            headers["x-resend-daily-quota"] = str(team.daily.used_at(now_s))
        if team.monthly.limit:
            headers["x-resend-monthly-quota"] = str(team.monthly.used_at(now_s))
        return headers

    def email(self, secret: str, number: str, *, arrived_s: float) -> Answer:
        """Answer GET /emails/{id}."""
        refused, call = self._enter(secret, arrived_s, sending=False)
        if refused is not None:
            return self._refuse(refused, call)
        try:
            uuid.UUID(number)
        except ValueError:
            return self._refuse(Refused("invalid_parameter"), call)
        owner, email = self._emails.get(number, ("", {}))
        if owner != call.key.account.name:
            return self._refuse(Refused("not_found", "Email not found"), call)
        return self._deliver(Answer(200, encode(email), self._headers(team_of(call.key))), call)

    def usage(self, secret: str, *, arrived_s: float) -> Answer:
        """Answer GET /usage."""
        refused, call = self._enter(secret, arrived_s, sending=False)
        if refused is not None:
            return self._refuse(refused, call)
        team, now_s = team_of(call.key), self._clock()
        quotas = {}
        for name, quota in (("daily", team.daily), ("monthly", team.monthly)):
            used = quota.used_at(now_s)
            quotas[name] = {
                "used": used,
                "limit": quota.limit or None,
                "sent": used,
                "received": 0,
                "resets_at": iso_utc(quota.resets_at_s),
            }
        body = encode(
            {
                "object": "usage",
                "emails": quotas,
                "rate_limit": {"limit": team.window.limit, "duration": "1s"},
            }
        )
        return self._deliver(Answer(200, body, self._headers(team)), call)

    def unknown(self, secret: str, kind: str, *, arrived_s: float) -> Answer:
        """Answer an unknown path or method with `not_found` or `method_not_allowed`."""
        refused, call = self._enter(secret, arrived_s, sending=False)
        return self._refuse(refused or Refused(kind), call)


def _content(email: dict[str, Any]) -> str:
    """Return a fingerprint of what recipients see, without the sender, which differs by account."""
    seen = [email.get(name) for name in ("to", "cc", "bcc", "subject", "html", "text")]
    return hashlib.sha256(encode(seen)).hexdigest()[:24]
