"""Opens clients of Redis, either directly or through sentinels."""

import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from redis.connection import parse_url

_PORT: Final = 26379
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def open_client(url: str, *, plain: Any, sentinel: Any, **options: Any) -> Any:
    """Open a client.

    Args:
        url: A URL in redis-py's form, or `sentinel://user:password@a:26379,b:26379/0?master_name=…`
            in the workers' form.
        plain: redis-py's client class, for asyncio or not.
        sentinel: redis-py's sentinel class of the same kind.
        **options: Options of the client. Options in the URL take precedence.

    Raises:
        ValueError: The URL is not valid, or a file that it names cannot be read.
    """
    parse: Any = parse_url
    if not url.startswith("sentinel://"):
        _check_files(parse(url))
        return plain.from_url(url, **options)
    hosts, rest = _divided(url)
    given = {**options, **parse(rest)}
    _check_files(given)
    hosts += [host for host in given.pop("sentinels", "").split(",") if host]
    name = given.pop("master_name", None)
    if not name:
        raise ValueError("the URL of sentinels needs ?master_name=NAME, the primary's name")
    tls = _is_true(given.pop("ssl", ""))
    to_sentinels = {
        part: given.pop(f"sentinel_{part}")
        for part in ("username", "password")
        if f"sentinel_{part}" in given
    }
    if _is_true(given.pop("sentinel_ssl", tls)):
        to_sentinels |= {"ssl": True} | {
            part: value for part, value in given.items() if part.startswith("ssl_")
        }
    # A sentinel that is down must not delay the request to the next one.
    to_sentinels |= {"socket_connect_timeout": 1, "socket_timeout": 2, "retry": given["retry"]}
    client = sentinel([_address(host) for host in hosts], sentinel_kwargs=to_sentinels)
    del given["host"]
    given.pop("port", None)
    return client.master_for(name, redis_class=plain, ssl=tls, **given)


def _check_files(options: dict[str, Any]) -> None:
    """Open the certificate files in a URL, because a connection's errors do not name the file.

    Raises:
        ValueError: A file cannot be read.
    """
    for name in _FILES:
        try:
            Path(options.get(name, os.devnull)).open("rb").close()
        except OSError as exc:
            raise ValueError(
                f"the URL's {name} cannot be read ({exc.strerror}): {options[name]}"
            ) from exc


def with_sentinels(client: Any) -> list[Any]:
    """Return a client and the clients of its sentinels, which it does not close itself."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    return [client, *(manager.sentinels if manager is not None else ())]


def _divided(url: str) -> tuple[list[str], str]:
    """Split a URL into the addresses of the sentinels and a URL that redis-py can read."""
    plain = re.sub(r"[;,]sentinel://(?:[^/?#@;,]*@)?", ",", url.partition("://")[2])
    authority = re.split(r"[/?#]", plain, maxsplit=1)[0]
    login, at, hosts = authority.rpartition("@")
    return re.split("[;,]", hosts), f"redis://{login}{at}sentinels{plain[len(authority) :]}"


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("the URL of sentinels needs their hosts: sentinel://a:26379,b:26379/0")
    return parts.hostname, parts.port or _PORT


def _is_true(value: object) -> bool:
    return str(value).lower() in {"1", "true", "yes", "on"}
