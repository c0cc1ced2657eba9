"""The configuration of the sandbox, and the accounts generated from it or read from a file."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sandbox.accounts import (
    SERVICES,
    Accounts,
    GroqLimits,
    Organisation,
    ResendLimits,
    Team,
    new_organisation_name,
    new_secret,
)
from sandbox.groq_call import GroqSettings
from sandbox.resend import ResendSettings


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of the sandbox.

    Attributes:
        groq_keys: How many Groq keys to generate.
        groq_keys_per_org: How many Groq keys share an organisation.
        resend_keys: How many Resend keys to generate.
        resend_keys_per_team: How many Resend keys share a team.
        keys_file: A file with accounts and keys, used instead of generated ones.
        accept_unknown_keys: Give an unknown key an account of its own instead of a refusal.
        grace_ms: How long after a refusal a call may still arrive because it was in flight, in
            milliseconds.
        ledger_size: How many full records are kept.
        seed: The seed of the random numbers; keys are always random.
    """

    groq_keys: int = 3
    groq_keys_per_org: int = 1
    groq_limits: GroqLimits = field(default_factory=GroqLimits)
    groq: GroqSettings = field(default_factory=GroqSettings)
    resend_keys: int = 2
    resend_keys_per_team: int = 1
    resend_limits: ResendLimits = field(default_factory=ResendLimits)
    resend: ResendSettings = field(default_factory=ResendSettings)
    keys_file: Path | None = None
    accept_unknown_keys: bool = False
    grace_ms: float = 250.0
    ledger_size: int = 100_000
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """The accounts, the variables that a client needs to use them, and Groq's models."""

    accounts: Accounts
    environment: dict[str, str]
    models: tuple[str, ...]


def make_roster(config: Config) -> Roster:
    """Generate accounts and keys, or read them from the file.

    Raises:
        ValueError: The file has an error; the message says where.
    """
    accounts = Accounts(
        accept_unknown=config.accept_unknown_keys,
        groq=config.groq_limits,
        resend=config.resend_limits,
    )
    if config.keys_file is not None:
        return _read(config, accounts)
    for first in range(0, config.groq_keys, config.groq_keys_per_org):
        count = min(config.groq_keys_per_org, config.groq_keys - first)
        organisation = Organisation(new_organisation_name(), config.groq_limits)
        accounts.add_organisation(organisation, [new_secret("groq") for _ in range(count)])
    for number, first in enumerate(
        range(0, config.resend_keys, config.resend_keys_per_team), start=1
    ):
        count = min(config.resend_keys_per_team, config.resend_keys - first)
        domains = frozenset({f"team{number}.example.net"})
        team = Team(f"team-{number}", limits=config.resend_limits, domains=domains)
        accounts.add_team(team, [new_secret("resend") for _ in range(count)])
    return Roster(accounts, _environment(accounts, {}), config.groq.models)


def _environment(accounts: Accounts, froms: dict[str, str]) -> dict[str, str]:
    lines = {}
    for service in SERVICES:
        for number, key in enumerate(accounts.keys[service].values(), start=1):
            suffix = "" if number == 1 else f"_{number}"
            lines[f"{service.upper()}_API_KEY{suffix}"] = key.secret
            if isinstance(key.account, Team):
                domains = sorted(key.account.domains or {"sandbox.example.net"})
                if domains:
                    lines[f"RESEND_FROM{suffix}"] = froms.get(
                        key.account.name, f"Sandbox <news@{domains[0]}>"
                    )
    return lines


def _read(config: Config, accounts: Accounts) -> Roster:
    assert config.keys_file is not None  # noqa: S101 - narrows the type
    try:
        content = json.loads(config.keys_file.read_text())
    except (OSError, ValueError) as exc:
        raise ValueError(f"{config.keys_file}: {exc}") from exc
    _known(content, {"living", *SERVICES}, "the keys file")
    living = content.get("living", list(config.groq.models))
    if not isinstance(living, list) or not all(isinstance(name, str) and name for name in living):
        raise ValueError("living must be a list of models")
    froms = {}
    for number, entry in enumerate(content.get("groq", ())):
        where = f"groq[{number}]"
        _known(entry, {"account", "keys", "models", *_names(GroqLimits)}, where)
        name = entry.get("account") or new_organisation_name()
        limits = _limits(GroqLimits, config.groq_limits, entry, where)
        models = {}
        for model, changes in entry.get("models", {}).items():
            _known(changes, _names(GroqLimits), f"{where}.models.{model}")
            models[model] = _limits(GroqLimits, limits, changes, where)
        accounts.add_organisation(Organisation(name, limits, models), _keys(entry, "groq", where))
    for number, entry in enumerate(content.get("resend", ())):
        where = f"resend[{number}]"
        _known(entry, {"account", "keys", "domains", "from", *_names(ResendLimits)}, where)
        name = entry.get("account") or f"team-{number + 1}"
        limits_ = _limits(ResendLimits, config.resend_limits, entry, where)
        domains = entry.get("domains", [f"team{number + 1}.example.net"])
        team = Team(name, limits=limits_, domains=None if domains is None else frozenset(domains))
        accounts.add_team(team, _keys(entry, "resend", where))
        if "from" in entry:
            froms[name] = entry["from"]
    return Roster(accounts, _environment(accounts, froms), tuple(living))


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)}


def _known(entry: Any, names: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object")  # noqa: TRY004
    if unknown := sorted(set(entry) - names):
        raise ValueError(
            f"{where} does not know {', '.join(unknown)}; it knows {', '.join(sorted(names))}"
        )


def _limits(kind: type[Any], base: Any, entry: dict[str, Any], where: str) -> Any:
    values = {name: entry.get(name, getattr(base, name)) for name in _names(kind)}
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{where}.{name} must be a whole number, 0 for no limit")
    return kind(**values)


def _keys(entry: dict[str, Any], service: str, where: str) -> list[str]:
    keys = entry.get("keys", 1)
    if isinstance(keys, int):
        return [new_secret(service) for _ in range(keys)]
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise ValueError(f"{where}.keys must be a list of keys, or how many to make")
    return keys
