"""A real RabbitMQ with one node, if it is installed (`apt-get install rabbitmq-server`)."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.redis import free_port
from tests.processes import Producer, eventually

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_READY_S = 60.0

needs_rabbitmq = pytest.mark.skipif(
    not _SCRIPT.exists(),
    reason="no RabbitMQ here: apt-get install --no-install-recommends rabbitmq-server",
)
CONF: dict[str, Any] = {
    "task_create_missing_queue_type": "quorum",
    "task_create_missing_queue_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
}
"""The settings for an application, as docs/brokers.md describes them."""


class RabbitMq:
    """A node that may be killed, and started again with the same port and data."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self._output = folder / "output"
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("")
        self._environ = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_NODENAME": "keywheel@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @contextmanager
    def names(self) -> Iterator[None]:
        """Run Erlang's register of nodes (epmd), which a node would start and leave behind."""
        with subprocess.Popen(
            ["epmd", "-port", self._environ["ERL_EPMD_PORT"]],
            env=self._environ,
            start_new_session=True,
        ) as register:
            try:
                yield
            finally:
                register.kill()

    def start(self) -> None:
        with self._output.open("ab") as sink:
            self._node = subprocess.Popen(
                [_SCRIPT], env=self._environ, stdout=sink, stderr=sink, start_new_session=True
            )

    def await_ready(self) -> None:
        eventually(self._answers, within_s=_READY_S, what=f"RabbitMQ, see {self._output}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    def kill(self) -> None:
        """End the node as a power cut would."""
        node, self._node = self._node, None
        if node is not None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@contextmanager
def rabbitmqs(folder: Path) -> Iterator[RabbitMq]:
    """Start a node; yield it once it answers."""
    server = RabbitMq(folder)
    with server.names():
        server.start()
        try:
            server.await_ready()
            yield server
        finally:
            server.kill()


def producer_of(server: RabbitMq, results_url: str) -> Producer:
    """An application that enqueues in RabbitMQ and reads its results from Redis."""
    return Producer(results_url, broker_url=server.url, **CONF)
