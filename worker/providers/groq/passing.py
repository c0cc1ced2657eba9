"""Passes requests of other SDKs on to Groq, and judges the answers like those to our own calls."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import httpx
from pydantic import SecretStr

from worker.foreign_json import as_object, member
from worker.providers.base import judge_transport, unsent_reply
from worker.providers.connections import on_sent
from worker.providers.exchange import Exchange, PassedStream
from worker.providers.groq.completion import prompts_of
from worker.providers.groq.stream import EVENT_STREAM, AssembledAnswer, EventDecoder, NoListener
from worker.providers.groq.verdicts import GroqJudge
from worker.providers.response import Answer
from worker.verdicts import Fate, Reply, Verdict

_COMPLETIONS = "/chat/completions"
_PREFIX = re.compile(r"^/(?:(?:openai/)?v1/)?")
"""The prefix before the path of an endpoint, in URLs for Groq or from OpenAI's SDK."""


class GroqPassing:
    """Sends requests with any key, unchanged but for the fields in `Exchange.changes`.

    Args:
        http: The connections to Groq.
        judge: Judges the answers.
        timeout_s: The read timeout, in seconds. The whole call may take twice as long, but a
            streamed answer may take as long as its reader likes.
    """

    service = "groq"

    def __init__(self, http: httpx.AsyncClient, judge: GroqJudge, *, timeout_s: float) -> None:
        self._http: Final = http
        self._judge: Final = judge
        self._timeout_s: Final = timeout_s

    def with_base_url(self, request: httpx.Request) -> httpx.Request:
        """Return a request with the configured address: keys must not go anywhere else.

        Args:
            request: A request of any SDK that speaks to Groq or OpenAI; its body is read.
        """
        base = self._http.base_url
        path = "openai/v1/" + _PREFIX.sub("", request.url.raw_path.decode())
        return httpx.Request(
            request.method,
            base.copy_with(raw_path=base.raw_path.rstrip(b"/") + b"/" + path.encode()),
            headers=request.headers,
            content=request.content,
            extensions=request.extensions | {"timeout": self._timeouts(request)},
        )

    def _timeouts(self, request: httpx.Request) -> dict[str, float | None]:
        """Return the SDK's timeouts, with ours for those it lacks: an answer may stop halfway."""
        theirs = request.extensions.get("timeout") or {}
        ours: dict[str, float | None] = self._http.timeout.as_dict()
        return {name: ours[name] if theirs.get(name) is None else theirs[name] for name in ours}

    async def call(
        self, secret: SecretStr, request: Exchange, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Send a request with one key, judge the answer, and keep the answer in the exchange."""
        if unsent := unsent_reply(secret, self._http):
            return unsent
        on_sent.set(sent)
        request.response = request.error = None
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                response = await self._http.send(request.with_key(secret), stream=True)
                passes = request.is_streamed and _is_event_stream(response)
                if not passes:
                    await response.aread()
        except (httpx.HTTPError, TimeoutError) as error:
            request.error = error
            return Reply(judge_transport(error, if_ambiguous=Fate.RETRY))
        if passes:
            reply = await self._pass(response, request, secret)
            return replace(reply, verdict=_without_next_key(reply.verdict))
        request.response = _whole(response)
        answer = Answer.parse(response.status_code, response.headers, response.content)
        value = {"usage": _usage_of(answer.body)} if answer.ok else None
        return Reply(self._judged(answer, request, secret, value), value)

    async def close(self) -> None:
        """Do nothing: the connections belong to the provider."""

    async def _pass(self, response: httpx.Response, request: Exchange, secret: SecretStr) -> Reply:
        """Hand over a streamed answer, and judge it when its reader is finished."""
        decoder, heard = EventDecoder(), AssembledAnswer(NoListener())

        def read(piece: bytes) -> None:
            for data in decoder.feed(piece):
                heard.take(data)

        end = request.end
        request.opened.set_result(
            httpx.Response(
                response.status_code,
                headers=response.headers,
                stream=PassedStream(response, read, end),
                request=request.request,
                extensions=response.extensions,
            )
        )
        try:
            await end.ended.wait()
        finally:
            await response.aclose()
        if end.error is not None:
            return Reply(judge_transport(end.error, if_ambiguous=Fate.RETRY))
        answer = Answer(response.status_code, dict(response.headers.items()))
        value: dict[str, Any] = {"usage": heard.usage}
        if not end.complete or not request.request.url.path.endswith(_COMPLETIONS):
            # The reader has stopped early, or the events are not those of a completion.
            return Reply(self._judged(answer, request, secret, value), value)
        verdict = self._judge.streamed(
            heard.answer(response.status_code, answer.headers),
            heard,
            value=value if heard.complete else None,
            secret=secret,
            private=prompts_of(request.params),
        )
        return Reply(verdict, value)

    def _judged(
        self,
        answer: Answer,
        request: Exchange,
        secret: SecretStr,
        value: Mapping[str, Any] | None,
    ) -> Verdict:
        return self._judge(answer, value=value, secret=secret, private=prompts_of(request.params))


def _without_next_key(verdict: Verdict) -> Verdict:
    """End the turn: the reader already has this key's answer, so no other key may be called."""
    if verdict.fate in {Fate.NEXT_KEY, Fate.OTHER_ACCOUNT}:
        return replace(verdict, fate=Fate.RETRY)
    return verdict


def _is_event_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return response.is_success and kind.startswith(EVENT_STREAM)


def _usage_of(body: Any) -> dict[str, Any]:
    return as_object(member(body, "usage"))


def _whole(response: httpx.Response) -> httpx.Response:
    """Copy an answer that was read, with its decoded body and without its connection."""
    headers = [
        (name, value)
        for name, value in response.headers.raw
        if name.lower() not in {b"content-encoding", b"content-length", b"transfer-encoding"}
    ]
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=response.content,
        extensions={"http_version": b"HTTP/1.1"},
    )
