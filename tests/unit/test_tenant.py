"""The tenant of a job, and what the tenant is charged for jobs."""

import asyncio
import hashlib
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from redis.exceptions import ConnectionError as LostError

from worker.jobs.message import tenant_of
from worker.keypool import LeaseRequest
from worker.rotation import tenant_charges
from worker.rotation.tenant_charges import TenantCharges


# The headers of a message, and the tenant that they name.
@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({"tenant": "acme"}, "acme"),
        ({"tenant": " Ünï & Söhne "}, "Ünï & Söhne"),
        ({"tenant": "x" * 300}, "x" * 200),
        ({"tenant": "a\nb"}, ""),  # would break a line of a table
        ({"tenant": 7}, ""),
        ({"tenant": ""}, ""),
        ({}, ""),
        (None, ""),
        (["tenant"], ""),
    ],
)
def test_a_message_names_its_tenant(headers: Any, tenant: str) -> None:
    assert tenant_of(headers) == tenant


async def test_charges_beyond_the_first_request_of_a_job_are_written_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenant_charges, "_EVERY_S", 0.0)
    broker = Mock(eval=AsyncMock(side_effect=[LostError("gone"), None, None]))
    charges, job = TenantCharges(broker), LeaseRequest(by="a", tenant="acme", queue="ai")
    charges.note(job, 1_000)  # as much as four requests
    charges.note(job, 0)
    charges.note(replace(job, by="b"), 0)
    charges.note(replace(job, by="c", queue=""), 9_999)
    charges.note(replace(job, by="d", queue="ai:bulk", tenant="x"), 500)
    writing = charges._task
    assert writing is not None
    await writing
    name = hashlib.sha1(b"acme").hexdigest()[:16]  # noqa: S324 - as the transport names it
    written = [charge.args for charge in broker.eval.await_args_list]
    assert [charge[1:3] for charge in written] == [(1, "ai"), (1, "ai:bulk")]
    assert written[0][3:] == (name, 4.0)
    assert written[1][4:] == (1.0,)
    charges.note(job, 250)
    assert charges._task is not writing
    assert charges._task is not None
    await charges._task
    assert broker.eval.await_args.args[2:] == ("ai", name, 1.0)
    TenantCharges(None).note(job, 1_000)


async def test_charges_of_one_second_are_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paused: list[float] = []
    sleep = asyncio.sleep

    async def pause(for_s: float) -> None:
        paused.append(for_s)
        charges.note(job, 500)  # meanwhile
        await sleep(0)

    monkeypatch.setattr("worker.rotation.tenant_charges.asyncio.sleep", pause)
    broker = Mock(eval=AsyncMock())
    charges, job = TenantCharges(broker), LeaseRequest(by="a", tenant="acme", queue="ai")
    charges.note(job, 500)
    assert charges._task is not None
    await charges._task
    assert paused == [1.0]
    [charge] = broker.eval.await_args_list
    assert charge.args[-1] == 3.0


def test_the_jobs_whose_first_request_was_counted_are_bounded() -> None:
    charges = TenantCharges(Mock())
    for number in range(10_050):
        charges.note(LeaseRequest(by=f"job-{number}", tenant="acme", queue="ai"), 0)
    assert list(charges._counted) == [f"job-{number}" for number in range(50, 10_050)]
    assert charges._task is None, "the first request of a job costs nothing more"
