"""The page of the keys in Flower, and who may see it."""

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from flower.app import Flower

from sandbox.redis import free_port
from tests.integration.dashboard.dashboard_site import LOGIN, TOKEN, Serve, secret
from tests.processes import environment, eventually, unmeasured
from worker.dashboard.page import STATIC, version
from worker.dashboard.templates import KeysLoader


async def test_the_page_stands_in_flowers_navigation(serve: Serve) -> None:
    site = await serve()
    page = await site.client.get("/keys", auth=LOGIN)
    assert page.status_code == 200
    assert 'href="/keys"' in page.text
    assert 'aria-current="page">Keys</a>' in page.text
    assert "css/flower.css" in page.text
    broker = await site.client.get("/tasks", auth=LOGIN)
    assert 'href="/keys"' in broker.text
    assert 'aria-current="page">Keys</a>' not in broker.text


async def test_the_page_knows_which_services_send_emails_and_name_their_accounts(
    serve: Serve,
) -> None:
    site = await serve()
    page = await site.client.get("/keys", auth=LOGIN)
    assert 'data-sends-once="resend"' in page.text
    assert 'data-names-accounts="groq"' in page.text


async def test_the_page_holds_no_data_and_lets_no_other_site_in(serve: Serve) -> None:
    site = await serve()
    page = await site.client.get("/keys", auth=LOGIN)
    assert site.keys["groq"][0].label not in page.text
    assert TOKEN not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self';" in policy


# The requests of a stranger if a login is configured.
@pytest.mark.parametrize(
    "path", ["/keys", "/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"]
)
async def test_without_a_login_nothing_is_served(serve: Serve, path: str) -> None:
    site = await serve()
    answer = await site.client.get(path)
    assert answer.status_code == 401
    assert len(answer.text) < 200


async def test_if_nobody_can_log_in_the_page_says_so(serve: Serve) -> None:
    site = await serve(basic_auth=None)
    page = await site.client.get("/keys")
    assert page.status_code == 403
    assert "FLOWER_BASIC_AUTH" in page.text
    assert "keys.js" not in page.text


async def test_read_only_leaves_the_buttons_out(serve: Serve) -> None:
    site = await serve(read_only=True)
    page = await site.client.get("/keys", auth=LOGIN)
    assert 'data-read-only="yes"' in page.text
    assert "reset-all" not in page.text


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
async def test_static_files_are_served(serve: Serve, name: str) -> None:
    site = await serve()
    served = await site.client.get(f"/keys/static/{version()}/{name}")
    assert served.content == (STATIC / name).read_bytes()
    assert "max-age" in served.headers["Cache-Control"]
    for module in re.findall(
        r'from "\./(.*)";', served.text
    ):  # the modules that a module imports have a version in their address, too
        assert (STATIC / module).is_file()
    assert (await site.client.get(f"/keys/static/{version()}/../../api.py")).status_code in {
        403,
        404,
    }


def test_a_navigation_that_looks_different_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "navbar.html").write_text("<nav></nav>")
    assert KeysLoader(str(tmp_path)).load("navbar.html").generate() == b"<nav></nav>"
    assert "no link to the page /keys" in caplog.text


# The configuration, and the address on which Flower then listens.
@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({"basic_auth": None, "address": "0.0.0.0"}, "127.0.0.1"),  # noqa: S104
        ({"basic_auth": None, "address": ""}, "127.0.0.1"),
        ({"basic_auth": None, "address": "localhost"}, "localhost"),
        ({"basic_auth": None, "address": "127.0.0.2"}, "127.0.0.2"),
        ({"address": "127.0.0.3"}, "127.0.0.3"),
        ({"basic_auth": None, "auth": "ada@example.com", "address": "127.0.0.4"}, "127.0.0.4"),
    ],
)
async def test_without_a_login_flower_listens_on_this_machine_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], address: str
) -> None:
    monkeypatch.setattr(Flower, "start_http_server", lambda _: None)
    site = await serve(**options)
    site.app.start_http_server()
    assert site.app.options.address == address


def test_the_stock_command_shows_the_page_wherever_it_is_started_and_ends_when_asked(
    tmp_path: Path, redis_url: str
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = {
        "REDIS_URL": redis_url,
        "FLOWER_PORT": str(port),
        "GROQ_API_KEY": secret("groq", 1),
    }
    (tmp_path / ".env").write_text(
        f"FLOWER_BASIC_AUTH=evä:öther,{':'.join(LOGIN)}\n", encoding="utf-8"
    )
    log_path = tmp_path / "log"
    with log_path.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "flower"],
            cwd=tmp_path,
            env=unmeasured(environment(**settings)),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )

    def fetch(path: str, *, login: tuple[str, str] | None) -> Any:
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        if login:
            passwords.add_password(None, url, *login, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        try:
            with opener.open(url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return None

    try:
        eventually(lambda: fetch("/healthcheck", login=None), within_s=40, what="Flower's answer")
        for login in (LOGIN, ("evä", "öther")):
            status, page = fetch("/keys", login=login)
            assert (status, "keys-services" in page) == (200, True)
            assert fetch("/workers", login=login)[0] == 200, "one of Flower's own pages"
        assert fetch("/workers", login=("frömd", "x"))[0] == 401
        assert fetch("/api/admin/api-keys/status", login=None)[0] == 401
        status, status_text = fetch("/api/admin/api-keys/status", login=LOGIN)
        assert status == 200
        assert '"label": "gsk_001can..."' in status_text
        status, metrics = fetch("/metrics", login=None)
        assert status == 200
        assert "canary" not in metrics
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log_path.read_text()
    assert "canary" not in log_path.read_text()


@pytest.mark.parametrize(
    ("options", "login", "acts"),
    [
        ({"environ": {"ADMIN_USERS": "ada"}}, LOGIN, True),
        ({"environ": {"ADMIN_USERS": "ada"}}, ("vic", "canary-9913"), False),
        ({}, ("vic", "canary-9913"), True),  # everyone with a login is an admin
        # Without a configured login, Flower's API refuses every request.
        ({"basic_auth": None}, None, False),
        ({"basic_auth": None, "environ": {"FLOWER_UNAUTHENTICATED_API": "1"}}, None, True),
        ({"read_only": True}, LOGIN, False),
    ],
)
async def test_flowers_own_buttons_are_there_for_those_who_may_press_them(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    login: tuple[str, str] | None,
    *,
    acts: bool,
) -> None:
    logins = (":".join(LOGIN), "vic:canary-9913")
    site = await serve(**({"basic_auth": logins} | options))
    monkeypatch.setattr(site.app, "update_workers", lambda **_: None)  # no worker runs here
    seen = dict.fromkeys(site.app.inspector.inspect_methods, ())
    site.app.workers["w1"] = seen | {"conf": {}, "stats": {"total": {}, "broker": {}}}
    event = {"type": "task-started", "uuid": "job-1", "hostname": "w1", "timestamp": time.time()}
    site.app.events.state.event(event | {"local_received": time.time(), "clock": 1})
    for path, button in (("/worker/w1", "worker-shutdown"), ("/task/job-1", "task-terminate")):
        page = await site.client.get(path, auth=login)
        assert page.status_code == 200, page.text
        assert (f'id="{button}"' in page.text) is acts


async def test_no_page_of_flower_is_shown_within_another_site(serve: Serve) -> None:
    site = await serve()
    paths = ("/keys", "/keys/jobs/x", "/workers", "/tasks", "/broker", "/task/none", "/none")
    for path in paths:
        answer = await site.client.get(path, auth=LOGIN)
        assert answer.headers["X-Frame-Options"] == "DENY", path
