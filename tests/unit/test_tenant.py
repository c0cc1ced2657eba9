"""Whose a job is."""

from typing import Any

import pytest

from worker.jobs.message import tenant_of


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
