"""Drills in which Redis is down, does not answer, is full, or is busy."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread

import redis

from benchmarks.drills.drill import Drill, Scale, Site
from sandbox.redis import EmbeddedRedis

_TURNED_S = 10.0


@contextmanager
def killed(server: EmbeddedRedis) -> Iterator[None]:
    """Kill the server, and start it again with its append-only file."""
    server.stop(kill=True)
    try:
        yield
    finally:
        server.start()


@contextmanager
def hanging(server: EmbeddedRedis) -> Iterator[None]:
    """Make the server accept connections and answer nothing, as behind a dead link."""
    pid = _pid(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def memory_full(server: EmbeddedRedis) -> Iterator[None]:
    """Set `maxmemory` below the memory in use, and let nothing be evicted."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


@contextmanager
def disk_full(server: EmbeddedRedis) -> Iterator[None]:
    """Keep the append-only file from growing, with the process' limit for the size of a file.

    With `appendfsync always` the server would end itself, as in `killed`.
    """
    pid = _pid(server)
    usual = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with redis.Redis.from_url(server.url) as client:
        policy = client.config_get("appendfsync")
        client.config_set("appendfsync", "everysec")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, usual[1]))
        try:
            _await_refusal(client)
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
            client.config_set("appendfsync", policy["appendfsync"])


@contextmanager
def busy(server: EmbeddedRedis) -> Iterator[None]:
    """Run an endless script, during which all other clients are refused."""
    with redis.Redis.from_url(server.url) as client, redis.Redis.from_url(server.url) as other:
        client.config_set("busy-reply-threshold", 50)
        script = Thread(target=_run_for_ever, args=(client,))
        script.start()
        try:
            _await_refusal(other)
            yield
        finally:
            other.script_kill()
            script.join()


def _pid(server: EmbeddedRedis) -> int:
    if server.pid is None:
        raise RuntimeError("Redis does not run")
    return server.pid


def _run_for_ever(client: "redis.Redis") -> None:
    with suppress(redis.RedisError):  # the script is killed in the end, or we no longer wait for it
        client.eval("while true do end", 0)


def _await_refusal(client: "redis.Redis") -> None:
    deadline_s = time.monotonic() + _TURNED_S
    while time.monotonic() < deadline_s:
        try:
            client.set("probe", "x", ex=60)
        except redis.ResponseError:
            return
        time.sleep(0.02)
    raise RuntimeError("Redis accepts a write that it should refuse")


def _through(
    site: Site, trouble: Callable[[EmbeddedRedis], AbstractContextManager[None]], word: str = ""
) -> None:
    site.send(0.8)
    site.await_calls()
    with trouble(site.stack.redis):
        if word:
            site.refused(word)
        site.pass_time(site.scale.trouble_s)
    site.recovered()
    site.send()


def redis_away(site: Site) -> None:
    """Redis is killed and stays down for a while."""
    _through(site, killed)


def redis_hangs(site: Site) -> None:
    """Redis accepts connections and answers nothing, for longer than the workers' leases."""
    _through(site, hanging)


def run_out_of_memory(site: Site) -> None:
    """Redis' memory is full: new jobs are refused, and all accepted jobs are done."""
    _through(site, memory_full, "maxmemory")


def run_out_of_disk(site: Site) -> None:
    """Redis' disk is full: new jobs are refused, and all accepted jobs are done."""
    _through(site, disk_full, "MISCONF")


def redis_busy(site: Site) -> None:
    """A script keeps Redis busy: new jobs are refused, and all accepted jobs are done."""
    _through(site, busy, "BUSY")


def _drill(name: str, act: Callable[[Site], None], *, full_s: float, short_s: float) -> Drill:
    return Drill(
        name,
        act,
        full=Scale(2_000, 500, trouble_s=full_s, limit_s=180),
        short=Scale(60, 30, trouble_s=short_s, limit_s=60),
        # Workers try to connect at least every three seconds. Jobs that waited in vain come back
        # within two, emails that waited for another email's key within three; a busy machine adds
        # to that.
        silence_s=7,
    )


DRILLS = (
    _drill("redis-away", redis_away, full_s=180, short_s=1),
    _drill("redis-hangs", redis_hangs, full_s=60, short_s=4),
    _drill("memory-full", run_out_of_memory, full_s=60, short_s=2),
    _drill("disk-full", run_out_of_disk, full_s=60, short_s=2),
    _drill("redis-busy", redis_busy, full_s=30, short_s=2),
)
