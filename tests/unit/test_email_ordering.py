"""From the arguments of an email to its body, and to the keys that may send it."""

from typing import Any

import pytest

from config.api_key import ApiKey, make_key
from worker.arguments.base import check
from worker.arguments.email import EmailArguments
from worker.emails.outgoing import OutgoingEmail, order
from worker.keypool import LeaseRequest

BY_TEMPLATE = {"to": "ann@example.com", "template": {"id": "t1"}}
PLAIN = {"to": "ann@example.com", "subject": "Hi", "text": "x"}


def key(number: int, sender: str | None) -> ApiKey:
    return make_key("resend", secret=f"re_{number}", variable=f"RESEND_{number}", sender=sender)


def ordered(kwargs: dict[str, Any], *keys: ApiKey) -> tuple[LeaseRequest, OutgoingEmail]:
    arguments = check(EmailArguments, (), kwargs)
    return order(arguments, keys, idempotency_key="job-1", job="job-1", known=False)


def test_the_template_names_the_sender_if_no_key_has_an_address() -> None:
    keys = [key(1, None), key(2, None)]
    request, email = ordered(BY_TEMPLATE, *keys)
    assert not request.exclude
    assert not email.unsendable
    assert email.payload(keys[1]) == {"to": ["ann@example.com"], "template": {"id": "t1"}}


@pytest.mark.parametrize("kwargs", [BY_TEMPLATE, PLAIN])
def test_a_key_without_an_address_is_passed_over_if_another_has_one(
    kwargs: dict[str, Any],
) -> None:
    able, unable = key(1, "us@example.com"), key(2, None)
    request, email = ordered(kwargs, able, unable)
    assert request.exclude == {unable.id}
    assert email.payload(able)["from"] == "us@example.com"


def test_an_email_without_a_template_needs_an_address() -> None:
    request, email = ordered(PLAIN, key(1, None))
    assert request.exclude
    assert email.unsendable.startswith("from: is required")
