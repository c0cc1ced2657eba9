"""Groq chat completions: the wire through the official SDK, and the table of verdicts.

A completion has no side effect, so repeating one costs tokens at most.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import groq
import httpx
from pydantic import SecretStr

from worker.providers import key_check
from worker.providers.base import CLOSED, UNSENDABLE_KEY, is_sendable, judge_transport
from worker.providers.connections import on_sent, shared_client
from worker.providers.groq.answer import request_id_of, result_of
from worker.providers.groq.stream import EVENT_STREAM, EventDecoder, HeardAnswer, Listener
from worker.providers.groq.unknowns import GroqWatch
from worker.providers.groq.verdicts import GroqJudge
from worker.providers.key_check import KeyCheck
from worker.providers.response import Answer, texts_in
from worker.providers.unknowns import Notice, Shapes, ignore
from worker.verdicts import Fate, Reply

DEFAULT_RESERVED_TOKENS = 1_024
"""What a completion is taken to need where the request sets no cap, in tokens."""

DEFAULT_TIER = "on_demand"
"""The service tier of a completion that names none."""

_BYTES_A_TOKEN = 4
_MESSAGE_OVERHEAD_TOKENS = 4
_IMAGE_TOKENS = 1_000
_MAX_CLIENTS = 64
_AFTER_THE_END_S = (
    1.0  # the connection serves on if it is read to its end, which is not worth a long wait
)

_PATH = "/openai/v1/chat/completions"
_OPTIONS: Final[Any] = {
    "params": {},
    "headers": groq.NOT_GIVEN,
    "max_retries": groq.NOT_GIVEN,
    "timeout": groq.NOT_GIVEN,
    "idempotency_key": "unused",  # it is in no header: Groq has none
    "extra_json": None,
    "follow_redirects": None,
}
"""The SDK's own defaults.

What is not given it copies deeply at each call, and draws a random key that nobody sees.
"""


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion to ask for.

    Attributes:
        params: The validated keyword arguments of `chat.completions.create`: `model` and
            `messages`, not `stream`.
        model: The model.
        input_tokens: What the prompt counts, as an estimate.
        output_tokens: What is reserved for the answer.
        listener: Hears the answer while it comes; None: it comes in one piece.
    """

    params: Mapping[str, Any] = field(repr=False)
    model: str
    input_tokens: int
    output_tokens: int
    listener: Listener | None = field(default=None, repr=False)

    @classmethod
    def of(cls, params: Mapping[str, Any], *, listener: Listener | None = None) -> "Completion":
        """Make a completion with its estimate from validated arguments."""
        return cls(
            params, str(params["model"]), prompt_tokens(params), reserved_tokens(params), listener
        )

    @property
    def tokens(self) -> int:
        """The estimated use, prompt and reserved answer together."""
        return self.input_tokens + self.output_tokens

    @property
    def is_capped(self) -> bool:
        """Whether the request itself says how long the answer may be."""
        return bool(self.params.get("max_completion_tokens") or self.params.get("max_tokens"))

    def with_model(self, model: str) -> "Completion":
        """The same of another model."""
        return (
            self
            if model == self.model
            else replace(self, params={**self.params, "model": model}, model=model)
        )

    def capped(self, output_tokens: int) -> "Completion":
        """The same with an answer of at most so many tokens."""
        params = {**self.params, "max_completion_tokens": output_tokens}
        return replace(self, params=params, output_tokens=output_tokens)

    @property
    def limited_as(self) -> str:
        """What limits belong to, beside the account.

        The model, and the service tier where it is not the default.
        """
        tier = self.params.get("service_tier")
        return self.model if tier in {None, DEFAULT_TIER} else f"{self.model} ({tier})"

    @property
    def resource(self) -> str:
        """What a key can be shut out from: the model."""
        return self.model


def estimate_tokens(params: Mapping[str, Any]) -> int:
    """Estimate what Groq will count as requested: the prompt and the reserved answer, in tokens."""
    return prompt_tokens(params) + reserved_tokens(params)


def reserved_tokens(params: Mapping[str, Any]) -> int:
    """How many tokens are reserved for the answer.

    `max_completion_tokens`, else `max_tokens`, else `DEFAULT_RESERVED_TOKENS`, for each of `n`
    answers.
    """
    reserve = (
        params.get("max_completion_tokens") or params.get("max_tokens") or DEFAULT_RESERVED_TOKENS
    )
    return int(reserve) * int(params.get("n") or 1)


def prompt_tokens(params: Mapping[str, Any]) -> int:
    """Estimate what Groq will count for the prompt, in tokens.

    A quarter of the prompt's UTF-8 bytes (so that scripts beyond ASCII are not underrated), an
    image counts 1,000.
    """
    prompt_bytes, fixed = 0, 0
    for message in params.get("messages") or ():
        fixed += _MESSAGE_OVERHEAD_TOKENS
        content = message.get("content") if isinstance(message, Mapping) else message
        for part in content if isinstance(content, list | tuple) else [content]:
            if isinstance(part, Mapping) and "image_url" in part:
                fixed += _IMAGE_TOKENS
            else:
                prompt_bytes += sum(_size(text) for text in texts_in(part))
        prompt_bytes += sum(_size(text) for text in _texts_beside(message))
    for name in ("tools", "functions", "response_format", "documents"):
        if schema := params.get(name):
            prompt_bytes += len(json.dumps(schema, default=str))
    return -(-prompt_bytes // _BYTES_A_TOKEN) + fixed


class Groq:
    """Calls Groq with any key over one shared set of connections.

    Args:
        base_url: Where Groq is, with or without its `/openai/v1`.
        timeout_s: The longest silence while waiting for an answer, in seconds. The whole call may
            take twice as long.
        max_connections: The most calls at once in this process; further ones queue.
        fault_cooldown_ms: How long a key rests after a server error, in milliseconds.
        now: Tells the time in seconds since the epoch.
        jitter: Draws a number between two bounds.
        notice: Takes what the answers hold that nobody knows.
    """

    service = "groq"

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 60.0,
        max_connections: int = 5_000,
        fault_cooldown_ms: int = 5_000,
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
        self._clients: dict[str, groq.AsyncGroq] = {}
        self._judge = GroqJudge(fault_cooldown_ms=fault_cooldown_ms, now=now, jitter=jitter)
        self._watch = GroqWatch(notice)
        # At DEBUG the SDK logs whole requests, prompts included.
        logging.getLogger("groq._base_client").setLevel(logging.INFO)

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Make the SDK's clients, so that the first call is as quick as the others (100 ms the first, 2 the next)."""
        for secret in secrets:
            if is_sendable(secret):
                self._client(secret)

    async def call(
        self, secret: SecretStr, request: Completion, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Ask for one completion and judge the answer.

        Returns:
            On success the value is the first choice as `groq_answer.result_of` makes it, streamed
            or not.
        """
        if not is_sendable(secret):
            return Reply(UNSENDABLE_KEY)
        if self._http.is_closed:
            return Reply(CLOSED)
        on_sent.set(sent)
        heard = HeardAnswer(request.listener) if request.listener else None
        try:
            async with asyncio.timeout(2 * self._timeout_s) as limit:
                response = await self._post(secret, request, stream=heard is not None)
                if heard:
                    await _listen(response, heard, limit)
        except groq.APIStatusError as error:
            response, heard = error.response, None
        except (groq.APIConnectionError, httpx.HTTPError, TimeoutError) as error:
            if heard is None or not (heard.complete or heard.broken):
                cause = error.__cause__ if isinstance(error, groq.APIConnectionError) else None
                return Reply(judge_transport(cause or error, if_ambiguous=Fate.RETRY))
        return self._read(response, heard, request, secret)

    def _read(
        self,
        response: httpx.Response,
        heard: HeardAnswer | None,
        request: Completion,
        secret: SecretStr,
    ) -> Reply:
        """Judge what came, whole or in pieces."""
        private = _prompts(request.params)
        if heard is not None and _is_event_stream(response):
            body = None if heard.error is None else {"error": heard.error}
            status = response.status_code if heard.error is None else heard.error_status()
            answer, value = Answer(status, response.headers, body), heard.value(response.headers)
            verdict = self._judge.streamed(
                answer, heard, value=value, secret=secret, private=private
            )
            message, finish_reason = heard.later_fields, heard.finish_reason
        else:
            # The SDK's own parser returns a str for text/html and raises on bad JSON, so the body
            # is read here.
            answer = Answer.parse(response.status_code, response.headers, response.content)
            choice = _first_choice(answer)
            value = None if choice is None else _value(answer, choice)
            message, finish_reason = (
                (choice["message"], choice.get("finish_reason")) if choice else ({}, None)
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
        """Let the SDK send the request as it is.

        `create` would look through the arguments for names to translate, of which a completion has
        none, and make a model of the answer, which is read elsewhere; it would take the URL apart
        each time, too. All that is half of a
        call: 0.68 ms of CPU against 0.28 (measured).
        """
        # The parameter only where it is wanted: a request without it stays as it was.
        body = {**request.params, "stream": True} if stream else request.params
        answer = await self._client(secret).post(
            cast("str", self._url),
            cast_to=httpx.Response,
            body=body,
            options=_OPTIONS,
            stream=stream,
            stream_cls=groq.AsyncStream[Any],
        )
        return cast("httpx.Response", answer)

    def _client(self, secret: SecretStr) -> groq.AsyncGroq:
        value = secret.get_secret_value()
        client = self._clients.get(value)
        if client is None:
            # One SDK client a key, made once: 2.1 ms a call against 3.0 ms with `with_options`
            # (measured).
            client = groq.AsyncGroq(
                api_key=value,
                base_url=self._base_url,
                timeout=self._http.timeout,
                max_retries=0,  # the key pool decides, the SDK would hammer the same key
                http_client=self._http,
            )
            if len(self._clients) >= _MAX_CLIENTS:  # only after many reloads with other keys
                self._clients.pop(next(iter(self._clients)))
            self._clients[value] = client
        return client


async def _listen(response: httpx.Response, heard: HeardAnswer, limit: asyncio.Timeout) -> None:
    """Hear an answer to its end. Always leaves the connection behind in order."""
    try:
        if not _is_event_stream(response):
            await response.aread()
            return
        decoder = EventDecoder()
        async for part in response.aiter_bytes():
            for data in decoder.feed(part):
                heard.take(data)
            if heard.done or heard.broken:
                limit.reschedule(asyncio.get_running_loop().time() + _AFTER_THE_END_S)
    finally:
        await response.aclose()


def _is_event_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith(EVENT_STREAM)


def _first_choice(answer: Answer) -> dict[str, Any] | None:
    """The first choice of a completion, or None where the body is none."""
    choices = answer.body.get("choices") if answer.ok and isinstance(answer.body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) and isinstance(first.get("message"), dict) else None


def _value(answer: Answer, choice: dict[str, Any]) -> dict[str, Any]:
    """What the caller gets."""
    return result_of(
        choice["message"],
        body=answer.body,
        finish_reason=choice.get("finish_reason"),
        logprobs=choice.get("logprobs"),
        request_id=request_id_of(answer.body.get("x_groq"), answer.headers),
    )


def _prompts(params: Mapping[str, Any]) -> list[str]:
    messages = [message for message in params.get("messages") or () if isinstance(message, Mapping)]
    texts = [text for message in messages for text in texts_in(message.get("content"))]
    texts += [text for message in messages for text in _texts_beside(message)]
    return [*texts, *texts_in(params.get("documents"))]


def _texts_beside(message: Any) -> Iterable[str]:
    """The texts of a message beside its content: what the model thought, and what it called."""
    if isinstance(message, Mapping):
        yield from texts_in(message.get("reasoning"))
        yield from texts_in(message.get("tool_calls"))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
