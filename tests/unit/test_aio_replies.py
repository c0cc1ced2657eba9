"""Outstanding replies of a connection: who waits for them, and whether they come at once."""

from types import SimpleNamespace

import pytest

from worker.aio.transport import replies as replies_module
from worker.aio.transport.replies import Replies


def test_replies_go_in_their_order_to_the_functions_that_wait_for_them() -> None:
    replies, connection = Replies(), object()
    first, second = (lambda _: None), (lambda _: None)
    assert (replies.take(), len(replies), replies.forget(None)) == (None, 0, False)
    for note in (first, None, second):
        replies.expect(connection, note)
    assert len(replies) == 3
    assert [replies.take() for _ in range(3)] == [first, None, second]
    assert (replies.take(), len(replies)) == (None, 0)


def test_a_lost_connection_owes_no_reply_any_more() -> None:
    replies, connection = Replies(), object()
    replies.expect(connection, None)
    replies.expect(connection, print)
    assert replies.forget(object()) is False, "another connection is lost"
    assert len(replies) == 2
    assert replies.forget(connection) is True
    assert (len(replies), replies.take()) == (0, None)
    replies.expect(connection, print)
    replies.take()
    assert replies.forget(connection) is False, "the connection owed no reply"
    assert replies.forget(connection) is False


# The milliseconds after which replies come, and whether waiting for the next one pays.
@pytest.mark.parametrize(
    ("after_ms", "is_near"),
    [([], True), ([1.9], True), ([2.1], False), ([9, 1], True), ([1, 9], False)],
)
def test_a_server_whose_latest_reply_came_at_once_counts_as_near(
    monkeypatch: pytest.MonkeyPatch, after_ms: list[float], *, is_near: bool
) -> None:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(replies_module, "time", SimpleNamespace(monotonic=lambda: now.s))
    replies, connection = Replies(), object()
    for pause_ms in after_ms:
        replies.expect(connection, print)
        now.s += pause_ms / 1000
        assert replies.take() is print
        replies.expect(connection, None)
        now.s += 5  # messages may take any time, so they do not count
        assert replies.take() is None
    assert replies.is_near is is_near
