"""Checks URLs that may contain a password, and hides the password."""

import re
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Secret

_PASSWORD_RE = re.compile(r"(?<=://)([^\s:/?#@\"'\\]*):([^\s/?#\"']*)@")
_PASSWORD_OPTION_RE = re.compile(r"[?&]sentinel_password=([^&#]*)")
_SECRET_QUERY_RE = re.compile(
    r"([?&](?:(?:sentinel_)?password|passwd|token|secret)=)[^&#\s\"']*", re.IGNORECASE
)
BETWEEN_NODES: Final = re.compile(r";(?=amqps?://)")
"""The separator between the URLs of a cluster's nodes."""
_ENCODE_HINT = "percent-encode special characters of the password"


def masked_url(text: str) -> str:
    """Replace the password of every URL in a text by `***`.

    Args:
        text: A URL, or a text with URLs in it.
    """
    if "://" not in text:
        return text
    return _SECRET_QUERY_RE.sub(r"\1***", _PASSWORD_RE.sub(r"\1:***@", text))


class SecretUrl(Secret[str]):
    """A URL whose `repr` and `str` show everything but the password.

    `get_secret_value()` returns the whole URL.
    """

    def _display(self) -> str:
        return ";".join(map(_without_password, BETWEEN_NODES.split(self.get_secret_value())))


def _without_password(url: str) -> str:
    # The URL is split, not searched, because a password may contain quotes.
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user_info, at, host = authority.rpartition("@")
    user, colon, _ = user_info.partition(":")
    shown = f"{user}:***" if colon else "***" if at else ""
    path, question, query = rest[len(authority) :].partition("?")
    if re.search("pass|token|secret", query, re.IGNORECASE):
        query = "***"
    return f"{scheme}://{shown}{at}{host}{path}{question}{query}"


def passwords_in(url: str) -> tuple[str, ...]:
    """Return the passwords of a URL, percent-encoded and decoded, for redaction.

    Args:
        url: A URL; any other text has no passwords.
    """
    passwords = _PASSWORD_OPTION_RE.findall(url)
    for node in BETWEEN_NODES.split(url):
        authority = re.split(r"[/?#]", node.partition("://")[2], maxsplit=1)[0]
        user_info, _, _ = authority.rpartition("@")
        passwords.append(user_info.partition(":")[2])
    return tuple(
        dict.fromkeys(form for text in passwords if text for form in (text, unquote(text)))
    )


def checked_url(url: str, *, schemes: tuple[str, ...]) -> SplitResult:
    """Split a URL after a check of its scheme, host and port.

    Args:
        url: The URL, without surrounding blanks.
        schemes: The schemes that are allowed.

    Returns:
        The parts of the URL.

    Raises:
        ValueError: The URL is malformed or has another scheme. The message completes "VARIABLE …"
            and never quotes the URL, which may be secret.
    """
    if not _is_visible(url):
        raise ValueError("must not contain blanks or control characters")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        raise ValueError(f"must start with {' or '.join(f'{name}://' for name in schemes)}")
    if scheme in {"unix", "redis+socket"}:
        if not rest.partition("?")[0].strip("/"):
            raise ValueError("must name a socket's path")
        return urlsplit(url)
    parts = _with_host(url)
    if parts is None:
        raise ValueError(f"has no valid host and port; {_ENCODE_HINT}")
    return parts


def _is_visible(url: str) -> bool:
    return url.isprintable() and not any(map(str.isspace, url))


def _with_host(url: str) -> SplitResult | None:
    parts = None
    with suppress(ValueError):  # the error's text quotes parts of the URL
        found = urlsplit(url)
        parts = found if found.hostname and found.port != 0 else None
    return parts
