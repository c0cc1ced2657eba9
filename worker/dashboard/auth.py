"""Who may use the admin endpoints.

Pure functions over what a request says and what is configured.
"""

import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from worker.dashboard.errors import Refusal

_SAME_SITE = {"same-origin", "none"}
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Doors:
    """What lets an administrator in; where all are closed nobody gets in.

    Attributes:
        logins: `name:password` pairs of HTTP basic authentication.
        oauth: Whether people log in by Flower's OAuth.
        token: The bearer token of machines.
    """

    logins: tuple[str, ...] = field(default=(), repr=False)
    oauth: bool = False
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, options: Any, token: str | None) -> "Doors":
        """Read Flower's options."""
        return cls(tuple(options.basic_auth or ()), bool(options.auth), token or None)

    @property
    def people(self) -> bool:
        """Whether any person can log in, so that Flower's pages are guarded."""
        return bool(self.logins) or self.oauth

    @property
    def schemes(self) -> list[str]:
        """What the header WWW-Authenticate offers."""
        return ['Basic realm="flower"'] * bool(self.logins) + ['Bearer realm="flower"'] * bool(
            self.token
        )


def admit(doors: Doors, authorization: str, session_user: str | None) -> str:
    """Tell who asks, or refuse.

    A person passes every door that Flower itself puts up (with a login and OAuth both configured,
    both); a machine's token stands alone.

    Args:
        doors: What is configured.
        authorization: The request's Authorization header; empty where there is none.
        session_user: Who Flower's OAuth session belongs to, if there is a valid one.

    Returns:
        The administrator's name, for the audit trail.

    Raises:
        Refusal: 403 where nothing is configured, else 401.
    """
    if not (doors.people or doors.token):
        raise Refusal(
            403,
            "not_configured",
            "No administrator is configured: set FLOWER_BASIC_AUTH (name:password) or ADMIN_TOKEN, "
            "then restart.",
        )
    scheme, _, credentials = authorization.strip().partition(" ")
    if doors.token and scheme.lower() == "bearer":
        # Tornado reads headers as Latin-1; the bytes are what the client sent.
        if hmac.compare_digest(
            credentials.strip().encode("latin-1", "replace"), doors.token.encode()
        ):
            return "token"
        raise _login_required()
    name = None
    if doors.logins:
        name = _login(scheme, credentials, doors.logins)
        if name is None:
            raise _login_required()
    if doors.oauth:
        name = session_user
    if not name:
        raise _login_required()
    return name[:_LONGEST_NAME]


def _login(scheme: str, credentials: str, logins: Iterable[str]) -> str | None:
    if scheme.lower() != "basic":
        return None
    try:
        given = b64decode(credentials.strip(), validate=True).decode()
    except (Base64Error, ValueError):
        return None
    # Every pair is compared, so that the time taken does not tell which of them came close.
    right = [hmac.compare_digest(given.encode(), login.encode()) for login in logins]
    return given.partition(":")[0] if any(right) else None


def _login_required() -> Refusal:
    return Refusal(
        401,
        "login_required",
        "Log in as an administrator: basic authentication, OAuth, or a bearer token.",
    )


def refuse_other_sites(headers: Mapping[str, str], host: str) -> None:
    """Let a change be asked for only by our own pages and by programs that are no browser.

    Args:
        headers: The request's headers.
        host: What the request's Host header says.

    Raises:
        Refusal: 403; a browser says that another site makes it ask.
    """
    site = headers.get("Sec-Fetch-Site", "").lower()
    if site and site not in _SAME_SITE:
        raise Refusal(403, "cross_site", "A page of another site may not ask for this.")
    origin = headers.get("Origin")
    if origin is not None and not _is_origin_of(origin, host):
        raise Refusal(
            403,
            "wrong_origin",
            "The Origin header names another host; a proxy before Flower must pass Host on as it "
            "is.",
        )


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc.lower() == host.lower()
