"""Which requests may change something, and the largest size of their bodies."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from tornado.web import HTTPError

from tests.unit.unstarted_handlers import handler_of
from worker.dashboard import handlers
from worker.dashboard.errors import ApiError, RedisUnreachable
from worker.dashboard.handlers import ChangeHandler
from worker.dashboard.request_body import MAX_BODY_BYTES


def changing(**options: Any) -> Any:
    handler = ChangeHandler.__new__(ChangeHandler)
    handler.request = SimpleNamespace(  # type: ignore[assignment]
        method=options.pop("method", "POST"), headers={}, query=""
    )
    handler.application = SimpleNamespace(  # type: ignore[assignment]
        options=SimpleNamespace(read_only=options.pop("read_only", False)),
        visitor=lambda _: SimpleNamespace(name="ann"),
    )
    return handler


@pytest.mark.parametrize(
    ("chunks", "too_large"),
    [
        ([MAX_BODY_BYTES], False),
        ([MAX_BODY_BYTES + 1], True),
        ([MAX_BODY_BYTES, 1], True),
        ([MAX_BODY_BYTES - 1, 1], False),
        ([MAX_BODY_BYTES, MAX_BODY_BYTES, MAX_BODY_BYTES], True),
    ],
)
def test_a_body_is_read_up_to_its_bound_however_it_arrives(
    monkeypatch: pytest.MonkeyPatch, chunks: list[int], *, too_large: bool
) -> None:
    monkeypatch.setattr(handlers, "check_headers", Mock())
    handler = changing()
    handler.prepare()
    assert handler.admin == "ann"
    for size in chunks:
        handler.data_received(bytes(size))
    if too_large:
        with pytest.raises(ApiError) as refused:
            handler.raw_body()
        assert refused.value.status_code == 413
        assert len(handler._body) <= 2 * MAX_BODY_BYTES, "the rest of the body is dropped"
    else:
        assert handler.raw_body() == bytes(sum(chunks))


def test_only_a_post_changes_something_and_nothing_if_flower_is_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = Mock()
    monkeypatch.setattr(handlers, "check_headers", checked)
    with pytest.raises(HTTPError) as refused:
        changing(method="PUT").prepare()
    assert refused.value.status_code == 405
    with pytest.raises(ApiError) as refused:
        changing(read_only=True).prepare()
    assert (refused.value.status_code, refused.value.code) == (403, "read_only")
    checked.assert_not_called()
    with pytest.raises(HTTPError) as refused:
        changing().options()
    assert refused.value.status_code == 405


async def test_a_change_is_made_although_redis_does_not_answer_the_next_poll() -> None:
    fresh_state = AsyncMock(side_effect=RedisUnreachable("gone"))
    handler = handler_of(ChangeHandler, {}, fresh_state=fresh_state)
    await handler.poll_change()
    fresh_state.assert_awaited_once_with(force=True)
    fresh_state.side_effect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await handler.poll_change()
