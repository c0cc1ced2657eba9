"""What the commands say of a Redis that cannot be used."""

import pytest
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis-py's own
    ResponseError,
)

from worker.cli.session import failure_of


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ConnectionError("Error 111. Connection refused."),
            "does not answer (Error 111. Connection refused.): is it running?",
        ),
        (
            ConnectionError("[Errno 111] Connect call failed ('::1',)"),
            "does not answer ([Errno 111] Connect call failed ('::1',)): is it running?",
        ),
        (
            AuthenticationError("invalid username-password pair"),
            "does not let this worker in: invalid username-password pair",
        ),
        (
            ResponseError("LOADING Redis is loading"),
            "does not answer (LOADING Redis is loading)",
        ),
    ],
)
def test_only_where_nothing_listens_a_command_asks_whether_redis_runs(
    error: Exception, sentence: str
) -> None:
    assert failure_of(error) == sentence
