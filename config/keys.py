"""Finds the API keys in the environment, and reports the variables that are wrong."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from config.addresses import is_address
from config.api_key import ApiKey, make_key
from config.environment import (
    FILE_SUFFIX,
    Lookup,
    look_up,
    no_dotenv,
    read_environment,
    unreadable_lines,
)
from config.errors import SettingsError
from config.placeholders import looks_like_placeholder
from config.services import SERVICES, Service

MAX_KEYS: Final = 10
"""The most keys of a service: in the plain variable, and in those with the numbers 2 to 10."""

_SHORTEST_SECRET = 6
Severity = Literal["skipped", "warned", "wrong"]
_ACCOUNT_RE = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """A problem of one variable.

    Attributes:
        variable: The variable's name.
        severity: `skipped`: its value is not used. `warned`: its value is used, but a
            person should look at it. `wrong`: its value is invalid, so no worker starts with it,
            and a reload ignores it.
        sentence: What is wrong and what to do. It names the variable and never quotes its value.
    """

    variable: str
    severity: Severity
    sentence: str


@dataclass(frozen=True)
class Discovery:
    """The keys of one service, and the problems of its variables.

    Attributes:
        keys: The usable keys in the order of their numbers.
        problems: The problems of the variables.
        variables: The names of variables that may contain a key.
    """

    keys: tuple[ApiKey, ...]
    problems: tuple[KeyProblem, ...]
    variables: tuple[str, ...] = ()


def discover_keys(service: str, environ: Mapping[str, str]) -> Discovery:
    """Find the usable keys of a service.

    They are in `NAME_API_KEY`, `NAME_API_KEY_2` … `_10`, or in the files that `NAME_API_KEY_FILE` …
    name. Numbers may be left out.

    Args:
        service: The service's name.
        environ: The merged environment.

    Returns:
        The keys, and a sentence for each problem of a variable.
    """
    return _Search(service, environ).run()


def load_keys(service: str) -> Discovery:
    """Find the usable keys of a service. Each call reads the environment and `.env` again.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    return discover_keys(service, read_environment())


def refuse_wrong_values(discoveries: Iterable[Discovery]) -> None:
    """Refuse a start with a malformed account name or from address.

    Raises:
        SettingsError: There are such values; the error has a sentence for each.
    """
    if sentences := [
        problem.sentence
        for discovery in discoveries
        for problem in discovery.problems
        if problem.severity == "wrong"
    ]:
        raise SettingsError(sentences)


def require_any_key(discoveries: Iterable[Discovery]) -> None:
    """Refuse a start without a usable key of any service.

    Raises:
        SettingsError: There is no usable key. The first sentence lists the variables that may
            contain a key; the others say why a value was skipped.
    """
    found = tuple(discoveries)
    if any(discovery.keys for discovery in found):
        return
    names = "; ".join(_condensed(discovery.variables) for discovery in found if discovery.variables)
    sentence = (
        "No usable API key was found, so no job could ever run: set at least one of"
        f" {names or 'the keys'}.{_about_dotenv()}"
    )
    raise SettingsError(
        [sentence, *(problem.sentence for discovery in found for problem in discovery.problems)]
    )


def _about_dotenv() -> str:
    """Return a sentence about a problem of `.env`; empty if there is none."""
    if (missing := no_dotenv()) is not None:
        return f" {missing}."
    unreadable = unreadable_lines()
    return "" if unreadable is None else f" {unreadable}"


def _looks_like_key_of(service: Service, value: str) -> bool:
    return bool(service.key_prefix) and value.startswith(service.key_prefix)


def _condensed(names: tuple[str, ...]) -> str:
    first, *between, last = names
    middle = f", {between[0]} … " if between else ", "
    return f"{first}{middle}{last} (or …{FILE_SUFFIX})"


class _Search:
    def __init__(self, service: str, environ: Mapping[str, str]) -> None:
        if service not in SERVICES:
            raise ValueError(f"service must be one of {', '.join(SERVICES)}")
        self._service = SERVICES[service]
        self._environ = environ
        self._base = f"{self._service.prefix}API_KEY"
        self._suffixes = ("", *(f"_{number}" for number in range(2, MAX_KEYS + 1)))
        self._problems: list[KeyProblem] = []
        self._taken: dict[str, str] = {}
        self._keys: list[ApiKey] = []

    def run(self) -> Discovery:
        usable = [
            (suffix, *hit) for suffix in self._suffixes if (hit := self._usable(suffix)) is not None
        ]
        for suffix, variable, secret in usable:
            self._keys.append(
                make_key(
                    self._service.name,
                    secret=secret,
                    variable=variable,
                    account=self._account(suffix),
                    sender=self._sender(suffix),
                )
            )
        self._report_strays({suffix for suffix, _, _ in usable})
        names = tuple(self._base + suffix for suffix in self._suffixes)
        return Discovery(tuple(self._keys), tuple(self._problems), names)

    def _report(self, variable: str, severity: Severity, text: str) -> None:
        self._problems.append(KeyProblem(variable, severity, f"{variable} {text}."))

    def _usable(self, suffix: str) -> tuple[str, str] | None:
        lookup = look_up(self._environ, self._base + suffix)
        if not suffix and self._is_set(f"{self._base}_1"):
            lookup = self._first(lookup)
        if lookup.problem:
            self._report(lookup.variable, "skipped", lookup.problem)
            return None
        if lookup.value is None:
            if lookup.variable in self._environ:
                self._report(lookup.variable, "skipped", "is blank")
            return None
        if lookup.note:
            self._report(lookup.variable, "warned", lookup.note)
        if (fault := self._fault(lookup.value)) is not None:
            self._report(lookup.variable, "skipped", fault)
            return None
        self._taken[lookup.value] = lookup.variable
        self._warn_of_shape(lookup.variable, lookup.value)
        return lookup.variable, lookup.value

    def _first(self, usual: Lookup) -> Lookup:
        """Choose between the first key's usual variable and the variable with the number 1."""
        name, alias = self._base, f"{self._base}_1"
        if usual.value or usual.problem:
            words = f"is another name of {name}, which is set: give it a free number"
            self._report(alias, "skipped", words)
            return usual
        found = look_up(self._environ, alias)
        words = f"is taken as the first key; its usual name is {name}"
        self._report(found.variable, "warned", words)
        return found

    def _is_set(self, name: str) -> bool:
        return any(self._environ.get(each, "").strip() for each in (name, name + FILE_SUFFIX))

    def _fault(self, value: str) -> str | None:
        checks = (
            (looks_like_placeholder(value), "contains a placeholder, not a key"),
            (
                not value.isascii(),
                "contains characters that no key has (not ASCII): copy the key again",
            ),
            (
                not value.isprintable(),
                "contains a line break or another control character: copy the key again",
            ),
            (" " in value, "contains a blank: a variable contains one key and nothing else"),
            (any(char in value for char in "\"'`"), "contains quotes: write the key without them"),
            (value in self._taken, f"contains the same key as {self._taken.get(value)}"),
        )
        return next((text for wrong, text in checks if wrong), None)

    def _warn_of_shape(self, variable: str, value: str) -> None:
        prefix = self._service.key_prefix
        if not value.startswith(prefix):
            other = next(
                (service for service in SERVICES.values() if _looks_like_key_of(service, value)),
                None,
            )
            hint = f"; it looks like a key of {other.title}" if other else ""
            self._report(
                variable, "warned", f"does not start with {prefix} as keys of this service do{hint}"
            )
        elif len(value) not in self._service.key_lengths:
            self._report(
                variable,
                "warned",
                "has an unusual length for a key of this service: was all of it copied?",
            )

    def _companion(self, kind: str, suffix: str) -> tuple[str, str]:
        names = [f"{self._service.prefix}{kind}{suffix}"]
        if not suffix:
            names.append(f"{names[0]}_1")
        for name in names:
            if value := self._environ.get(name, "").strip():
                return name, value
        return names[0], ""

    def _holds_a_key(self, text: str) -> bool:
        # Also check keys that are not used: a key in the wrong variable must not be shown as an
        # account name or an address.
        pasted = {value.strip() for name, value in self._environ.items() if "_API_KEY" in name}
        return any(
            secret in text
            for secret in pasted | set(self._taken)
            if len(secret) >= _SHORTEST_SECRET
        )

    def _account(self, suffix: str) -> str | None:
        name, value = self._companion("ACCOUNT", suffix)
        is_account = bool(_ACCOUNT_RE.fullmatch(value))
        words = "is not an account name: use up to 64 letters, digits and _ . @ -"
        return self._checked(name, value, words, fits=is_account)

    def _sender(self, suffix: str) -> str | None:
        if not self._service.has_senders:
            return None
        name, value = self._companion("FROM", suffix)
        words = "is not a from address: write name@example.com or Name <name@example.com>"
        return self._checked(name, value, words, fits=is_address(value))

    def _checked(self, name: str, value: str, words: str, *, fits: bool) -> str | None:
        if not value:
            return None
        if fits and not self._holds_a_key(value):
            return value
        self._report(name, "wrong", words)
        return None

    def _report_strays(self, used: set[str]) -> None:
        known = {self._base + suffix for suffix in (*self._suffixes, "_1")}
        last = self._base + self._suffixes[-1]
        for name in sorted(self._environ):
            plain = name.removesuffix(FILE_SUFFIX)
            if plain.startswith(self._base) and plain not in known:
                why = _why_stray(plain[len(self._base) + 1 :])
                self._report(name, "skipped", f"{why}: use {self._base}, {self._base}_2 … {last}")
        kinds = ("ACCOUNT", "FROM") if self._service.has_senders else ("ACCOUNT",)
        for kind in kinds:
            for suffix in self._suffixes:
                name, value = self._companion(kind, suffix)
                if value and suffix not in used:
                    self._report(
                        name, "skipped", f"has no effect: {self._base + suffix} gives no usable key"
                    )


def _why_stray(number: str) -> str:
    """Say why a variable with the prefix of keys is not a key's variable.

    Args:
        number: The part of its name after the prefix and the `_`.
    """
    if number.isdecimal() and not number.startswith("0") and int(number[:6]) > MAX_KEYS:
        return f"is beyond the {MAX_KEYS} keys of a service"
    return "is not the name of a key"
