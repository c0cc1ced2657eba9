"""What endpoints of the dashboard make of a request, and of what Redis has, without a server."""

import asyncio
import contextlib
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from redis.exceptions import ConnectionError as LostError
from tornado.web import HTTPError

from config.errors import SettingsError
from worker.dashboard import handlers, job_start, poller, quotes, rates
from worker.dashboard.audit import Audit
from worker.dashboard.deferred_jobs import DeferredJob
from worker.dashboard.errors import CODES, ApiError, RedisUnreachable
from worker.dashboard.handlers import ChangeHandler
from worker.dashboard.request_body import MAX_BODY_BYTES
from worker.dashboard.state import QueueView, ServiceView
from worker.keypool import PoolView
from worker.keypool.margins import Margins


def handler_of(kind: type[Any], values: dict[str, str], **of_poller: Any) -> Any:
    """An endpoint with a request, and a poller; `sent` has what it answers."""
    made = kind.__new__(kind)
    made.application = SimpleNamespace(poller=SimpleNamespace(**of_poller))
    made.query_values = lambda: values
    made.sent = []
    made.send_json = made.sent.append
    return made


def entry(at_ms: int, **others: str) -> dict[str, str]:
    return {"at_ms": str(at_ms), "until_ms": "7"} | others


@pytest.fixture
def audited() -> Any:
    """The streams of an audit trail; `asked` has what was asked of each."""
    found = SimpleNamespace(
        asked=[], keys=[entry(9), entry(3)], letters=[entry(8)], actions=[entry(5)]
    )

    def reading(name: str) -> Any:
        async def read(**asked: Any) -> list[dict[str, str]]:
            found.asked.append((name, asked))
            return list(getattr(found, name))

        return read

    async def with_pools(work: Any) -> Any:
        return await work({"groq": SimpleNamespace(audit=reading("keys"))})

    async def with_dead_letters(work: Any) -> Any:
        return await work(SimpleNamespace(audit=reading("letters")))

    async def with_actions(work: Any) -> Any:
        return await work(SimpleNamespace(read=reading("actions")))

    found.poller = {
        "with_pools": with_pools,
        "with_dead_letters": with_dead_letters,
        "with_actions": with_actions,
    }
    return found


async def test_the_audit_trail_is_one_list_the_latest_first(audited: Any) -> None:
    made = handler_of(Audit, {"count": "3"}, **audited.poller)
    await made.get()
    [answer] = made.sent
    assert [(one.get("service"), one["at_ms"], one["until_ms"]) for one in answer["entries"]] == [
        ("groq", 9, 7), (None, 8, 7), (None, 5, 7)
    ]  # fmt: skip
    assert answer["next_before"] is not None
    assert [asked["count"] for _, asked in audited.asked] == [4, 4, 4], "one more tells of a page"
    assert audited.asked[0][1]["people_only"] is False
    rest = handler_of(Audit, {"before": answer["next_before"], "by": "people"}, **audited.poller)
    audited.keys, audited.letters, audited.actions = [entry(3)], [], [entry(5)]
    await rest.get()
    assert [one["at_ms"] for one in rest.sent[0]["entries"]] == [3]
    assert rest.sent[0]["next_before"] is None
    assert audited.asked[3][1]["people_only"] is True


@pytest.mark.parametrize(
    "values", [{"count": "201"}, {"count": "0"}, {"by": "ann"}, {"from": "1"}, {"before": "x"}]
)
async def test_a_page_of_the_audit_trail_that_cannot_be_is_refused(
    audited: Any, values: dict[str, str]
) -> None:
    with pytest.raises(ApiError) as refused:
        await handler_of(Audit, values, **audited.poller).get()
    assert (refused.value.status_code, audited.asked) == (400, [])
    await handler_of(Audit, {"count": "200"}, **audited.poller).get()
    assert audited.asked[0][1]["count"] == 201


# --- quotes


@pytest.mark.parametrize(("known", "waiting"), [(True, 6), (False, None)])
async def test_a_quote_counts_who_waits_where_the_broker_says(
    monkeypatch: pytest.MonkeyPatch, *, known: bool, waiting: int | None
) -> None:
    asked: list[Any] = []
    queue = QueueView("ai", ready=1, deferred=2, held=3, known=known)
    state = SimpleNamespace(services={"groq": SimpleNamespace(pool="the pool", queue=queue)})
    margins = SimpleNamespace(of=lambda service: f"the margins of {service}")

    def quote_of(request: Any, pool: Any, **options: Any) -> Any:
        asked.append((request.service, request.jobs, pool, options))
        return SimpleNamespace(as_json=lambda: {"jobs": 2})

    async def with_pools(work: Any) -> Any:
        return await work({})

    settings = SimpleNamespace(models={"groq": ("m",)})
    monkeypatch.setattr(quotes, "quote_of", quote_of)
    monkeypatch.setattr(quotes, "get_settings", lambda: settings)
    made = handler_of(
        quotes.QuoteHandler,
        {"service": "groq", "jobs": "2"},
        fresh_state=AsyncMock(return_value=state),
        with_pools=with_pools,
        margins=margins,
    )
    await made.get()
    assert made.sent == [{"jobs": 2}]
    options = {"waiting": waiting, "models": ("m",), "margins": "the margins of groq"}
    assert asked == [("groq", 2, "the pool", options)]


# When a job starts that waits: how many wait, its place, and the number that is asked for.
@pytest.mark.parametrize(
    ("place", "is_fetched", "number"),
    [(1, False, 4), (3, False, 6), (None, True, 3), (None, False, 6)],
)
def test_a_job_starts_after_those_before_it(
    monkeypatch: pytest.MonkeyPatch, *, place: int | None, is_fetched: bool, number: int
) -> None:
    asked: list[int] = []

    def estimate(_: Any, count: int, **about: Any) -> Any:
        asked.append(count)
        assert (about["model"], about["tokens"]) == ("m", 9)
        return SimpleNamespace(in_s=2.5, limited_by="rpm")

    monkeypatch.setattr(job_start, "estimate", estimate)
    monkeypatch.setattr(job_start, "usual_tokens", lambda _: 9)
    monkeypatch.setattr(job_start.time, "time", lambda: 100.0)
    margins: Any = SimpleNamespace(within_s=lambda in_s: in_s * 2)
    queue = QueueView("ai", ready=1, deferred=2, held=3)
    service: Any = SimpleNamespace(queue=queue, pool="pool")
    start = job_start.start_of(service, margins, place=place, model="m", is_fetched=is_fetched)
    assert asked == [number]
    assert start.as_json() == {
        "place": place, "expected_start_ms": 102_500, "start_by_ms": 105_000, "limited_by": "rpm"
    }  # fmt: skip


def test_nobody_knows_when_a_job_starts_where_the_broker_or_the_keys_do_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def estimate(_: Any, count: int, **__: Any) -> Any:
        asked.append(count)
        return SimpleNamespace(in_s=None, limited_by="no_key")

    monkeypatch.setattr(job_start, "estimate", estimate)
    monkeypatch.setattr(job_start, "usual_tokens", lambda _: 9)
    known: Any = SimpleNamespace(queue=QueueView("ai"), pool="pool")
    start = job_start.start_of(known, Margins(), place=None, model="", is_fetched=False)
    assert (start.expected_start_ms, start.start_by_ms, start.limited_by) == (None, None, "no_key")
    assert asked == [1]
    silent: Any = SimpleNamespace(queue=QueueView("ai", known=False), pool="pool")
    unknown = job_start.start_of(silent, Margins(), place=5, model="", is_fetched=False)
    assert unknown == job_start.JobStart(5)


# --- bodies


def changing(**options: Any) -> Any:
    made = ChangeHandler.__new__(ChangeHandler)
    made.request = SimpleNamespace(  # type: ignore[assignment]
        method=options.pop("method", "POST"), headers={}, query=""
    )
    made.application = SimpleNamespace(  # type: ignore[assignment]
        options=SimpleNamespace(read_only=options.pop("read_only", False)),
        visitor=lambda _: SimpleNamespace(name="ann"),
    )
    return made


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
    made = changing()
    made.prepare()
    assert made.admin == "ann"
    for size in chunks:
        made.data_received(bytes(size))
    if too_large:
        with pytest.raises(ApiError) as refused:
            made.raw_body()
        assert refused.value.status_code == 413
        assert len(made._body) <= 2 * MAX_BODY_BYTES, "the rest is thrown away"
    else:
        assert made.raw_body() == bytes(sum(chunks))


def test_only_a_post_changes_something_and_nothing_where_flower_is_read_only(
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
    asked = AsyncMock(side_effect=RedisUnreachable("gone"))
    made = handler_of(ChangeHandler, {}, fresh_state=asked)
    await made.poll_change()
    asked.assert_awaited_once_with(force=True)
    asked.side_effect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await made.poll_change()


# --- rates and what is left


def test_a_rate_is_that_of_the_last_minute() -> None:
    rate = rates._Rate()
    assert rate.per_s == 0.0
    for at_ms, count in ((0, 0), (1_000, 100), (61_000, 160)):
        rate.add(at_ms, count)
    assert rate.per_s == 160 / 61, "the sample of a minute ago is one of it"
    rate.add(61_001, 160)
    assert rate.per_s == 60 / 60.001
    rate.add(62_000, 3)
    assert rate.per_s == 0.0, "it has begun anew"


@pytest.mark.parametrize(
    ("queue", "rate", "drain_s"),
    [
        (QueueView("ai"), 0.0, 0.0),
        (QueueView("ai", known=False), 1.0, None),
        (QueueView("ai", ready=4), 0.0, None),
        (QueueView("ai", ready=4), 2.0, 2.0),
        (QueueView("ai", deferred=4, deferred_jobs=(DeferredJob("a", 9_500),)), 2.0, 8.5),
        (QueueView("ai", deferred=40, deferred_jobs=(DeferredJob("a", 9_500),)), 2.0, 20.0),
    ],
)
def test_a_queue_is_empty_once_its_last_job_has_come_back(
    queue: QueueView, rate: float, drain_s: float | None
) -> None:
    assert ServiceView(PoolView("groq", 1_000, ()), queue, rate).drain_s == drain_s


@pytest.mark.parametrize(
    ("paused", "workers", "said"),
    [(0, 0, "unknown"), (1, 0, "unknown"), (0, 2, "none"), (1, 2, "some"), (2, 2, "all")],
)
def test_a_queue_says_how_many_workers_have_paused_it(paused: int, workers: int, said: str) -> None:
    assert QueueView("ai", paused_workers=paused, workers=workers).paused == said


# --- what the poller repeats


async def test_a_poller_that_fails_forgets_what_it_knew_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | None] = [
        LostError("refused"), LostError("refused"), None, ZeroDivisionError("a prompt"), None
    ]  # fmt: skip
    forgotten: list[int] = []

    async def poll() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    async def sleep(_: float) -> None:
        if not outcomes:
            raise asyncio.CancelledError

    monkeypatch.setattr(poller.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await poller._repeat(poll, lambda: forgotten.append(1), "cannot count (%s); later")
    assert len(forgotten) == 3
    assert caplog.messages == [
        "cannot count (refused); later", "cannot count (ZeroDivisionError); later"
    ]  # fmt: skip
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_keys_are_loaded_again_now_and_then_and_replaced_where_they_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, keys = 1_000.0, {"groq": ("a",), "resend": ()}
    monkeypatch.setattr(poller.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(poller, "load_keys", lambda name: SimpleNamespace(keys=keys[name]))
    monkeypatch.setattr(poller, "published_keys", AsyncMock(return_value=("of the workers",)))
    made = poller.Poller.__new__(poller.Poller)
    pools = {name: SimpleNamespace(keys=(), names=name, replace_keys=Mock()) for name in keys}
    made._pools, made._redis, made._reloaded_at = pools, "redis", float("-inf")  # type: ignore[assignment]
    await made._reload_keys()
    pools["groq"].replace_keys.assert_called_once_with(("a",))
    pools["resend"].replace_keys.assert_called_once_with(("of the workers",))
    pools["groq"].keys = ("a",)
    keys["groq"] = ("b",)
    await made._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1, "not yet"
    made.reload_keys_soon()
    keys["groq"] = ("a",)
    await made._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1, "they are the same"
    made.reload_keys_soon()

    def unreadable(_: str) -> Any:
        raise SettingsError(["half-written"])

    monkeypatch.setattr(poller, "load_keys", unreadable)
    await made._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1


async def test_a_poller_that_does_not_run_answers_nothing() -> None:
    made = poller.Poller.__new__(poller.Poller)
    made._loop = None
    with pytest.raises(RedisUnreachable, match="Flower is not ready"):
        await made.with_pools(AsyncMock())
    made._broker = None
    assert await made.with_broker(AsyncMock()) is None


def test_an_error_of_tornados_own_has_a_name_for_programs() -> None:
    assert CODES == {
        400: "bad_request", 401: "login_required", 403: "forbidden", 404: "not_found",
        405: "method_not_allowed", 413: "too_large", 500: "internal_error",
    }  # fmt: skip


@pytest.mark.parametrize(("age_s", "polls"), [(0.39, 0), (0.4, 1)])
async def test_requests_of_one_moment_share_a_poll(
    monkeypatch: pytest.MonkeyPatch, *, age_s: float, polls: int
) -> None:
    made = poller.Poller.__new__(poller.Poller)
    made.state = "the state"  # type: ignore[assignment]
    made._polled_at, made._poll_lock = 100.0, asyncio.Lock()
    ended = Mock(side_effect=LostError("it polls"))
    made._pools, made._ended = {}, ended
    monkeypatch.setattr(poller.time, "monotonic", lambda: 100.0 + age_s)
    with contextlib.suppress(LostError):
        assert await made._poll(fresh_s=poller._FRESH_S) == "the state"
    assert ended.call_count == polls
