"""A third and a fourth service, added as `config.services` describes, work everywhere.

The test edits two of our files, in a copy: `config/services.py` and
`worker/providers/registry.py`. One of the new services has its own queue, the other shares one.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.api_key import masked_key
from sandbox.redis import EmbeddedRedis
from tests.acceptance.flower_process import LOGIN, flower
from tests.processes import ROOT, Producer, Worker, environment, eventually, workers

LIMITED, GOOD = "echo_limited0123456789abcdef", "echo_good0123456789abcdef"
MIRRORED = "mirror_good0123456789abcdef"

SERVICES = """
for _name, _queue in (("echo", "echo"), ("mirror", "ai")):
    SERVICES = MappingProxyType(  # type: ignore[misc]
        {
            **SERVICES,
            _name: Service(
                name=_name,
                queue=_queue,
                tasks=f"tasks.{_name}",
                icon="🦜",
                key_prefix=f"{_name}_",
                key_lengths=range(20, 40),
                base_url="https://echo.example",
                timeout_s=10,
                cooldown_s=300,
                limit_dimensions=("rpm",),
            ),
        }
    )
"""


class Handler(BaseHTTPRequestHandler):
    """The service: it echoes, limits one key, and refuses to echo some texts."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 429 if LIMITED in self.headers["Authorization"] else 200
        self.send_response(400 if body["text"] == "unspeakable" else status)
        self.end_headers()
        self.wfile.write(json.dumps({"said": body["text"]}).encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@dataclass
class Extended:
    """A Keywheel with two more services."""

    worker: Worker
    producer: Producer
    environ: dict[str, str]
    folder: Path

    def cli(self, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker", *arguments],
            cwd=self.folder, env=environment(**self.environ), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout


def copy_with_services(tree: Path) -> None:
    """Copy the project, edit its two files, and add the new ones."""
    for name in ("config", "tasks", "worker"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    services = tree / "config/services.py"
    source = services.read_text()
    before = "\n\ndef services_of("
    assert source.count(before) == 1
    services.write_text(source.replace(before, SERVICES + before))
    registry = tree / "worker/providers/registry.py"
    source = registry.read_text()
    known = '"resend": Resend'
    assert source.count(known) == 1
    registry.write_text(
        "from worker.providers.echo import Echo, Mirror\n"
        + source.replace(known, f'{known}, "echo": Echo, "mirror": Mirror')
    )
    here = Path(__file__).parent
    shutil.copy(here / "new_provider.py", tree / "worker/providers/echo.py")
    for name in ("echo", "mirror"):
        shutil.copy(here / "new_tasks.py", tree / f"tasks/{name}.py")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    folder = tmp_path_factory.mktemp("extended")
    tree = folder / "tree"
    copy_with_services(tree)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with EmbeddedRedis(data_dir=folder / "redis") as redis:
        environ = {
            "PYTHONPATH": str(tree),
            "REDIS_URL": redis.url,
            "ECHO_BASE_URL": url,
            "ECHO_API_KEY": LIMITED,
            "ECHO_API_KEY_2": GOOD,
            "KEYWHEEL_ECHO_COOLDOWN_S": "240",
            "MIRROR_BASE_URL": url,
            "MIRROR_API_KEY_FILE": str(folder / "mirror"),
        }
        (folder / "mirror").write_text(MIRRORED)
        producer = Producer(redis.url)
        with workers(folder, environ) as [worker]:
            yield Extended(worker, producer, environ, folder)
        producer.close()
    server.shutdown()
    server.server_close()


def test_a_worker_finds_the_keys_of_new_services_and_takes_their_queues(extended: Extended) -> None:
    log = extended.worker.log
    assert "keys: 0 groq, 0 resend, 2 echo, 1 mirror; queues: ai, echo, admin" in log
    assert "no resend key is configured: this worker does not consume the queue email" in log
    assert "no groq" not in log, "the shared queue belongs to a service with a key, too"
    assert "is not a setting" not in log


def test_a_limited_key_is_rotated_away_from_and_rests(extended: Extended) -> None:
    answer = extended.producer.ask("tasks.echo.say", text="hello")
    assert answer == {"said": "hello", "key": masked_key(GOOD), "attempts": 2}
    assert f"🦜 Using Echo key: {masked_key(LIMITED)} (attempt 1/2)" in extended.worker.log
    status = json.loads(extended.cli("keys", "status", "--json"))
    assert set(status) == {"groq", "resend", "echo", "mirror"}
    limited, good = status["echo"]["keys"]
    assert (limited["state"], good["state"]) == ("cooling", "ready")
    assert 200_000 < limited["left_ms"] <= 240_000, "by the setting of the new service"
    assert LIMITED not in extended.worker.log


def test_a_service_with_a_shared_queue_is_served_beside_jobs_that_wait(extended: Extended) -> None:
    waiting = [
        extended.producer.send("tasks.ai.complete", prompt="nobody has a key for me")
        for _ in range(30)
    ]
    answers = [
        extended.producer.send("tasks.mirror.say", queue="ai", text=str(n)) for n in range(30)
    ]
    for number, answer in enumerate(answers):
        assert extended.producer.outcome(answer)["said"] == str(number)
    eventually(lambda: waiting[0].state == "RETRY", what="the deferral of a job without a key")


def test_page_metrics_resets_and_dead_letters_know_new_services(extended: Extended) -> None:
    extended.producer.ask("tasks.echo.say", text="hello")  # one key rests from now on
    refused = extended.producer.ask("tasks.echo.say", text="unspeakable")
    assert type(refused).__name__ == "RequestRejected"
    with (
        flower(extended.folder / "flower", extended.environ) as url,
        httpx.Client(base_url=url, auth=LOGIN, timeout=20) as client,
    ):

        def state() -> dict[str, Any]:
            answer = client.get("/api/admin/api-keys/status")
            return answer.json() if answer.status_code == 200 else {}

        page_state = eventually(
            lambda: (
                (page_state := state())
                and page_state["services"]["mirror"]["queue"]["known"]
                and page_state
            ),
            what="the page's state",
        )
        services = page_state["services"]
        assert [key["state"] for key in services["echo"]["keys"]] == ["cooling", "ready"]
        assert services["echo"]["queue"]["name"] == "echo"
        assert services["mirror"]["queue"]["name"] == services["groq"]["queue"]["name"] == "ai"
        assert page_state["dead_letters"]["by_service"]["echo"] == {"failed": 1}
        metrics = client.get("/metrics").text
        for sample in (
            'keywheel_keys{service="echo",state="cooling"} 1.0',
            'keywheel_keys{service="mirror",state="ready"} 1.0',
            'keywheel_dead_letters{kind="failed",service="echo"} 1.0',
            'keywheel_deferrals_total{service="mirror"} 0.0',
        ):
            assert sample in metrics
        answer = client.post("/api/admin/api-keys/reset", json={"service": "echo"})
        assert answer.json()["reset"] == {"echo": 1}
        assert [key["state"] for key in state()["services"]["echo"]["keys"]] == ["ready", "ready"]
