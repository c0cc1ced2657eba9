"""Emails that a user's own program sends."""

import asyncio
from typing import Any

import pytest

from sandbox.process import Sandbox
from tests.integration.clients.program_calls import after_a_reset, disable_keys
from worker.clients import EmailClient, resend, resend_sync
from worker.errors import Deferred, InvalidArguments


def mail(subject: str, **fields: Any) -> dict[str, Any]:
    return {"to": "ann@example.org", "subject": subject, "text": "Hello.", **fields}


async def test_an_email_goes_out_with_its_fields_or_as_one_object(program: Sandbox) -> None:
    first = await resend.send(mail("one"))
    second = await resend.send(**mail("two"))
    assert first["id"] != second["id"]
    assert first["attempts"] == 1
    assert {name: len(emails) for name, emails in program.mail().items()} == {"one": 1, "two": 1}


async def test_one_idempotency_key_is_one_email(program: Sandbox) -> None:
    first = await resend.send(mail("one", idempotency_key="order-1"))
    again = await resend.send(mail("one", idempotency_key="order-1"))
    assert again["id"] == first["id"]
    with pytest.raises(InvalidArguments, match="different content"):
        await resend.send(mail("other", idempotency_key="order-1"))
    assert {name: len(emails) for name, emails in program.mail().items()} == {"one": 1}


async def test_an_email_without_a_required_field_is_not_sent(program: Sandbox) -> None:
    with pytest.raises(InvalidArguments, match="to: "):
        await resend.send(subject="x", text="y")
    assert program.mail() == {}


async def test_an_email_waits_for_a_key_no_longer_than_its_longest_wait(program: Sandbox) -> None:
    await disable_keys("resend")
    with pytest.raises(Deferred):
        await EmailClient(longest_wait_s=0.1).send(mail("late"))
    waiting = asyncio.create_task(resend.send(mail("late")))
    assert (await after_a_reset("resend", waiting))["id"]


async def test_a_synchronous_function_sends_as_well(program: Sandbox) -> None:
    sent = await asyncio.to_thread(resend_sync.send, mail("plain"))
    assert sent["id"]
    assert list(program.mail()) == ["plain"]
