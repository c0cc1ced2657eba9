"""An empty database of a given Redis, for the demo's jobs, results and key states."""

import secrets
from urllib.parse import urlsplit

import redis

from demo.errors import DemoError

_CLAIM = "keywheel-demo"
_DATABASES = 16
_TIMEOUT_S = 5.0


class Database:
    """An empty database of a Redis that others use, too; it is emptied when the demo ends.

    Args:
        url: `redis://` or `rediss://`; the demo may take another database of the server.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in {"redis", "rediss"}:
            raise DemoError(
                "REDIS_URL must be redis:// or rediss:// here; unset it and the demo starts its "
                "own Redis"
            )
        self._given = url
        self._token = secrets.token_hex(8)
        self.url = ""

    def claim(self) -> str:
        """Find an empty database, mark it as ours, and return its URL.

        Raises:
            DemoError: The server does not answer, or has no empty database.
        """
        try:
            for number in range(_DATABASES - 1, -1, -1):
                if self._take(url := self._url_of(number)):
                    self.url = url
                    return url
        except redis.RedisError as exc:
            raise DemoError(
                f"the Redis of REDIS_URL cannot be used ({type(exc).__name__});"
                " unset REDIS_URL and the demo starts its own"
            ) from exc
        raise DemoError(
            "the Redis of REDIS_URL has no empty database, and the demo never touches one with "
            "data;"
            " unset REDIS_URL and the demo starts its own Redis"
        )

    def _take(self, url: str) -> bool:
        with redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S) as client:
            try:
                if client.dbsize() or not client.set(_CLAIM, self._token, nx=True):
                    return False
                # Another client may have begun to use the database in between.
                if client.dbsize() == 1:
                    return True
                client.delete(_CLAIM)
            except redis.ResponseError:
                return False  # this server has fewer databases, or the user may not use this one
        return False

    def _url_of(self, number: int) -> str:
        parts = urlsplit(self._given)
        query = "&".join(
            part for part in parts.query.split("&") if part and not part.startswith("db=")
        )
        return parts._replace(path=f"/{number}", query=query).geturl()

    def release(self) -> None:
        """Empty the database if it still has our mark. A second call does nothing."""
        url, self.url = self.url, ""
        if not url:
            return
        with redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, decode_responses=True) as client:
            if client.get(_CLAIM) == self._token:
                client.flushdb()
