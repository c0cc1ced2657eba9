"""The transport for other SDKs handles a request, without a pool and without a provider."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from worker.clients import transport as transport_module
from worker.clients.transport import RotatingTransport, _answer, _first_of, _lease_for
from worker.errors import RequestRejected, RequestTooLarge, TransientError
from worker.jobs.job_run import current_run
from worker.keypool import LeaseRequest
from worker.providers.exchange import Exchange

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def request(**headers: str) -> httpx.Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Request("POST", "https://p.example/v1/chat", headers=names, json=CHAT)


async def exchange_of(params: Any) -> Exchange:
    return Exchange.of(httpx.Request("POST", "https://p.example", content=json.dumps(params)))


def test_only_a_service_whose_provider_passes_requests_on_has_a_transport() -> None:
    with pytest.raises(
        ValueError, match=r"'resend' does not pass requests of other SDKs on, only groq does"
    ):
        RotatingTransport("resend")
    with pytest.raises(ValueError, match="'grok' does not pass requests"):
        RotatingTransport("grok")


class Sending:
    """A transport whose rotation has planned answers, and notes its lease requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcome: Any = httpx.Response(207)
        self.leases: list[Any] = []
        self.transport = RotatingTransport(longest_wait_s=7.0)
        provider = SimpleNamespace(with_base_url=lambda request: request)
        rotation = SimpleNamespace(provider=provider, waiting="the line")

        async def get_rotation() -> Any:
            return rotation

        async def wait(make: Any, waiting: str, *, longest_wait_s: float) -> Any:
            assert (waiting, longest_wait_s) == ("the line", 7.0)
            return await make(3.0)

        async def send(rotation: Any, lease: Any, *given: Any) -> Any:
            assert given[-1] == 3.0
            self.leases.append(lease)
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

        monkeypatch.setattr(self.transport, "_rotation", get_rotation)
        monkeypatch.setattr(self.transport, "_send", send)
        monkeypatch.setattr(transport_module, "wait_in_place", wait)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    return Sending(monkeypatch)


async def test_a_request_outside_of_a_job_is_sent_without_one(sending: Sending) -> None:
    sent = await sending.transport.handle_async_request(request())
    assert sent is sending.outcome
    assert [lease.model for lease in sending.leases] == ["m"]
    sending.outcome = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        await sending.transport.handle_async_request(request())


async def test_a_job_at_its_soft_time_limit_is_not_tried_again_by_the_sdk(sending: Sending) -> None:
    """SDKs take every exception of a transport for a connection error, and try again."""
    run: Any = SimpleNamespace(soft_limit=None, of_this_job=lambda lease: ("of the job", lease))
    token = current_run.set(run)
    try:
        await sending.transport.handle_async_request(request(x_stainless_retry_count="1"))
        assert [lease[0] for lease in sending.leases] == ["of the job"]
        sending.outcome = limit = SoftTimeLimitExceeded()
        with pytest.raises(SoftTimeLimitExceeded):
            await sending.transport.handle_async_request(request())
        assert run.soft_limit is limit
        with pytest.raises(SoftTimeLimitExceeded) as again:
            await sending.transport.handle_async_request(request(x_stainless_retry_count="1"))
        assert again.value is limit
        assert len(sending.leases) == 2, "no key was asked for"
        sending.outcome = httpx.Response(207)
        for headers in ({}, {"x_stainless_retry_count": "0"}):  # another call of the same job
            sent = await sending.transport.handle_async_request(request(**headers))
            assert sent is sending.outcome
    finally:
        current_run.reset(token)


@pytest.mark.parametrize("is_job", [True, False])
@pytest.mark.parametrize("is_owned", [True, False])
async def test_a_call_begins_only_while_the_job_is_this_workers_and_has_time(
    *, is_job: bool, is_owned: bool
) -> None:
    run = Mock()

    async def before() -> None:
        run.end_if_lost()

    lease: Any = SimpleNamespace(before_call=before if is_owned else None)
    token = current_run.set(run if is_job else None)
    try:
        await transport_module._before_call(lease)
    finally:
        current_run.reset(token)
    names = ["end_if_lost"] * is_owned + ["end_if_over"] * is_job
    assert [call[0] for call in run.mock_calls] == names


# The content of a request, and its lease request.
@pytest.mark.parametrize(
    ("params", "lease"),
    [
        ({}, LeaseRequest()),
        ("no object", LeaseRequest()),
        ({"model": 7}, LeaseRequest()),
        ({"model": "\ud800", "messages": []}, LeaseRequest()),  # Redis cannot store it
        ({"model": "m"}, LeaseRequest(model="m", resource="m")),
        ({"model": "m", "messages": "x"}, LeaseRequest(model="m", resource="m")),
        (CHAT | {"max_tokens": "many"}, LeaseRequest(model="m", resource="m")),
    ],
)
async def test_a_request_with_senseless_fields_goes_out_as_it_is(
    params: Any, lease: LeaseRequest
) -> None:
    exchange = await exchange_of(params)
    request_made, build = _lease_for(exchange)
    assert request_made == lease
    assert build(SimpleNamespace(capped=True)) is exchange
    assert exchange.changes == {}


async def test_a_completion_reserves_its_tokens_and_is_capped_if_fewer_fit() -> None:
    exchange = await exchange_of(CHAT)
    lease, build = _lease_for(exchange)
    assert (lease.model, lease.resource, lease.flexible) == ("m", "m", True)
    assert lease.tokens >= lease.output_tokens > 0 < lease.input_tokens
    fewer = SimpleNamespace(capped=True, request=SimpleNamespace(output_tokens=50))
    assert build(fewer) is exchange
    assert exchange.changes == {"max_completion_tokens": 50}
    fewer.capped = False
    build(fewer)
    assert exchange.changes == {}
    capped, _ = _lease_for(await exchange_of(CHAT | {"max_completion_tokens": 9}))
    assert (capped.flexible, capped.output_tokens) == (False, 9)


BROKEN, ANSWERED = httpx.ConnectError("broken"), httpx.Response(429)
REJECTED, TOO_LARGE = RequestRejected("no key may serve it"), RequestTooLarge("too large")
PASSES = TransientError("passes")


# How the serving ended, the provider's answer, and the answer or error of the SDK.
@pytest.mark.parametrize(
    ("ended", "answer", "given"),
    [
        (None, ANSWERED, ANSWERED),
        (None, BROKEN, BROKEN),
        (REJECTED, ANSWERED, ANSWERED),
        (PASSES, ANSWERED, ANSWERED),
        (REJECTED, BROKEN, BROKEN),
        (PASSES, BROKEN, BROKEN),
        (PASSES, None, PASSES),
        (REJECTED, None, 400),
        (TOO_LARGE, None, 413),
    ],
)
async def test_the_sdk_gets_what_the_provider_answered(ended: Any, answer: Any, given: Any) -> None:
    exchange = await exchange_of(CHAT)
    if isinstance(answer, Exception):
        exchange.error = answer
    else:
        exchange.response = answer

    async def serve() -> None:
        if ended is not None:
            raise ended

    if isinstance(given, Exception):
        with pytest.raises(type(given)) as raised:
            await _answer(serve(), exchange)
        assert raised.value is given
        return
    response = await _answer(serve(), exchange)
    if isinstance(given, int):
        error = {"message": str(ended), "type": "invalid_request_error", "code": "no_key_may_serve"}
        assert (response.status_code, response.json()) == (given, {"error": error})
    else:
        assert response is given


async def test_a_streamed_answer_is_given_as_soon_as_it_begins_and_ends_with_its_job() -> None:
    exchange, ends = await exchange_of(CHAT | {"stream": True}), asyncio.Event()
    exchange.opened.set_result(ANSWERED)
    run: Any = SimpleNamespace(closers=set())
    token = current_run.set(run)
    try:
        serving = asyncio.ensure_future(ends.wait())
        assert await _first_of(serving, exchange) is ANSWERED
    finally:
        current_run.reset(token)
    assert run.closers == {exchange.end.end}
    ends.set()
    await serving
    await asyncio.sleep(0)
    assert run.closers == set()


async def test_a_stream_that_does_not_begin_is_an_answer_like_any_other() -> None:
    exchange = await exchange_of(CHAT | {"stream": True})
    exchange.response = ANSWERED
    assert await _first_of(asyncio.ensure_future(asyncio.sleep(0)), exchange) is ANSWERED


async def test_a_cancelled_call_ends_what_it_had_begun() -> None:
    exchange, ended = await exchange_of(CHAT | {"stream": True}), asyncio.Event()

    async def serve() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # its lease is returned
            ended.set()

    call = asyncio.ensure_future(_first_of(asyncio.ensure_future(serve()), exchange))
    for _ in range(2):
        await asyncio.sleep(0)
    call.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await call
    assert ended.is_set()
