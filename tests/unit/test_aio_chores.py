"""Chores, which a separate thread does while the consumer goes on."""

import threading

import pytest
import redis

from worker.aio.transport.chores import Chores


class Work:
    """A chore that waits until it may end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def __call__(self) -> None:
        self.begun.release()
        self.may_end.wait(20)


def wait_for(chores: Chores) -> None:
    """Wait for all chores so far, which the thread does one after the other."""
    ended = threading.Event()
    chores.begin("wait", ended, ended.set)
    assert ended.wait(20)


def test_a_chore_is_begun_once_for_each_object_until_it_is_done() -> None:
    chores, work, done, first, second = Chores(), Work(), list[str](), object(), object()
    chores.begin("look", first, work)
    assert work.begun.acquire(timeout=20)
    chores.begin("look", first, lambda: done.append("a second time"))
    chores.begin("look", second, lambda: done.append("of another"))
    chores.begin("look", second, lambda: done.append("while it waits"))
    chores.begin("order", first, lambda: done.append("another chore"))
    assert done == [], "the caller does not wait for chores"
    work.may_end.set()
    wait_for(chores)
    assert done == ["of another", "another chore"]
    chores.begin("look", first, lambda: done.append("again"))
    wait_for(chores)
    assert done[2:] == ["again"]
    chores.end()


def test_after_the_end_no_chore_begins() -> None:
    chores, work, done = Chores(), Work(), list[str]()
    before = set(threading.enumerate())
    chores.begin("look", chores, work)
    assert work.begun.acquire(timeout=20)
    [thread] = [each for each in threading.enumerate() if each not in before]
    chores.begin("order", chores, lambda: done.append("it waited"))
    chores.end()
    chores.begin("order", done, lambda: done.append("too late"))
    work.may_end.set()
    thread.join(20)
    assert not thread.is_alive()
    assert done == []


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("gone"), OSError("reset"), AttributeError("pool"), KeyError()]
)
def test_a_chore_that_fails_keeps_no_other_from_being_done(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail() -> None:
        raise error

    chores = Chores()
    with caplog.at_level("DEBUG", "worker.aio.transport.chores"):
        chores.begin("look", chores, fail)
        wait_for(chores)
    [record] = caplog.records
    is_bug = isinstance(error, KeyError)
    assert record.levelname == ("ERROR" if is_bug else "DEBUG")
    words = "cannot look now; it is tried again" if is_bug else f"cannot look now: {error!r}"
    assert record.message == words
    assert bool(record.exc_info) is is_bug
    chores.end()
