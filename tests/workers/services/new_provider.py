"""The class of a third service, as a newcomer writes it. The test copies this file."""

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
    """Calls the echo service, which answers with what it was sent.

    Args:
        base_url: Where the service is.
        timeout_s: The longest silence while waiting for an answer, in seconds.
        notice: Not used: its answers hold nothing that is unknown.
    """

    service = "echo"

    def __init__(
        self, base_url: str, *, timeout_s: float, notice: Notice = ignore, **_: Any
    ) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._notice = notice

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Nothing is to be made."""

    async def call(
        self, secret: SecretStr, request: str, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Have a text echoed."""
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
        """Ask whether a key is alive."""
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
