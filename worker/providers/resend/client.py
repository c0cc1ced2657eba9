"""Sends emails with Resend through the official SDK.

An email is a side effect. A call that may have been accepted is repeated only with the same
account, idempotency key and bytes.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, cast

import httpx
import resend
from pydantic import SecretStr

from worker.foreign_json import as_object, as_text, member
from worker.providers import key_check
from worker.providers.base import is_sendable, judge_transport, unsent_reply
from worker.providers.connections import on_sent, shared_client
from worker.providers.key_check import KeyCheck
from worker.providers.resend import http
from worker.providers.resend.limits import EMAIL_QUOTAS
from worker.providers.resend.request import SendRequest, recipients_in
from worker.providers.resend.unknowns import unknown_in
from worker.providers.resend.verdicts import ResendJudge
from worker.providers.response import Answer, safe_sentence, texts_in
from worker.providers.unknowns import Notice, Shapes, ignore
from worker.verdicts import Cooldown, Effect, Fate, Reply, Verdict

_RESEND_HOST = "api.resend.com"
_PRIVATE_FIELDS = ("html", "text", "subject", "attachments", "template")


class Resend:
    """Sends emails with any key over one shared set of connections.

    Args:
        api_url: Resend's base URL.
        timeout_s: The read timeout, in seconds. The whole call may take twice as long.
        max_connections: How many calls this process makes at once; further calls queue.
        now: Returns the time in seconds since the epoch.
        jitter: Draws a number between two bounds.
        notice: Is called with the unknown parts of answers.
    """

    service = "resend"

    def __init__(
        self,
        api_url: str,
        *,
        timeout_s: float = 30.0,
        max_connections: int = 1_000,
        now: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
        notice: Notice = ignore,
    ) -> None:
        self._timeout_s = timeout_s
        # Idle connections are not kept for long: a call over a connection that the far side has
        # just dropped fails ambiguously.
        self._http = shared_client(
            api_url.rstrip("/"),
            timeout_s=timeout_s,
            max_connections=max_connections,
            keepalive_expiry_s=4.0,
        )
        self._firsts: dict[str, httpx.Request] = {}
        self._judge = ResendJudge(now=now, jitter=jitter)
        self._notice = notice
        # Resend's own address takes batches. A stand-in for it is asked before the first batch.
        self._has_batches = httpx.URL(api_url).host == _RESEND_HOST
        http.install()

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Do nothing: the SDK has no client for each key."""

    async def call(
        self, secret: SecretStr, request: SendRequest, *, sent: Callable[[], None] | None = None
    ) -> Reply:
        """Send one email or one batch and judge the answer.

        Returns:
            On success, the value of an email has its `id`. The value of a batch has `results`, in
            the order of its emails: each has the email's `id`, or `error` if this email was
            refused.
        """
        if unsent := unsent_reply(secret, self._http):
            return unsent
        payload = request.payload
        if request.is_batch and not self._has_batches and (refusal := await self._ask(secret)):
            return Reply(_charged(refusal, payload, None))
        on_sent.set(sent)
        exchange = http.Exchange(secret, self._http, self._firsts, request.body.encode())
        token = http.current.set(exchange)
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await _send(payload, request.idempotency_key)
        except TimeoutError as error:
            exchange.error = error
        except Exception:
            # An answer that the SDK cannot read is judged below: the email may have been accepted.
            if exchange.answer is None and exchange.error is None:
                raise  # no call was made: this is an error of ours
        finally:
            http.current.reset(token)
        if exchange.answer is None:
            error_met = exchange.error or RuntimeError("the SDK returned without a call")
            return Reply(
                _charged(judge_transport(error_met, if_ambiguous=Fate.SAME_ACCOUNT), payload, None)
            )
        return self._read(exchange.answer, request, payload, secret)

    def _read(self, answer: Answer, request: SendRequest, payload: Any, secret: SecretStr) -> Reply:
        """Judge the answer itself, because the SDK's exception has only a part of it."""
        value = _results(answer, payload, secret) if request.is_batch else _value(answer)
        private = _private(payload) if value is None else ()
        verdict = self._judge(answer, value=value, secret=secret, private=private)
        shapes = Shapes(secret, texts_in(payload))
        for unknown in unknown_in(answer, status=verdict.status, shapes=shapes):
            self._notice(unknown)
        if request.divisible and verdict.code in EMAIL_QUOTAS:
            verdict = _of_a_batch(verdict)
        return Reply(_charged(verdict, payload, value), value)

    async def _ask(self, secret: SecretStr) -> Verdict | None:
        """Ask a stand-in for Resend, with an empty batch, whether it takes batches.

        A 404 for a batch with emails would prove nothing: a proxy in front of the stand-in may
        answer with a 404 after the batch was accepted.

        Returns:
            None if the stand-in takes batches; else the reason why none can be sent now. Nothing
            was sent.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.post(
                    "/emails/batch",
                    json=[],
                    headers={"Authorization": f"Bearer {secret.get_secret_value()}"},
                )
        except (httpx.HTTPError, TimeoutError) as error:
            return replace(judge_transport(error, if_ambiguous=Fate.RETRY), definite=True)
        answer = Answer.parse(response.status_code, response.headers, response.content)
        verdict = self._judge(answer, value=None, secret=secret)
        self._has_batches = verdict.fate is Fate.FAIL or (answer.ok and answer.body is not None)
        return None if self._has_batches else _without_batches(answer, verdict)

    async def check(self, secret: SecretStr) -> KeyCheck:
        """Ask whether a key is alive, and for the quotas and the rate limit of its team.

        Resend does not show the limits to a key that may only send.
        """
        if not is_sendable(secret):
            return key_check.UNSENDABLE
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.get(
                    "/usage", headers={"Authorization": f"Bearer {secret.get_secret_value()}"}
                )
        except (httpx.HTTPError, TimeoutError) as error:
            return KeyCheck("unknown", judge_transport(error, if_ambiguous=Fate.RETRY).reason)
        answer = Answer.parse(response.status_code, response.headers, response.content)
        if answer.ok and isinstance(answer.body, dict):
            return KeyCheck("alive", limits=key_check.quotas_in(answer.body))
        if answer.code == "restricted_api_key":
            return KeyCheck(
                "alive", "the key may only send, so its quotas are unknown until they are used up"
            )
        return key_check.refused(answer, self._judge(answer, value=None, secret=secret), secret)

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        await self._http.aclose()


async def _send(payload: Any, idempotency_key: str) -> None:
    if isinstance(payload, list):
        # One bad address must fail one email, not a hundred.
        await resend.Batch.send_async(
            payload, {"idempotency_key": idempotency_key, "batch_validation": "permissive"}
        )
        return
    await resend.Emails.send_async(
        cast("resend.Emails.SendParams", dict(payload)), {"idempotency_key": idempotency_key}
    )


def _without_batches(answer: Answer, verdict: Verdict) -> Verdict:
    """Return the verdict on a stand-in for Resend that refuses even an empty batch.

    The stand-in may not know `/emails/batch`. Any other refusal applies to emails as well, but
    nothing was sent.
    """
    unknown = answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    if unknown and not answer.is_page:
        reason = "this server has no endpoint for batches"
        return Verdict(Fate.FAIL, "no_batches", reason, status=verdict.status)
    fate = Fate.RETRY if verdict.fate is Fate.SAME_ACCOUNT else verdict.fate
    return replace(verdict, fate=fate, definite=True)


def _charged(verdict: Verdict, payload: Any, value: Mapping[str, Any] | None) -> Verdict:
    """Add the number of a batch's recipients to a verdict.

    The number counts the recipients of the accepted emails, or of all emails if it is not known
    which were accepted.
    """
    if not isinstance(payload, list):
        return verdict
    results = value["results"] if value is not None else [{}] * len(payload)
    count = sum(
        recipients_in(email)
        for email, result in zip(payload, results, strict=True)
        if "error" not in result
    )
    return replace(verdict, emails=count)


def _of_a_batch(verdict: Verdict) -> Verdict:
    """Remove the rest from a quota's refusal of a batch, because fewer emails may still fit."""
    left = tuple(replace(seen, spent=False) for seen in verdict.quotas)
    return replace(
        verdict, effect=Effect.NONE, cooldown=Cooldown.LIMIT, cooldown_ms=None, quotas=left
    )


def _private(payload: Any) -> list[str]:
    emails = payload if isinstance(payload, list) else [payload]
    return [
        text for email in emails for name in _PRIVATE_FIELDS for text in texts_in(email.get(name))
    ]


def _results(answer: Answer, payload: list[Any], secret: SecretStr) -> dict[str, Any] | None:
    """Return the result of each email of a batch; None if the answer leaves one of them out.

    `data` lists only the accepted emails, in the order of the batch; `errors` has the positions of
    the others.
    """
    body = as_object(answer.body) if answer.ok else {}
    data, errors = body.get("data"), body.get("errors") or []
    if (
        not isinstance(data, list)
        or not isinstance(errors, list)
        or len(data) + len(errors) != len(payload)
    ):
        return None
    results = _refused_of(errors, payload, secret)
    if results is None:
        return None
    accepted = iter(data)
    for index, known in enumerate(results):
        if known is None:
            email = next(accepted)
            number = as_text(member(email, "id"))
            if not number:
                return None
            results[index] = {"id": number}
    return {"results": results}


def _refused_of(
    errors: list[Any], payload: list[Any], secret: SecretStr
) -> list[dict[str, Any] | None] | None:
    """Return the results of the refused emails at their positions; None if a position is wrong."""
    results: list[dict[str, Any] | None] = [None] * len(payload)
    for error in errors:
        index = member(error, "index")
        if type(index) is not int or not 0 <= index < len(payload) or results[index] is not None:
            return None
        sentence = safe_sentence(
            as_text(error.get("message")),
            secret=secret.get_secret_value(),
            private=_private(payload[index]),
        )
        rejects = "Resend rejects the email"
        results[index] = {"error": f"{rejects}: {sentence}" if sentence else rejects}
    return results


def _value(answer: Answer) -> dict[str, Any] | None:
    """Return the result for the caller, or None if it is not certain that Resend took the email."""
    number = as_text(member(answer.body, "id"))
    return {"id": number} if answer.ok and number else None
