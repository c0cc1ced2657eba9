"""Workers with other URLs of Redis: with options, and of a socket."""

from pathlib import Path

import pytest
import redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, workers


# The URL, in which {tcp} stands for the server's address; or `socket`.
@pytest.mark.parametrize(
    "url", ["{tcp}?socket_timeout=5&protocol=3&client_name=kw&max_connections=50", "socket"]
)
def test_a_worker_serves_by_a_url_of_any_kind(tmp_path: Path, url: str) -> None:
    socket = tmp_path / "redis.sock"
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis", options={"unixsocket": str(socket)}) as server,
        Sandbox(groq_keys=1, resend_keys=1) as sandbox,
    ):
        if url == "socket":
            by_socket = f"redis+socket://{socket}?db=2"
            urls = {"CELERY_BROKER_URL": by_socket, "CELERY_RESULT_BACKEND": by_socket}
            urls |= {"KEYWHEEL_POOL_URL": f"unix://{socket}?db=2"}
            producer = Producer(server.url.replace("/0", "/2"))
        else:
            urls = {"REDIS_URL": url.format(tcp=server.url)}
            producer = Producer(server.url)
        with workers(tmp_path, sandbox.env() | urls), redis.Redis.from_url(server.url) as client:
            assert producer.ask("tasks.ai.complete", prompt="Say hello")["text"]
            assert producer.ask("tasks.email.send", to="a@example.com", subject="Hello", text="x")[
                "id"
            ]
            names = {connection["name"] for connection in client.client_list()}
            assert ("kw" in names) == (url != "socket")
            assert bool(client.dbsize()) == (url != "socket")
        producer.close()
