"""The log lines for background tasks and cleanups that fail."""

import asyncio
import logging

import pytest

from worker.aio import lifespan

HERE = "tests.unit.test_aio_lifespan"


class Client:
    def __repr__(self) -> str:
        return "canary: all its settings"

    async def close(self) -> None:
        await asyncio.Event().wait()

    async def watch(self) -> None:
        raise ValueError("broken")

    async def __call__(self) -> None:
        raise TimeoutError("its own")


async def test_a_background_task_or_cleanup_that_fails_is_named_without_its_object(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client()
    monkeypatch.setattr(lifespan, "_startups", [client.watch])
    monkeypatch.setattr(lifespan, "_shutdowns", [client, client.close])
    monkeypatch.setattr(lifespan, "_background", set())
    lifespan.begin()
    await asyncio.wait(lifespan._background)
    assert not lifespan._background, "tasks that have ended are not kept"
    await lifespan.end(patience_s=0.01)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, f"{HERE}.Client.watch failed, and does not run again"),
        (
            logging.WARNING,
            f"{HERE}.Client.close did not end in 0.01 s; the other cleanups still run",
        ),
        (logging.ERROR, f"{HERE}.Client failed while the pool ended; the other cleanups still run"),
    ]
    assert "canary" not in caplog.text
