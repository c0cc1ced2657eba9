"""Authenticates and authorizes visitors, with pure functions of request and configuration."""

import hmac
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from worker.dashboard.errors import ApiError

_SAME_SITE = {"same-origin", "none"}
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Which visitors may look, and which may act; if nothing is configured, all are rejected.

    Attributes:
        logins: `name:password` pairs of HTTP basic authentication.
        oauth: Whether people log in through Flower's OAuth.
        token: The bearer token of machines.
        admins: The people who may change something; empty: everyone who logs in.
    """

    logins: tuple[str, ...] = field(default=(), repr=False)
    oauth: bool = False
    token: str | None = field(default=None, repr=False)
    admins: tuple[str, ...] = ()

    @classmethod
    def from_options(
        cls, options: Any, *, token: str | None, admins: Iterable[str] = ()
    ) -> "AuthConfig":
        """Make the configuration from Flower's options, the token and the names of admins."""
        return cls(
            tuple(options.basic_auth or ()), bool(options.auth), token or None, tuple(admins)
        )

    @property
    def allows_people(self) -> bool:
        """Whether people can log in, so that Flower's pages require a login."""
        return bool(self.logins) or self.oauth

    @property
    def admins_without_login(self) -> list[str]:
        """The admins without a login; empty with OAuth, whose logins are not known."""
        names = {login.partition(":")[0] for login in self.logins}
        return [] if self.oauth else [name for name in self.admins if name not in names]

    @property
    def schemes(self) -> list[str]:
        """The values of the header WWW-Authenticate."""
        return ['Basic realm="flower"'] * bool(self.logins) + ['Bearer realm="flower"'] * bool(
            self.token
        )


@dataclass(frozen=True, slots=True)
class Visitor:
    """The sender of a request.

    Attributes:
        name: The name, for the audit trail.
        may_change: Whether this person, or program, may do more than look.
    """

    name: str
    may_change: bool = True


def authenticate(auth_config: AuthConfig, authorization: str, session_user: str | None) -> Visitor:
    """Find out who sent a request, or reject it.

    A person must pass every check that Flower itself makes (both, if a login and OAuth are
    configured); a machine needs only its token.

    Args:
        auth_config: The configuration.
        authorization: The request's Authorization header; empty if there is none.
        session_user: The user of Flower's OAuth session, if there is a valid one.

    Raises:
        ApiError: 403 if nothing is configured, 401 if the credentials are wrong.
    """
    if not (auth_config.allows_people or auth_config.token):
        raise ApiError(
            403,
            "not_configured",
            "No administrator is configured: set FLOWER_BASIC_AUTH (name:password) or ADMIN_TOKEN, "
            "then restart.",
        )
    scheme, _, credentials = authorization.strip().partition(" ")
    if auth_config.token and scheme.lower() == "bearer":
        # Tornado reads headers as Latin-1; the bytes are what the client sent.
        if hmac.compare_digest(
            credentials.strip().encode("latin-1", "replace"), auth_config.token.encode()
        ):
            return Visitor("token")
        raise _login_required()
    name = _person(auth_config, scheme, credentials, session_user)
    if not name:
        raise _login_required()
    return Visitor(
        name[:_LONGEST_NAME],
        may_change=not auth_config.admins or name in auth_config.admins,
    )


def _person(
    auth_config: AuthConfig, scheme: str, credentials: str, session_user: str | None
) -> str | None:
    """Return the name of the person who passed every check; None or empty if a check failed."""
    name = _login(scheme, credentials, auth_config.logins) if auth_config.logins else None
    if auth_config.logins and name is None:
        return None
    return session_user if auth_config.oauth else name


def _login(scheme: str, credentials: str, logins: Iterable[str]) -> str | None:
    if scheme.lower() != "basic":
        return None
    try:
        given = b64decode(credentials.strip(), validate=True).decode()
    except ValueError:  # not Base64, or not UTF-8
        return None
    # Every pair is compared, so that the time taken does not reveal which pair came close.
    matches = [hmac.compare_digest(given.encode(), login.encode()) for login in logins]
    return given.partition(":")[0] if any(matches) else None


def _login_required() -> ApiError:
    return ApiError(
        401,
        "login_required",
        "Log in: basic authentication, OAuth, or a bearer token.",
    )


def refuse_other_sites(headers: Mapping[str, str], host: str) -> None:
    """Reject a change that a browser requests for another site.

    Requests from our own pages pass, and requests from programs other than browsers.

    Args:
        headers: The request's headers.
        host: The request's Host header.

    Raises:
        ApiError: 403 if the browser names another site.
    """
    site = headers.get("Sec-Fetch-Site", "").lower()
    if site and site not in _SAME_SITE:
        raise ApiError(403, "cross_site", "A page of another site may not request this.")
    origin = headers.get("Origin")
    if origin is not None and not _is_origin_of(origin, host):
        raise ApiError(
            403,
            "wrong_origin",
            "The Origin header names another host; a proxy in front of Flower must pass the Host "
            "header on unchanged.",
        )


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and parts.netloc.lower() == host.lower()
