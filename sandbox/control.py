"""Control calls: read state and ledger, revoke keys, exhaust services, inject faults."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sandbox import groq_errors, groq_faults, resend_errors, resend_faults
from sandbox.accounts import (
    LIVE,
    RESTRICTED,
    REVOKED,
    SERVICES,
    SUSPENDED,
    Accounts,
    Key,
    Organisation,
    Team,
)
from sandbox.faults import Fault, Faults
from sandbox.ledger import Ledger
from sandbox.limits import Clock

_KINDS = {"groq": groq_faults.KINDS, "resend": resend_faults.KINDS}
_BY_STATUS = {"groq": groq_errors.BY_STATUS, "resend": resend_errors.BY_STATUS}
_STANDINGS = {
    "groq": {LIVE, "organization_restricted", "blocked_api_access", "spend_limit_reached"},
    "resend": {LIVE},
}
_LIMITS = {
    "groq": {"rpm", "rpd", "tpm", "tpd", "itpm", "otpm"},
    "resend": {"rps", "daily", "monthly"},
}


class ControlError(Exception):
    """A control call or a step of a scenario is wrong; the message says why."""


class Control:
    """Applies control calls; scenarios use the same verbs.

    Args:
        accounts: Keys and accounts.
        ledger: The ledger.
        faults: The faults in force.
        clock: The sandbox's time.
        forget: Forgets emails and idempotency keys.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        ledger: Ledger,
        faults: Faults,
        clock: Clock,
        forget: Callable[[], None],
    ) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self._forget = forget
        self._verbs: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], set[str]]] = {
            "reset": (self._reset, {"ledger"}),
            "revoke": (self._revoke, {"key", "form", "standing"}),
            "restore": (self._restore, {"key"}),
            "exhaust": (self._exhaust, {"service", "seconds", "account"}),
            "standing": (self._standing, {"service", "account", "standing", "model", "code"}),
            "fault": (
                self._fault,
                {
                    "service", "kind", "status", "accept", "seconds", "count", "share", "key",
                    "account", "model",
                    "retry_after_s", "hang_s",
                },
            ),
            "clear": (self._clear, {"service", "number"}),
            "limits": (self._set_limits, {"service", "account", *_LIMITS["groq"],
                *_LIMITS["resend"]}),
            "advance": (self._advance, {"seconds"}),
        }  # fmt: skip

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs of the control calls that change the state."""
        return tuple(self._verbs)

    def read(self, verb: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Answer GET /control/state, /control/ledger[?full=1], /control/mail and /control/kinds.

        Raises:
            ControlError: There is no such page.
        """
        if verb == "state":
            return self._state()
        if verb == "kinds":
            return {service: list(kinds) for service, kinds in _KINDS.items()}
        if verb == "mail":
            return dict(self._ledger.mail())
        if verb == "ledger":
            summary = self._ledger.summary()
            return (
                summary | {"calls": self._ledger.full()}
                if query.get("full") in {"1", "true"}
                else summary
            )
        raise ControlError(f"no page {verb!r}; the pages are state, ledger, mail and kinds")

    def apply(self, verb: str, body: Any) -> dict[str, Any]:
        """Carry out a control call.

        Raises:
            ControlError: The call is wrong; the message says why.
        """
        if verb not in self._verbs:
            raise ControlError(f"no verb {verb!r}; the verbs are {', '.join(self._verbs)}")
        if not isinstance(body, dict):
            raise ControlError("the body must be a JSON object")
        act, names = self._verbs[verb]
        if unknown := sorted(set(body) - names):
            raise ControlError(
                f"{verb} does not know {', '.join(unknown)}; it knows {', '.join(sorted(names))}"
            )
        return act(body)

    def _state(self) -> dict[str, Any]:
        now_s = self._clock.now()
        keys = [
            {
                "service": key.service,
                "label": key.label,
                "fingerprint": key.fingerprint,
                "account": key.account.name,
                "standing": key.standing,
            }
            for known in self._accounts.keys.values()
            for key in known.values()
        ]
        return {
            "now_s": now_s,
            "keys": keys,
            "groq": [
                _organisation(organisation, now_s)
                for organisation in self._accounts.organisations.values()
            ],
            "resend": [_show_team(team, now_s) for team in self._accounts.teams.values()],
            "faults": [
                {
                    name: value
                    for name, value in asdict(fault).items()
                    if value is not None and value != math.inf
                }
                for fault in self._faults.active(now_s)
            ],
        }

    def _reset(self, body: dict[str, Any]) -> dict[str, Any]:
        """Restore every account and key; clear the ledger, too, unless `ledger` is false."""
        self._faults.clear()
        for organisation in self._accounts.organisations.values():
            organisation.restore()
        for team in self._accounts.teams.values():
            team.restore()
        for known in self._accounts.keys.values():
            for key in known.values():
                key.standing = LIVE
        self._forget()
        if body.get("ledger", True):
            self._ledger.clear()
        return {"reset": True}

    def _keys(self, body: dict[str, Any]) -> list[Key]:
        selector = body.get("key")
        found = self._accounts.find(selector) if isinstance(selector, str) else []
        if not found:
            raise ControlError(
                "key: names no key; give the secret, its fingerprint, its label, or groq:1, "
                "resend:2, …"
            )
        return found

    def _revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        standing = body.get("standing", REVOKED)
        form = body.get("form", 401)
        if standing not in {REVOKED, SUSPENDED, RESTRICTED}:
            raise ControlError("standing: must be revoked, suspended or restricted")
        if form not in {400, 401, 403}:
            raise ControlError("form: must be 400, 401 or 403")
        for key in self._keys(body):
            key.standing, key.refusal_form = standing, form
        return {"revoked": [key.label for key in self._keys(body)]}

    def _restore(self, body: dict[str, Any]) -> dict[str, Any]:
        for key in self._keys(body):
            key.standing = LIVE
            self._ledger.mark_working(key)
        return {"restored": [key.label for key in self._keys(body)]}

    def _service(self, body: dict[str, Any]) -> str:
        service = body.get("service")
        if service not in SERVICES:
            raise ControlError("service: must be groq or resend")
        return str(service)

    def _chosen(self, body: dict[str, Any]) -> list[Organisation | Team]:
        service, name = self._service(body), body.get("account")
        if name is None:
            return list(self._accounts.accounts(service))
        found = self._accounts.account(service, str(name))
        if found is None:
            raise ControlError(f"account: {service} has none of this name")
        return [found]

    def _exhaust(self, body: dict[str, Any]) -> dict[str, Any]:
        now_s, wait_s = self._clock.now(), _number(body, "seconds")
        chosen = self._chosen(body)
        for account in chosen:
            account.exhaust(now_s, wait_s)
        return {"exhausted": [account.name for account in chosen], "until_s": now_s + wait_s}

    def _standing(self, body: dict[str, Any]) -> dict[str, Any]:
        """Restrict an organisation, or switch a model off for it (`code` null switches it on)."""
        service = self._service(body)
        for account in self._chosen(body):
            if "model" in body and isinstance(account, Organisation):
                code = body.get("code", "model_permission_blocked_project")
                if code is None:
                    account.blocked_models.pop(str(body["model"]), None)
                elif code in groq_errors.REFUSALS:
                    account.blocked_models[str(body["model"])] = code
                else:
                    raise ControlError(f"code: must be null, {', '.join(groq_errors.REFUSALS)}")
            elif body.get("standing") in _STANDINGS[service] and isinstance(account, Organisation):
                account.standing = str(body["standing"])
            else:
                raise ControlError(
                    f"standing: must be one of {', '.join(sorted(_STANDINGS[service]))}; Groq only"
                )
        return {"done": True}

    def _fault(self, body: dict[str, Any]) -> dict[str, Any]:
        service = self._service(body)
        status = body.get("status", 0)
        if not isinstance(status, int):
            raise ControlError("status: must be a whole number")
        kind = body.get("kind")
        if kind is None:
            kind = "error_after" if body.get("accept") else _BY_STATUS[service].get(status)
        if kind not in _KINDS[service]:
            raise ControlError(f"kind: {service} has {', '.join(_KINDS[service])}")
        fault = Fault(service, kind, status)
        for name in {"share", "retry_after_s", "hang_s"} & set(body):
            setattr(fault, name, _number(body, name))
        if "seconds" in body:
            fault.ends_at_s = self._clock.now() + _number(body, "seconds")
        if "count" in body:
            fault.left = int(_number(body, "count"))
        self._aim(fault, body)
        self._faults.add(fault)
        return {"fault": fault.number, "kind": kind}

    def _aim(self, fault: Fault, body: dict[str, Any]) -> None:
        if "key" in body:
            fault.key = self._keys(body)[0].fingerprint
        if "account" in body:
            fault.account = self._chosen(body)[0].name
        if "model" in body:
            fault.model = str(body["model"])

    def _clear(self, body: dict[str, Any]) -> dict[str, Any]:
        service = self._service(body) if "service" in body else None
        return {"cleared": self._faults.clear(service, body.get("number"))}

    def _set_limits(self, body: dict[str, Any]) -> dict[str, Any]:
        service = self._service(body)
        changes = {
            name: value for name, value in body.items() if name not in {"service", "account"}
        }
        if unknown := sorted(set(changes) - _LIMITS[service]):
            raise ControlError(f"{service} has no limit {', '.join(unknown)}")
        for name in changes:
            changes[name] = int(_number(changes, name))
        chosen = self._chosen(body)
        for account in chosen:
            account.set_limits(changes)
        return {"changed": [account.name for account in chosen]}

    def _advance(self, body: dict[str, Any]) -> dict[str, Any]:
        self._clock.advance(_number(body, "seconds"))
        return {"now_s": self._clock.now()}


def _number(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
    ):
        raise ControlError(f"{name}: must be a number, 0 or more")
    return value


def _organisation(organisation: Organisation, now_s: float) -> dict[str, Any]:
    models = {}
    for model, buckets in organisation.buckets.items():
        models[model] = {
            name: {"limit": bucket.limit, "used": round(bucket.used_at(now_s), 2)}
            for name in ("rpm", "rpd", "tpm", "tpd", "itpm", "otpm")
            if (bucket := getattr(buckets, name)) is not None
        }
    return {
        "account": organisation.name,
        "standing": organisation.standing,
        "limits": asdict(organisation.limits),
        "exhausted_s": round(max(0.0, organisation.exhausted_until_s - now_s), 3),
        "blocked_models": dict(organisation.blocked_models),
        "models": models,
    }


def _show_team(team: Team, now_s: float) -> dict[str, Any]:
    return {
        "account": team.name,
        "domains": None if team.domains is None else sorted(team.domains),
        "limits": asdict(team.limits),
        "exhausted_s": round(max(0.0, team.exhausted_until_s - now_s), 3),
        "used_today": team.daily.used_at(now_s),
        "used_this_month": team.monthly.used_at(now_s),
    }
