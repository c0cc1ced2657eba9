"""Jobs that send other jobs and wait for them, in any pool."""

from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import chunks
from celery.exceptions import (
    ChordError,
)


def test_canvases_work(pool: Any, key: str) -> None:
    add = pool.task
    assert chain(add("add", 1, 2), add("add", 3), app=pool.app).apply_async().get(timeout=60) == 6
    members = [add("add", n, n) for n in range(3)]
    assert group(members, app=pool.app).apply_async().get(timeout=60) == [0, 2, 4]
    assert chord(members, app=pool.app)(add("total")).get(timeout=60) == 6
    assert pool.send("replaced", 1).get(timeout=60) == 11
    assert pool.task("add", 1).apply_async(link=add("noted", key)).get(timeout=60) == 2
    pool.await_journal(key, "2")


def test_map_and_starmap_return_the_result_of_each_item(pool: Any) -> None:
    for kind, items, given in (("map", [1, 2], [2, 3]), ("starmap", [(1, 2), (3, 4)], [3, 7])):
        arguments = {"task": pool.task("add"), "it": items}
        whole = pool.app.signature(f"celery.{kind}", kwargs=arguments)
        assert whole.apply_async().get(timeout=60) == given


def test_chunks_return_the_results_of_their_items_by_chunk(pool: Any) -> None:
    whole = chunks(pool.task("add"), [(1, 2), (3, 4), (5, 6)], 2, app=pool.app)
    assert whole.apply_async().get(timeout=60) == [[3, 7], [11]]


def test_a_failure_calls_its_errback_and_fails_its_chord(pool: Any) -> None:
    result = pool.task("fails", "err").apply_async(link_error=pool.task("failed_with"))
    with pytest.raises(ValueError, match="err"):
        result.get(timeout=60)
    pool.await_journal(f"errback:{result.id}", "ValueError('err')")
    # Celery raises the part's error, or a `ChordError` with its text if that part ends last.
    with pytest.raises((ValueError, ChordError), match="part"):
        chord([pool.task("add", 1), pool.task("fails", "part")], app=pool.app)(
            pool.task("total")
        ).get(timeout=60)


def test_a_job_may_send_others(pool: Any, key: str) -> None:
    result = pool.send("sends", key)
    assert result.get(timeout=60) == result.id
    pool.await_journal(key, "[2, 4]")


def test_a_job_may_wait_for_another_with_allow_join_result(pool: Any) -> None:
    assert pool.send("joins", 4).get(timeout=30) == [5, 4, 5]


def test_the_end_of_one_job_does_not_keep_another_from_waiting(pool: Any, key: str) -> None:
    results = []
    for name in ("first", "second"):
        results.append(pool.send("joins_when_signalled", f"{name}-{key}"))
        pool.await_journal(f"{name}-{key}", "may")
    for name, result in zip(("first", "second"), results, strict=True):
        pool.store.set(f"go:{name}-{key}", 1)
        assert result.get(timeout=60) == 2


def test_a_job_that_inspects_its_own_worker_finds_itself_active(pool: Any) -> None:
    assert pool.send("asks").get(timeout=30) is True


def test_a_job_with_a_connection_of_its_own_disturbs_no_other(pool: Any, key: str) -> None:
    slow = [pool.send("waits", f"{key}{number}", 0.4) for number in range(4)]
    results = [pool.send("consumes", f"{key}{number}") for number in range(4)]
    assert [result.get(timeout=60) for result in results] == ["a word"] * 4
    assert [result.get(timeout=60) for result in slow] == ["waited"] * 4
