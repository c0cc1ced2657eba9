"""Which jobs that wait in the pool are revoked or have expired."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery.worker import state
from celery.worker.request import Request

from worker.aio import revoking


# A job's stamps, the revoked stamps, and whether they revoke the job.
@pytest.mark.parametrize(
    ("stamps", "revoked", "is_revoked"),
    [
        ({"batch": "a"}, {"batch": ["a", "b"]}, True),
        ({"batch": ["a", "c"]}, {"batch": "c"}, True),
        ({"batch": "d", "day": "a"}, {"batch": ["a"]}, False),
        ({}, {"batch": ["a"]}, False),
    ],
)
def test_a_job_that_waits_in_the_pool_is_revoked_by_its_stamps(
    monkeypatch: pytest.MonkeyPatch,
    *,
    stamps: dict[str, Any],
    revoked: dict[str, Any],
    is_revoked: bool,
) -> None:
    monkeypatch.setattr(state, "revoked_stamps", revoked)
    request = Request.__new__(Request)
    request.id, request.expires = "job-1", None
    request._request_dict = {"stamps": stamps, "stamped_headers": list(stamps)}
    assert revoking.is_revoked(request) is is_revoked


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_job_that_waits_in_the_pool_is_over_when_it_expires(zone: timezone | None) -> None:
    request = Request.__new__(Request)
    request.id = "job-1"
    request.expires = datetime.now(zone) - timedelta(minutes=1)
    assert revoking.is_revoked(request)
    request.expires += timedelta(minutes=2)
    assert not revoking.is_revoked(request)
