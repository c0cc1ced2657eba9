"""The messages about options with which a worker cannot work."""

import errno
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import concurrency, platforms

from worker.aio.pool import TaskPool
from worker.startup import command


@pytest.mark.parametrize("name", ["gevent", "eventlet", "threads", "solo"])
def test_any_other_pool_is_refused_whether_or_not_it_is_installed(name: str) -> None:
    pool = concurrency.get_implementation(name)
    with pytest.raises(SystemExit, match=f"not in {pool.__module__}: leave out -P"):
        command.check_options({"pool": pool}, {})


@pytest.mark.parametrize("pool", [None, TaskPool, type("Derived", (TaskPool,), {})])
def test_our_own_pool_is_accepted(pool: Any) -> None:
    command.check_options({"pool": pool, "max_tasks_per_child": None}, {})


@pytest.mark.parametrize("option", ["time_limit", "soft_time_limit"])
def test_a_limit_that_would_end_each_job_as_it_begins_is_refused(option: str) -> None:
    with pytest.raises(SystemExit, match=f"--{option.replace('_', '-')} must not be negative"):
        command.check_options({option: -1.0}, {})
    command.check_options({option: 5.0}, {})
    command.check_options({option: 0}, {})


@pytest.mark.parametrize("scale", [(0, 0), (-3, -5), (5, -2)])
def test_bounds_of_autoscale_by_which_no_job_runs_are_refused(scale: tuple[int, int]) -> None:
    with pytest.raises(SystemExit, match="--autoscale takes a maximum of at least 1, and no "):
        command.check_options({"autoscale": scale}, {})


@pytest.mark.parametrize("scale", [None, (1, 0), (500, 10)])
def test_other_bounds_of_autoscale_are_accepted(scale: tuple[int, int] | None) -> None:
    command.check_options({"autoscale": scale}, {})


@pytest.mark.parametrize("option", ["max_tasks_per_child", "max_memory_per_child"])
def test_options_about_child_processes_are_refused(option: str) -> None:
    with pytest.raises(SystemExit, match=f"worker_{option} has no meaning for the asyncio pool"):
        command.check_options({option: 5}, {})


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"uid": "x"}, KeyError("User does not exist: x"), "--uid names the user x, and"),
        ({"gid": "x"}, KeyError("Group does not exist: x"), "--gid names the group x, and"),
        ({"uid": "7"}, KeyError("getpwuid(): uid not found: 7"), "--uid names the user 7, and"),
        (
            {"uid": "1"},
            PermissionError(errno.EPERM, "no"),
            f"take effect for root only, and this is the user {os.geteuid()}: leave them out",
        ),
    ],
)
def test_a_user_that_a_worker_cannot_become_is_named(
    options: dict[str, str], error: Exception, sentence: str
) -> None:
    def drop(**_: Any) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command._explain_privilege_errors(drop)(**options)
    assert sentence in str(ended.value)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("uid", "--uid names the user nosuch, and this machine has none: name one that `getent "),
        ("gid", "--gid names the group nosuch, and this machine has none: name one that `getent "),
    ],
)
def test_a_name_that_this_machine_does_not_have_is_named(option: str, sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command._explain_privilege_errors(platforms.maybe_drop_privileges)(**{option: "nosuch"})
    assert sentence in str(ended.value)


def test_a_worker_that_keeps_its_user_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(platforms, "maybe_drop_privileges", lambda **given: seen.append(given))
    command._explain_privilege_errors(platforms.maybe_drop_privileges)()
    assert seen == [{"uid": None, "gid": None}]


def test_our_guards_stand_around_the_commands_that_celery_has_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, run = (lambda: "context"), (lambda: "ran")
    of_workers: Any = ModuleType("celery.bin.worker")
    of_workers.worker = SimpleNamespace(make_context=made, callback=run)
    of_workers.maybe_drop_privileges = drop = platforms.maybe_drop_privileges
    of_graph: Any = ModuleType("celery.bin.graph")
    of_beat: Any = ModuleType("celery.bin.beat")
    of_beat.beat = SimpleNamespace(callback=lambda **_: "ran")
    other: Any = ModuleType("other")
    other.maybe_drop_privileges = drop
    for module in (of_workers, of_graph, of_beat, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(platforms, "maybe_drop_privileges", drop)
    command.install()
    assert of_workers.worker.make_context is not made
    assert of_workers.worker.make_context() == "context"
    assert of_workers.worker.callback is not run
    assert of_workers.worker.callback() == "ran"
    assert of_workers.maybe_drop_privileges.__wrapped__ is drop
    assert platforms.maybe_drop_privileges.__wrapped__ is drop  # type: ignore[attr-defined]
    assert other.maybe_drop_privileges is drop
    assert not hasattr(of_graph, "maybe_drop_privileges")
    assert of_beat.beat.callback() == "ran"
    for gone in ({"schedule": "/nosuch/file"}, {"logfile": "/nosuch/file", "detach": True}):
        with pytest.raises(SystemExit, match="cannot be written"):
            of_beat.beat.callback(**gone)
    of_beat.beat.callback = _locked
    command.install()
    with pytest.raises(SystemExit, match="The file of --pidfile"):
        of_beat.beat.callback()


def _locked() -> None:
    raise platforms.LockFailed("[Errno 30] Read-only file system: '/f'")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            AttributeError("'list' object has no attribute 'join'"),
            "--autoscale takes one or two whole numbers: --autoscale=500,10.",
        ),
        (
            ImportError("No module named 'x'"),
            (
                "The pool of -P cannot be loaded (No module named 'x'). Keywheel's jobs run in "
                "its own "
                "asyncio pool: leave out -P."
            ),
        ),
    ],
)
def test_an_option_that_celery_fails_to_read_is_named(error: Exception, sentence: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command._guarded(fail, command._explain_option_errors)()
    assert str(ended.value) == f"keywheel cannot start.\n{sentence}"
