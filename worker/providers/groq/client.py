"""Requests chat completions of Groq through the official SDK.

A completion has no side effect, so repeating one costs tokens at most.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import groq
import httpx
from pydantic import SecretStr

from worker.foreign_json import as_list, as_object, member
from worker.providers import key_check
from worker.providers.base import is_sendable, judge_transport, unsent_reply
from worker.providers.connections import on_sent, shared_client
from worker.providers.failures import outside_the_call
from worker.providers.groq.answer import request_id_of, result_of
from worker.providers.groq.completion import Completion, prompts_of
from worker.providers.groq.passing import GroqPassing
from worker.providers.groq.sdk import AsyncGroq
from worker.providers.groq.stream import EVENT_STREAM, AssembledAnswer, EventDecoder
from worker.providers.groq.unknowns import GroqWatch
from worker.providers.groq.verdicts import GroqJudge
from worker.providers.key_check import KeyCheck
from worker.providers.response import Answer
from worker.providers.unknowns import Notice, Shapes, ignore
from worker.verdicts import Fate, Reply

_MAX_CLIENTS = 64
_DRAIN_S = 1.0
"""How long a stream is read after its last event, so that its connection can be reused."""

_PATH = "/openai/v1/chat/completions"
_OPTIONS: Final[Any] = {
    "params": {},
    "headers": groq.NOT_GIVEN,
    "max_retries": groq.NOT_GIVEN,
    "timeout": groq.NOT_GIVEN,
    "idempotency_key": "unused",  # no header carries it
    "extra_json": None,
    "follow_redirects": None,
}
"""The SDK's options, written out: all but `idempotency_key` have their default values.

If one is missing, the SDK makes a deep copy of its default at each call. Without `idempotency_key`,
it also draws a random one that is not used.
"""


class Groq:
    """Calls Groq with any key over one shared set of connections.

    Args:
        base_url: Groq's base URL, with or without `/openai/v1`.
        timeout_s: The read timeout, in seconds. The whole call may take twice as long.
        max_connections: How many calls this process makes at once; further calls queue.
        now: Returns the time in seconds since the epoch.
        jitter: Draws a number between two bounds.
        notice: Is called with the unknown parts of answers.
    """

    service = "groq"

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 60.0,
        max_connections: int = 5_000,
        now: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
        notice: Notice = ignore,
    ) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/openai/v1")  # the SDK adds it
        self._url = httpx.URL(self._base_url + _PATH)
        self._timeout_s = timeout_s
        self._http = shared_client(
            self._base_url,
            timeout_s=timeout_s,
            max_connections=max_connections,
            keepalive_expiry_s=20.0,
        )
        self._clients: dict[str, AsyncGroq] = {}
        self._judge = GroqJudge(now=now, jitter=jitter)
        self._watch = GroqWatch(notice)
        # At DEBUG the SDK logs whole requests, prompts included.
        logging.getLogger("groq._base_client").setLevel(logging.INFO)

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Make the clients of the SDK before the first call; the first one takes 100 ms."""
        for secret in secrets:
            if is_sendable(secret):
                self._client(secret)

    async def call(
        self, secret: SecretStr, request: Completion, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Ask for one completion and judge the answer.

        Returns:
            On success, the value is what `answer.result_of` makes of the first choice, whether the
            answer was streamed or not.
        """
        if unsent := unsent_reply(secret, self._http):
            return unsent
        on_sent.set(sent)
        heard = AssembledAnswer(request.listener) if request.listener else None
        try:
            async with asyncio.timeout(2 * self._timeout_s) as limit:
                response = await self._post(secret, request, stream=heard is not None)
                if heard:
                    await _listen(response, heard, limit)
        except groq.APIStatusError as error:
            response, heard = error.response, None
        except (groq.APIConnectionError, httpx.HTTPError, TimeoutError) as error:
            if heard is None or not heard.has_ended:
                cause = error.__cause__ if isinstance(error, groq.APIConnectionError) else None
                return Reply(judge_transport(cause or error, if_ambiguous=Fate.RETRY))
        except OSError as error:
            return Reply(judge_transport(outside_the_call(error), if_ambiguous=Fate.RETRY))
        return self._read(response, heard, request, secret)

    def _read(
        self,
        response: httpx.Response,
        heard: AssembledAnswer | None,
        request: Completion,
        secret: SecretStr,
    ) -> Reply:
        """Judge an answer that arrived at once or in pieces."""
        private = prompts_of(request.params)
        if heard is not None and _is_event_stream(response):
            answer = heard.answer(response.status_code, response.headers)
            value = heard.value(response.headers)
            verdict = self._judge.streamed(
                answer, heard, value=value, secret=secret, private=private
            )
            message, finish_reason = heard.later_fields, heard.finish_reason
        else:
            # The SDK's own parser returns a str for text/html and raises on bad JSON, so the body
            # is read here.
            answer = Answer.parse(response.status_code, response.headers, response.content)
            choice = _first_choice(answer)
            value = _value(answer, choice) if choice else None
            message, finish_reason = (
                as_object(member(choice, "message")),
                member(choice, "finish_reason"),
            )
            if heard is not None and value is not None:
                heard.whole(value)
            verdict = self._judge(answer, value=value, secret=secret, private=private)
        self._watch.look(
            answer,
            verdict,
            model=request.model,
            message=message,
            finish_reason=finish_reason,
            shapes=Shapes(secret, private),
        )
        return Reply(verdict, value)

    def passing(self) -> GroqPassing:
        """Make the provider that passes on requests of other SDKs, over the same connections."""
        return GroqPassing(self._http, self._judge, timeout_s=self._timeout_s)

    async def check(self, secret: SecretStr) -> KeyCheck:
        """Ask whether a key is alive and which models it may use; costs no completion."""
        if not is_sendable(secret):
            return key_check.UNSENDABLE
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.get(
                    "/openai/v1/models",
                    headers={"Authorization": f"Bearer {secret.get_secret_value()}"},
                )
        except (httpx.HTTPError, TimeoutError) as error:
            return KeyCheck("unknown", judge_transport(error, if_ambiguous=Fate.RETRY).reason)
        answer = Answer.parse(response.status_code, response.headers, response.content)
        models = key_check.models_in(answer.body) if answer.ok else None
        if models is None:
            return key_check.refused(answer, self._judge(answer, value=None, secret=secret), secret)
        return KeyCheck("alive", models=models)

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        self._clients.clear()
        await self._http.aclose()

    async def _post(
        self, secret: SecretStr, request: Completion, *, stream: bool
    ) -> httpx.Response:
        """Let the SDK send the request unchanged.

        With the SDK's `create`, a call takes 0.68 ms of CPU instead of 0.28 ms (measured). `create`
        searches the arguments for names to translate, and a completion has none. It also parses the
        URL each time, and makes a model of the answer, which we read ourselves.
        """
        # A request that is not streamed stays without the parameter.
        body = {**request.params, "stream": True} if stream else request.params
        return await self._client(secret).send(self._url, body, stream=stream, options=_OPTIONS)

    def _client(self, secret: SecretStr) -> AsyncGroq:
        value = secret.get_secret_value()
        client = self._clients.get(value)
        if client is None:
            # With one SDK client for each key, a call takes 2.1 ms; with `with_options` it takes
            # 3.0 ms (measured).
            client = AsyncGroq(
                api_key=value,
                base_url=self._base_url,
                timeout=self._http.timeout,
                max_retries=0,  # the key pool chooses the next key; the SDK would repeat this one
                http_client=self._http,
            )
            if len(self._clients) >= _MAX_CLIENTS:  # only after many reloads with other keys
                self._clients.pop(next(iter(self._clients)))
            self._clients[value] = client
        return client


async def _listen(response: httpx.Response, heard: AssembledAnswer, limit: asyncio.Timeout) -> None:
    """Read an answer to its end, and leave the connection usable."""
    try:
        if not _is_event_stream(response):
            await response.aread()
            return
        decoder = EventDecoder()
        async for part in response.aiter_bytes():
            for data in decoder.feed(part):
                heard.take(data)
            if heard.done or heard.broken:
                limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
    finally:
        await response.aclose()


def _is_event_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith(EVENT_STREAM)


def _first_choice(answer: Answer) -> dict[str, Any] | None:
    """Return the first choice of a completion, or None if the body is not a completion."""
    if not answer.ok:
        return None
    first = next(iter(as_list(member(answer.body, "choices"))), None)
    return first if isinstance(member(first, "message"), dict) else None


def _value(answer: Answer, choice: dict[str, Any]) -> dict[str, Any]:
    """Return the result for the caller."""
    return result_of(
        choice["message"],
        body=answer.body,
        finish_reason=choice.get("finish_reason"),
        logprobs=choice.get("logprobs"),
        request_id=request_id_of(answer.body.get("x_groq"), answer.headers),
    )
