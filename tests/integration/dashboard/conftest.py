import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from celery import Celery
from flower.options import default_options
from flower.urls import settings as flower_settings
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

import tasks.ai
import tasks.email  # noqa: F401 - every app of this process knows them then
from config.celery import celery_config
from config.current import get_settings
from config.keys import load_keys
from tests.integration.dashboard.dashboard_site import (
    LOGIN,
    TOKEN,
    Serve,
    Site,
    check_description,
    secret,
)
from tests.tls import TRUSTS_NOBODY
from worker.dashboard import KeysFlower
from worker.key_pools import pools_for_tools
from worker.redis.client import connect

_LOGINS = (":".join(LOGIN),)
_OF_THE_CLIENT = ("httpx", "httpcore", "tornado.access")
"""The loggers of what a test requests; Flower silences tornado's loggers."""


@pytest.fixture
def settings_cache() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
async def serve(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, settings_cache: None
) -> AsyncIterator[Serve]:
    """Starts our Flower: `await serve(basic_auth=[...], token=..., groq=3, ...)`."""
    started: list[tuple[Site, HTTPServer, Celery]] = []

    async def start(
        *,
        basic_auth: tuple[str, ...] | None = _LOGINS,
        token: str | None = TOKEN,
        groq: int = 3,
        resend: int = 2,
        environ: dict[str, str] | None = None,
        **changes: Any,
    ) -> Site:
        settings = {
            "REDIS_URL": redis_url,
            **({"ADMIN_TOKEN": token} if token else {}),
            **(environ or {}),
        }
        for service, count in (("groq", groq), ("resend", resend)):
            name = f"{service.upper()}_API_KEY"
            settings |= {
                f"{name}_{n}" if n > 1 else name: secret(service, n) for n in range(1, count + 1)
            }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        config = celery_config(get_settings())
        capp = Celery("test", broker=config["broker_url"], set_as_current=False)
        capp.conf.update(
            {
                name: config[name]
                for name in ("broker_transport", "broker_transport_options", "result_backend")
            }
        )
        assert {"tasks.ai.complete", "tasks.email.send"} <= set(capp.tasks)
        options = SimpleNamespace(
            **{**default_options.as_dict(), "basic_auth": basic_auth, **changes}
        )
        app = KeysFlower(
            options=options,
            capp=capp,
            **{**flower_settings, "cookie_secret": "canary-cookie-secret"},
        )
        server = HTTPServer(app)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        app.poller._watch._workers_polled_at = (
            time.monotonic() + 3600
        )  # no worker runs here, so do not wait for replies
        app.poller.start()
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        redis = connect(get_settings())
        hooks: Any = {"response": [check_description]}
        client = httpx.AsyncClient(
            base_url=url, timeout=20, event_hooks=hooks, verify=TRUSTS_NOBODY
        )
        site = Site(app, url, client, redis, pools_for_tools(redis))
        site.keys = {service: load_keys(service).keys for service in ("groq", "resend")}
        started.append((site, server, capp))
        return site

    yield start
    for site, server, capp in started:
        await site.client.aclose()
        await site.redis.aclose()
        server.stop()
        await server.close_all_connections()
        thread = site.app.poller._thread
        await asyncio.to_thread(site.app.poller.stop)
        if thread is not None:  # else it would read the pools of later tests by its own clock
            await asyncio.to_thread(thread.join)
        site.app.executor.shutdown()
        capp.backend.client.connection_pool.disconnect()
        capp.close()


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    # Eight lines for each request would hide why a test failed.
    caplog.set_level(logging.WARNING, "httpcore")
    yield
    messages = [
        record.getMessage()
        for record in caplog.records
        if not record.name.startswith(_OF_THE_CLIENT)
    ]
    assert not [message for message in messages if "canary" in message]
