"""Responses and log lines about an error in our code, and about a Redis that is down."""

import asyncio
from typing import Any

import httpx
import pytest
from celery.exceptions import BackendGetMetaError, BackendStoreError
from kombu.exceptions import ChannelError, ConnectionError, OperationalError  # noqa: A004 - of AMQP
from redis.exceptions import RedisError

from tests.integration.dashboard.dashboard_site import LOGIN, PREFIX, Serve, until
from worker.dashboard import broker, jobs, keys, poller
from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.queues import QueueWatch
from worker.startup.patience import REPLY_S

_ASKED = (
    *(f"{PREFIX}/{path}" for path in ("status", "events", "audit", "calls?service=groq&key=k")),
    *(f"/api/admin/{path}" for path in ("usage", "quote?service=groq", "dead-letters", "jobs/j1")),
)
_CHANGES = {
    **{f"{PREFIX}/{path}": {} for path in ("reset", "check", "reload")},
    **{f"{PREFIX}/{path}": {"service": "groq"} for path in ("pause", "resume")},
    **{f"{PREFIX}/{path}": {"service": "groq", "key": "k"} for path in ("disable", "enable")},
    f"{PREFIX}/note": {"service": "groq", "key": "k", "note": "n"},
    **{f"/api/admin/dead-letters/{path}": {"all": True} for path in ("replay", "drop")},
    "/api/admin/jobs/j1/cancel": {},
}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ValueError("a detail"), 500, "internal_error"),
        (RedisUnreachable("away"), 503, "redis_unreachable"),
    ],
)
async def test_every_endpoint_distinguishes_our_faults_from_those_of_redis_without_a_traceback(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, code: str
) -> None:
    site = await serve()
    monkeypatch.setattr(keys, "_REPLY_TIMEOUT_S", 0.01)  # no worker runs

    async def broken(*_: Any, **__: Any) -> None:
        raise fault

    async def get(path: str) -> httpx.Response:
        return await site.client.get(path, auth=LOGIN)

    requests = []
    # The endpoints read other things first.
    for reads, path in (("with_broker", "/api/admin/jobs/j1"), ("with_actions", f"{PREFIX}/audit")):
        with monkeypatch.context() as patch:
            patch.setattr(site.app.poller, reads, broken)
            requests.append(await get(path))
    monkeypatch.setattr(site.app.poller, "_on_its_thread", broken)
    requests += [await get(path) for path in _ASKED]
    requests += [
        await site.client.post(path, auth=LOGIN, json=body) for path, body in _CHANGES.items()
    ]
    endpoints = [
        (answer.request.url.path, answer.status_code, answer.json().get("error"))
        for answer in requests
    ]
    assert endpoints == [(path, status, code) for path, *_ in endpoints]
    assert not [answer.text for answer in requests if "detail" in answer.text]


_OF_STORES = (RedisError(), OperationalError(), OSError(), BackendGetMetaError("away"))
_OF_BROKERS = (OperationalError(), ChannelError(), ConnectionError(), RedisError(), OSError())


@pytest.mark.parametrize(
    ("action", "errors", "code"),
    [
        ("ask_workers", _OF_BROKERS, "broker_unreachable"),
        ("look_up", _OF_STORES, "redis_unreachable"),
    ],
)
async def test_an_endpoint_that_asks_the_broker_distinguishes_its_errors_from_a_bug(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    errors: tuple[Exception, ...],
    code: str,
) -> None:
    site = await serve()
    is_reload = action == "ask_workers"
    path = f"{PREFIX}/reload" if is_reload else "/api/admin/jobs/j1"

    async def ask(error: Exception) -> tuple[int, str]:
        def broken(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(keys if is_reload else jobs, action, broken)
        method, body = ("POST", {}) if is_reload else ("GET", None)
        answer = await site.client.request(method, path, auth=LOGIN, json=body)
        return answer.status_code, answer.json()["error"]

    assert [await ask(error) for error in errors] == [(503, code)] * len(errors)
    assert await ask(TypeError("a bug")) == (500, "internal_error")


async def test_a_call_on_the_poller_fails_as_redis_does_or_as_a_bug(serve: Serve) -> None:
    site = await serve()

    async def ask(error: Exception) -> None:
        async def broken(*_: Any) -> None:
            raise error

        await site.app.poller.with_actions(broken)

    for error in (RedisError(), TimeoutError(), OSError(), BackendStoreError("full")):
        with pytest.raises(RedisUnreachable, match=type(error).__name__):
            await ask(error)
    with pytest.raises(TypeError, match="a bug"):
        await ask(TypeError("a bug"))


async def test_a_failing_read_is_logged_once_for_as_long_as_it_fails(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys and the queues: logged at once at first, and again after a successful read."""
    monkeypatch.setattr(poller, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(poller, "_RELOAD_KEYS_INTERVAL_S", 0.0)
    tries = {"keys": 0, "queues": 0}

    def broken_keys(_: str) -> None:
        tries["keys"] += 1
        raise ZeroDivisionError

    def broken_queues(_: QueueWatch) -> None:
        tries["queues"] += 1
        raise ZeroDivisionError

    async def are_read_again() -> bool:
        state = site.app.poller.state
        return state is not None and all(view.queue.known for view in state.services.values())

    site: Any = None
    for times in (1, 2):
        tries.update(keys=0, queues=0)
        with monkeypatch.context() as patch:
            patch.setattr(poller, "load_keys", broken_keys)
            patch.setattr(QueueWatch, "poll", broken_queues)
            site = site or await serve()
            async with asyncio.timeout(10):
                while min(tries.values()) < 3:  # noqa: ASYNC110 - the poller's thread tries
                    await asyncio.sleep(0.01)
        for action in ("read the key pools", "count the queues"):
            assert caplog.text.count(f"cannot {action} (ZeroDivisionError)") == times
        assert not site.app.poller._queue("ai").known
        await until(are_read_again, bool)


@pytest.mark.parametrize("words", ["Timeout reading from 127.0.0.1:6379", "it is 100% away"])
async def test_flowers_own_endpoints_say_that_the_broker_is_down(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    site = await serve()

    async def broken_count(*_: Any) -> None:
        raise RedisError(words)

    def broken_grow(*_: Any, **__: Any) -> None:
        raise RedisError(words)

    monkeypatch.setattr(broker, "_stock_queues", broken_count)
    monkeypatch.setattr(site.app.capp.control, "pool_grow", broken_grow)
    answer = await site.client.get("/api/queues/length", auth=LOGIN)
    assert (answer.status_code, answer.text) == (503, f"The broker does not answer ({words}).")
    assert (await site.client.get("/broker", auth=LOGIN)).status_code == 200
    site.app.workers["w"] = {}
    answer = await site.client.post("/api/worker/pool/grow/w", auth=LOGIN)
    assert (answer.status_code, answer.text) == (503, "Broker or result backend unavailable")


async def test_flower_gives_up_an_answer_of_redis_after_a_few_seconds(serve: Serve) -> None:
    site = await serve()
    assert site.app.capp.conf.redis_socket_timeout == REPLY_S
    assert site.app.capp.conf.broker_transport_options["socket_timeout"] == REPLY_S
