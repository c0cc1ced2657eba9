"""Whose a job is."""

from typing import Any
from unittest.mock import Mock

import pytest

from worker.jobs.message import tenant_of
from worker.keypool import LeaseRequest
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


def test_the_jobs_whose_first_request_was_counted_are_bounded() -> None:
    charges = TenantCharges(Mock())
    for number in range(10_050):
        charges.note(LeaseRequest(by=f"job-{number}", tenant="acme", queue="ai"), 0)
    assert list(charges._counted) == [f"job-{number}" for number in range(50, 10_050)]
    assert charges._task is None, "the first request of a job costs nothing more"
