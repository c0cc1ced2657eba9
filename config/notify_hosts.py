"""Reads the list of hosts that results may be pushed to, and checks URLs against it."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\]"
_ENTRY_RE: Final = re.compile(
    rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?(?P<private>=private)?"
)
_URL_RE: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?(?:[/?][!-~]*)?",
    re.IGNORECASE,
)
"""Strict, so that all programs read the same host: no user, no backslash, no blank."""
_LONGEST_URL: Final = 2_000
_PORTS: Final = {"https": 443, "http": 80}
_LAST_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class NotifyHost:
    """A host that results may be pushed to.

    Attributes:
        name: The host's name or address, in lower case.
        port: The host's port; None: the default port of the scheme.
        private: Whether the host may have a private address, and use plain HTTP.
    """

    name: str
    port: int | None
    private: bool


@cache
def notify_hosts(text: str) -> tuple[NotifyHost, ...]:
    """Read a list of hosts such as `hooks.example.com,app.internal:8080=private`.

    Raises:
        ValueError: The text is not such a list.
    """
    entries = [_ENTRY_RE.fullmatch(part.strip()) for part in text.split(",") if part.strip()]
    hosts = []
    for entry in entries:
        port = int(entry["port"]) if entry and entry["port"] else None
        if entry is None or not (port is None or 0 < port <= _LAST_PORT):
            raise ValueError(
                "must be hosts such as hooks.example.com or app.internal:8080=private, separated "
                "by commas"
            )
        hosts.append(NotifyHost(entry["host"].lower(), port, entry["private"] is not None))
    return tuple(hosts)


def host_of(url: str, hosts: tuple[NotifyHost, ...]) -> NotifyHost:
    """Find the listed host of a URL.

    Args:
        url: The URL that a producer gave.
        hosts: The hosts of the setting.

    Raises:
        ValueError: The URL is malformed, or its host is not listed; the message does not quote it.
    """
    scheme, *host_and_port = _parts_of(url)
    host = next(
        (host for host in hosts if [host.name, host.port or _PORTS[scheme]] == host_and_port), None
    )
    if host is None:
        raise ValueError("names a host, or a port, that KEYWHEEL_NOTIFY_HOSTS does not list")
    if scheme == "http" and not host.private:
        raise ValueError("must begin with https:// unless its host is listed with =private")
    return host


def _parts_of(url: str) -> tuple[str, str, int]:
    """Split a URL into its scheme and host, in lower case, and its port or the default port."""
    found = _URL_RE.fullmatch(url) if len(url) <= _LONGEST_URL else None
    if found is None or "#" in url:
        raise ValueError(
            "must be a URL such as https://hooks.example.com/done, of visible ASCII characters, "
            "without user and fragment"
        )
    scheme = found["scheme"].lower()
    usual_port = _PORTS[scheme]
    return scheme, found["host"].lower(), int(found["port"] or usual_port) or usual_port
