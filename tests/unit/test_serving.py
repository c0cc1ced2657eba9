"""The arguments that our tasks pass on, and the figures in their results."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker import serving
from worker.runtime import Runtime


async def test_a_job_is_served_once_with_the_parts_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = SimpleNamespace(
        settings="the settings",
        ownership="the ownership",
        outages="the outages",
        senders={"groq": "groq's", "resend": "resend's"},
        dedupe_keys="the keys",
    )
    parts = {
        "settings": "the settings",
        "deadline_s": 60.0,
        "ownership": "the ownership",
        "outages": "the outages",
    }
    run: list[Any] = []

    async def run_job(*args: Any, **options: Any) -> Any:
        run.append((args, options))
        served = SimpleNamespace(value={"text": "hello"}, key="gsk_abc123...")
        return served, SimpleNamespace(attempts=3, waited_ms=1_234.56)

    async def run_deduped(*args: Any, **options: Any) -> Any:
        *arguments, work = args
        run.append((tuple(arguments), options))
        return await work()

    monkeypatch.setattr(Runtime, "current", lambda: runtime)
    monkeypatch.setattr(serving, "run_job", run_job)
    monkeypatch.setattr(serving, "run_deduped", run_deduped)
    task = SimpleNamespace(service="groq")

    def on_shared(_: dict[str, Any]) -> None: ...

    result = await serving.serve(
        task, "the lease", "the order",  # type: ignore[arg-type]
        deadline_s=60.0, dedupe_key="one", on_shared=on_shared,
    )  # fmt: skip
    assert result == {"text": "hello", "key": "gsk_abc123...", "attempts": 3, "waited_s": 1.235}
    assert run == [
        ((task, "the keys", "one"), parts | {"on_shared": on_shared}),
        ((task, "groq's", "the lease", "the order"), parts),
    ]
