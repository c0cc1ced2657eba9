"""The class of a third service, as a newcomer would write it. The test copies this file."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import SecretStr

from worker.providers.base import judge_transport
from worker.providers.key_check import KeyCheck
from worker.providers.unknowns import Notice, ignore
from worker.verdicts import RATE_LIMIT, Effect, Fate, Reply, Scope, Verdict


class Echo:
    """Calls the echo service, which returns what it receives.

    Args:
        base_url: The URL of the service.
        timeout_s: The longest silence while waiting for an answer, in seconds.
        notice: Not used, because the service's answers hold nothing unknown.
    """

    service = "echo"

    def __init__(
        self, base_url: str, *, timeout_s: float, notice: Notice = ignore, **_: Any
    ) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._notice = notice

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Do nothing, because nothing has to be prepared."""

    async def call(
        self, secret: SecretStr, request: str, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Make the service echo a text."""
        try:
            answer = await self._post(secret, request)
        except httpx.HTTPError as error:
            return Reply(judge_transport(error, if_ambiguous=Fate.RETRY))
        if sent is not None:
            sent()
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return Reply(
                Verdict(Fate.NEXT_KEY, RATE_LIMIT, effect=Effect.COOL, scope=Scope.KEY, status=429)
            )
        if answer.status_code != HTTPStatus.OK:
            return Reply(Verdict(Fate.FAIL, "rejected", "it will not echo this", status=400))
        return Reply(Verdict(Fate.DONE, "ok", status=200), answer.json())

    async def check(self, secret: SecretStr) -> KeyCheck:
        """Check whether a key works."""
        answer = await self._post(secret, "")
        return KeyCheck("dead" if answer.status_code == HTTPStatus.UNAUTHORIZED else "alive")

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await self._http.aclose()

    async def _post(self, secret: SecretStr, text: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret.get_secret_value()}"}
        return await self._http.post("/echo", json={"text": text}, headers=headers)


class Mirror(Echo):
    """Another service of the same kind."""

    service = "mirror"
