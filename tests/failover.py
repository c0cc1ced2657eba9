"""A primary with a replica and three sentinels, all real."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from sandbox.redis import EmbeddedRedis, find_binary, free_port
from tests.processes import Producer, eventually

NAME = "jobs"
PASSWORD = "canary-redis-5c1d"
SENTINEL_PASSWORD = "canary-sentinel-8e22"
_SENTINELS = 3


@dataclass
class Failover:
    """The servers, and the URL by which clients reach them."""

    primary: EmbeddedRedis
    replica: EmbeddedRedis
    sentinel_ports: list[int]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        query = f"master_name={NAME}&sentinel_password={SENTINEL_PASSWORD}"
        return f"sentinel://:{PASSWORD}@{hosts}/0?{query}"

    def producer(self) -> Producer:
        """An application with Celery's own transport and result store."""
        hosts = [f"sentinel://:{PASSWORD}@127.0.0.1:{port}/0" for port in self.sentinel_ports]
        options = {"master_name": NAME, "sentinel_kwargs": {"password": SENTINEL_PASSWORD}}
        return Producer(
            ";".join(hosts),
            broker_transport_options=options,
            result_backend_transport_options=options,
        )

    def await_failover(self, successor: EmbeddedRedis, *, within_s: float = 20.0) -> None:
        """Wait until all sentinels name this server as the primary."""
        for port in self.sentinel_ports:
            with redis.Redis(port=port, password=SENTINEL_PASSWORD) as client:
                eventually(
                    lambda: client.sentinel_master(NAME)["port"] == successor.port,
                    within_s=within_s,
                    what="the failover",
                )

    @contextmanager
    def frozen(self, server: EmbeddedRedis) -> Iterator[None]:
        """Make a server silent for the time of the block; its connections stay open."""
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGCONT)


@contextmanager
def replicated(folder: Path) -> Iterator[tuple[EmbeddedRedis, EmbeddedRedis]]:
    """Start a primary and its replica."""
    with (
        EmbeddedRedis(data_dir=folder / "primary") as primary,
        EmbeddedRedis(data_dir=folder / "replica") as replica,
    ):
        with redis.Redis(port=replica.port) as client:
            client.replicaof("127.0.0.1", str(primary.port))
            eventually(
                lambda: client.info("replication").get("master_link_status") == "up",
                what="the replica's link",
            )
        yield primary, replica


@contextmanager
def failovers(folder: Path) -> Iterator[Failover]:
    """Start a primary, its replica and three sentinels; yield once they know one another."""
    with replicated(folder) as (primary, replica), ExitStack() as stack:
        for server in (replica, primary):
            _secure(server)
        ports = [
            stack.enter_context(sentinel(folder / f"sentinel-{number}", watched=primary.port))
            for number in range(_SENTINELS)
        ]
        for port in ports:
            with redis.Redis(port=port, password=SENTINEL_PASSWORD) as client:
                eventually(lambda: _knows_all(client), what="a sentinel that knows the others")
        yield Failover(primary, replica, ports)


def _secure(server: EmbeddedRedis) -> None:
    with redis.Redis(port=server.port) as client:
        for name in ("requirepass", "masterauth"):
            client.config_set(name, PASSWORD)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _knows_all(client: "redis.Redis") -> bool:
    try:
        primary = client.sentinel_master(NAME)
    except redis.RedisError:
        return False
    return primary["num-slaves"] == 1 and primary["num-other-sentinels"] == _SENTINELS - 1


@contextmanager
def sentinel(folder: Path, *, watched: int) -> Iterator[int]:
    """Start a sentinel of the primary at `port`; yield the sentinel's port."""
    folder.mkdir(parents=True)
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(
        f"""bind 127.0.0.1
port {port}
dir {folder}
logfile {folder / "sentinel.log"}
requirepass {SENTINEL_PASSWORD}
sentinel sentinel-pass {SENTINEL_PASSWORD}
sentinel monitor {NAME} 127.0.0.1 {watched} 2
sentinel auth-pass {NAME} {PASSWORD}
sentinel down-after-milliseconds {NAME} 1000
sentinel failover-timeout {NAME} 4000
"""
    )
    with subprocess.Popen(
        [find_binary(), str(file), "--sentinel"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            eventually(lambda: _listens(port), what="a sentinel that listens")
            yield port
        finally:
            process.kill()
