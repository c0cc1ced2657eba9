"""Defines an httpx transport that sends each request with a key of the pool."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from weakref import WeakKeyDictionary

import httpx
from billiard.exceptions import SoftTimeLimitExceeded

from worker.clients.session import runtime
from worker.clients.waiting import wait_in_place
from worker.errors import RequestRejected, RequestTooLarge, TransientError
from worker.jobs.job_run import current_run
from worker.keypool import Lease, LeaseRequest
from worker.providers.exchange import Exchange
from worker.providers.groq.completion import Completion
from worker.providers.registry import BUILDERS
from worker.rotation.rotation import Rotation

_RETRY_COUNT: Final = "x-stainless-retry-count"
"""The header in which SDKs made by Stainless, such as Groq's and OpenAI's, count their retries.

Source: `_base_client.py` of groq 1.7 (`_build_headers`)."""


class RotatingTransport(httpx.AsyncBaseTransport):
    """Sends each request with any key that is free, like the tasks of this project.

    It waits in line for a key, tries the next key if the provider refuses one, and reports the
    verdict on each answer to the pool. The API key of the SDK does not matter. Requests go to the
    service's address in the settings, not to the address in the SDK.

    In a job, a request raises `Deferred` if no key will be free for a while. If the task does not
    catch it, the job goes back to its queue and runs again when a key is free, which costs no
    retry. Outside a job the request waits.

    Args:
        service: A service whose provider passes requests on (it has `passing`).
        longest_wait_s: How long a request itself waits for a key, in seconds, also in a job. With
            None, a job waits as described above, and a request outside a job waits for up to
            `KEYWHEEL_DEADLINE_S`.

    Raises:
        ValueError: The service does not pass requests on.
    """

    def __init__(self, service: str = "groq", *, longest_wait_s: float | None = None) -> None:
        if not hasattr(BUILDERS.get(service), "passing"):
            able = ", ".join(
                name for name, builder in BUILDERS.items() if hasattr(builder, "passing")
            )
            raise ValueError(
                f"service: {service!r} does not pass requests of other SDKs on, only {able} does; "
                "send emails with `worker.clients.resend`"
            )
        self._service: Final = service
        self._longest_wait_s: Final = longest_wait_s
        self._rotations: WeakKeyDictionary[Rotation[Any], Rotation[Exchange]] = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            Deferred: No key will be free for a while.
            httpx.TransportError: The connection failed; the SDK may try again.
        """
        await request.aread()
        rotation = await self._rotation()
        exchange = Exchange.of(rotation.provider.with_base_url(request))  # type: ignore[attr-defined]
        lease_request, build = _lease_for(exchange)
        run = current_run.get()
        if run is not None:
            if run.soft_limit is not None and request.headers.get(_RETRY_COUNT, "0") != "0":
                raise run.soft_limit  # the SDK took the limit for a connection error, and retried
            lease_request = run.of_this_job(lease_request)
        try:
            return await wait_in_place(
                lambda line_s: self._send(rotation, lease_request, exchange, build, line_s),
                rotation.waiting,
                longest_wait_s=self._longest_wait_s,
            )
        except SoftTimeLimitExceeded as limit:
            if run is not None:
                run.soft_limit = limit
            raise

    async def _rotation(self) -> Rotation[Exchange]:
        ours = (await runtime()).rotations[self._service]
        found = self._rotations.get(ours)
        if found is None:
            found = Rotation(
                ours.pool,
                ours.provider.passing(),  # type: ignore[attr-defined]
                before_call=partial(_before_call, ours),
                usage=ours.usage,
                charges=ours.charges,
            )
            # All wait in one line: our jobs and requests of other SDKs need the same keys.
            found.waiting, found.sending = ours.waiting, ours.sending
            self._rotations[ours] = found
        return found

    async def _send(
        self,
        rotation: Rotation[Exchange],
        lease_request: LeaseRequest,
        exchange: Exchange,
        build: Any,
        longest_s: float | None,
    ) -> httpx.Response:
        serving = rotation.serve(lease_request, build, longest_s=longest_s)
        if exchange.is_streamed:
            return await _first_of(asyncio.ensure_future(serving), exchange)
        return await _answer(serving, exchange)


async def _before_call(ours: Rotation[Any]) -> None:
    if ours.before_call is not None:
        await ours.before_call()
    if (run := current_run.get()) is not None:
        run.end_if_over()


async def _answer(serving: Awaitable[Any], exchange: Exchange) -> httpx.Response:
    """Return the provider's answer, even an error: the SDK raises its own exception for it."""
    try:
        await serving
    except (RequestRejected, TransientError) as error:
        if exchange.response is None and exchange.error is None:
            if isinstance(error, TransientError):
                raise
            return _refusal(error)
    if exchange.response is None:
        assert exchange.error is not None  # noqa: S101 - for mypy
        raise exchange.error
    return exchange.response


def _refusal(error: RequestRejected) -> httpx.Response:
    """Make an answer in the provider's form: the pool knows that no key may serve this request."""
    status = HTTPStatus.BAD_REQUEST
    if isinstance(error, RequestTooLarge):
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    details = {"message": str(error), "type": "invalid_request_error", "code": "no_key_may_serve"}
    return httpx.Response(status, json={"error": details})


async def _first_of(serving: "asyncio.Task[Any]", exchange: Exchange) -> httpx.Response:
    """Return a streamed answer as soon as it begins; its lease is settled when it has ended."""
    try:
        await asyncio.wait({serving, exchange.opened}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        raise
    if exchange.opened.done():
        serving.add_done_callback(_retrieve)
        if (run := current_run.get()) is not None:
            end = exchange.end.end
            run.closers.add(end)
            serving.add_done_callback(lambda _: run.closers.discard(end))
        return exchange.take_opened()
    return await _answer(serving, exchange)


def _retrieve(serving: "asyncio.Task[Any]") -> None:
    if not serving.cancelled():
        serving.exception()  # mark it as retrieved: the reader has already got it


def _lease_for(exchange: Exchange) -> tuple[LeaseRequest, Any]:
    """Return the lease request of an SDK's request, and a function that adapts it to a lease.

    The request was not checked. If it is not valid, the provider says what is wrong.
    """
    params = exchange.params
    model = params.get("model")
    if not (isinstance(model, str) and _is_text(model)):
        return LeaseRequest(), lambda _: exchange
    if not isinstance(params.get("messages"), list):
        return LeaseRequest(model=model, resource=model), lambda _: exchange
    try:
        completion = Completion.of(params)
        lease_request = LeaseRequest(
            model=completion.limited_as,
            resource=completion.resource,
            tokens=completion.tokens,
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
            flexible=not completion.is_capped,
        )
    except (TypeError, ValueError, OverflowError):
        return LeaseRequest(model=model, resource=model), lambda _: exchange

    def build(lease: Lease) -> Exchange:
        exchange.changes = (
            {"max_completion_tokens": lease.request.output_tokens} if lease.capped else {}
        )
        return exchange

    return lease_request, build


def _is_text(model: str) -> bool:
    """Whether Redis can store a name: JSON may contain half a character."""
    try:
        model.encode()
    except UnicodeEncodeError:
        return False
    return True
