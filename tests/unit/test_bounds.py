"""Each bound for callers: the last accepted value, and the first refused one."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.exceptions import ClickException
from click.testing import CliRunner

from config.addresses import is_address
from config.errors import SettingsError
from config.keys import discover_keys
from config.notify_hosts import host_of, notify_hosts
from config.services import SERVICES
from config.settings import settings_from
from keywheel_client.messages import message_of
from tests.unit.sample_keys import GROQ
from worker.cli import key_changes
from worker.cli.plain_text import JobId, PlainText
from worker.dashboard.cursor import LATEST_MS, read_cursor
from worker.dashboard.dead_letters import read_selection
from worker.dashboard.errors import ApiError
from worker.dashboard.request_body import MAX_BODY_BYTES, check_headers, read_body, whole_number
from worker.providers.durations import duration_ms
from worker.providers.groq.answer import cached_tokens, counted_tokens
from worker.providers.key_check import quotas_in
from worker.providers.resend.limits import limits_of
from worker.providers.resend.request import is_idempotency_key
from worker.providers.response import Answer, is_count

MONTH_S = 30 * 86_400
Take = Callable[[int], object]


class RefusedError(Exception):
    """The code under test returned that it refuses the value."""


def _truth(*, taken: bool) -> None:
    if not taken:
        raise RefusedError


def _setting(variable: str, form: str = "{}", **beside: str) -> Take:
    return lambda size: settings_from({variable: form.format(size)} | beside)


def _body(field: str, make: Callable[[int], Any] = "x".__mul__) -> Take:
    def take(size: int) -> object:
        body = json.dumps({field: make(size)}).encode()
        return read_body(body, fields=[field])

    return take


def _selection(field: str, make: Callable[[int], Any] = "x".__mul__) -> Take:
    return lambda size: read_selection({field: make(size)}, fields=[field], needed=False)


def _keep_note(size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_changes, "run_with_pools", lambda *_: "kept")
        result = CliRunner().invoke(key_changes.note, ["a key", "x" * size])
    _truth(taken="kept" in result.output)


def _account(size: int) -> None:
    environ = {"GROQ_API_KEY": GROQ, "GROQ_ACCOUNT": "x" * size}
    _truth(taken=discover_keys("groq", environ).keys[0].account is not None)


def _usual_key(service: str, prefix: str, size: int) -> None:
    random = "".join("aB3dE6gH9"[index % 9] for index in range(size - len(prefix)))
    _truth(
        taken=not discover_keys(service, {f"{service.upper()}_API_KEY": prefix + random}).problems
    )


def _secret(size: int) -> object:
    text = base64.b64encode(b"x" * size).decode()
    return settings_from({"KEYWHEEL_NOTIFY_SECRET": f"whsec_{text}"})


def _domain(size: int) -> str:
    labels = "a." * ((size - 3) // 2)
    return f"a@{labels}{'b' * (size - len(labels))}"


# A name, a function that tries a value of some size, and accepted sizes beside refused ones.
BOUNDS: list[tuple[str, Take, list[tuple[int, int]]]] = [
    # the command line
    ("reason", lambda n: PlainText().convert("x" * n, None, None), [(1, 0), (200, 201)]),
    ("job", lambda n: JobId().convert("x" * n, None, None), [(1, 0), (200, 201)]),
    (
        "--for",
        lambda n: key_changes._Duration().convert(f"{n}s", None, None),
        [(1, 0), (MONTH_S, MONTH_S + 1)],
    ),
    ("note", _keep_note, [(200, 201)]),
    # the page's requests
    ("a body's reason", _body("reason"), [(1, 0), (200, 201)]),
    ("a body's note", _body("note"), [(200, 201)]),
    ("a body's for_s", _body("for_s", int), [(1, 0), (MONTH_S, MONTH_S + 1)]),
    (
        "an announced body",
        lambda n: check_headers(
            {"Content-Length": str(n), "Content-Type": "application/json"}, query=""
        ),
        [(MAX_BODY_BYTES, MAX_BODY_BYTES + 1)],
    ),
    ("a number", lambda n: whole_number(str(n), "limit", most=500), [(1, 0), (500, 501)]),
    ("a cursor's instant", lambda n: read_cursor(str(n)), [(1, 0), (LATEST_MS, LATEST_MS + 1)]),
    ("what a cursor skips", lambda n: read_cursor(f"5-{n}"), [(1, 0), (2_000, 2_001)]),
    ("a letter's id", _selection("id"), [(1, 0), (200, 201)]),
    ("an id of several", _selection("ids", lambda n: ["x" * n]), [(1, 0), (200, 201)]),
    ("ids", _selection("ids", lambda n: ["x"] * n), [(1, 0), (100, 101)]),
    ("search", _selection("search"), [(1, 0), (200, 201)]),
    ("before", _selection("before", int), [(1, 0), (LATEST_MS, LATEST_MS + 1)]),
    # messages
    (
        "priority",
        lambda n: message_of("tasks.ai.complete", {}, priority=n),
        [(0, -1), (9, 10)],
    ),
    (
        "tenant",
        lambda n: message_of("tasks.ai.complete", {}, tenant="x" * n),
        [(1, 0), (200, 201)],
    ),
    (
        "job_id",
        lambda n: message_of("tasks.ai.complete", {}, job_id="x" * n),
        [(1, 0), (200, 201)],
    ),
    ("idempotency key", lambda n: _truth(taken=is_idempotency_key("x" * n)), [(1, 0), (256, 257)]),
    # values that a provider states
    ("a count", lambda n: _truth(taken=is_count(n)), [(0, -1), (10**12, 10**12 + 1)]),
    (
        "a header's number",
        lambda n: _truth(taken=Answer(200, {"n": str(n)}).header_int("n") is not None),
        [(0, -1), (10**12, 10**12 + 1)],
    ),
    (
        "counted tokens",
        lambda n: _truth(taken=counted_tokens({"total_tokens": n}) is not None),
        [(10**8, 10**8 + 1)],
    ),
    (
        "cached tokens",
        lambda n: _truth(
            taken=cached_tokens({"prompt_tokens_details": {"cached_tokens": n}}) is not None
        ),
        [(10**8, 10**8 + 1)],
    ),
    ("a time's characters", lambda n: _truth(taken=duration_ms("1" * n) is not None), [(64, 65)]),
    (
        "a rate's window",
        lambda n: _truth(
            taken=bool(limits_of(Answer(200, {"ratelimit-policy": f"1;w={n}"}))),
        ),
        [(1, 0), (86_400, 86_401)],
    ),
    (
        "a window of /usage",
        lambda n: _truth(
            taken=bool(quotas_in({"rate_limit": {"limit": 1, "duration": f"{n}s"}})),
        ),
        [(1, 0), (86_400, 86_401)],
    ),
    (
        "a limit of /usage",
        lambda n: _truth(taken=bool(quotas_in({"emails": {"daily": {"limit": n}}}))),
        [(1, 0)],
    ),
    # settings
    ("tries", _setting("KEYWHEEL_MAX_RETRIES"), [(1, 0), (1_000, 1_001)]),
    ("jobs", _setting("KEYWHEEL_WORKER_CONCURRENCY"), [(1, 0), (100_000, 100_001)]),
    (
        "a time limit",
        _setting(
            "KEYWHEEL_TASK_TIME_LIMIT_S",
            **{f"KEYWHEEL_{service.upper()}_TIMEOUT_S": "0.1" for service in SERVICES},
        ),
        [(2, 1), (864_000, 864_001)],
    ),
    ("dead letters", _setting("KEYWHEEL_DEAD_LETTERS_MB"), [(0, -1), (1_000_000, 1_000_001)]),
    ("a port", _setting("FLOWER_PORT"), [(1, 0), (65_535, 65_536)]),
    ("seconds", _setting("KEYWHEEL_RETRY_BACKOFF_S"), [(1, 0), (MONTH_S, MONTH_S + 1)]),
    ("a namespace", lambda n: settings_from({"KEYWHEEL_NAMESPACE": "x" * n}), [(64, 65)]),
    ("a token", lambda n: settings_from({"ADMIN_TOKEN": "x" * n}), [(16, 15)]),
    ("random bytes", _secret, [(24, 23)]),
    ("a limit", _setting("KEYWHEEL_GROQ_LIMITS", "rpm={}"), [(1, 0), (10**12 - 1, 10**12)]),
    (
        "a socket's time",
        _setting("REDIS_URL", "redis://h/0?socket_timeout={}"),
        [(2, 1), (10**6 - 1, 10**6)],
    ),
    (
        "connections",
        _setting("REDIS_URL", "redis://h/0?max_connections={}"),
        [(10**9 - 1, 10**9)],
    ),
    ("an account", _account, [(64, 65)]),
    ("a key of Groq", lambda n: _usual_key("groq", "gsk_", n), [(40, 39), (120, 121)]),
    ("a key of Resend", lambda n: _usual_key("resend", "re_", n), [(24, 23), (80, 81)]),
    ("a host's port", lambda n: notify_hosts(f"a:{n}"), [(1, 0), (65_535, 65_536)]),
    (
        "a URL's path",
        lambda n: host_of(f"https://a/{'x' * (n - 10)}", notify_hosts("a")),
        [(2_000, 2_001)],
    ),
    # addresses
    ("a local part", lambda n: _truth(taken=is_address("x" * n + "@b.example")), [(64, 65)]),
    ("a label", lambda n: _truth(taken=is_address(f"a@{'x' * n}.example")), [(1, 0), (63, 64)]),
    ("a domain", lambda n: _truth(taken=is_address(_domain(n))), [(253, 254)]),
    ("a name", lambda n: _truth(taken=is_address("x" * n + "<a@b.example>")), [(200, 201)]),
]


@pytest.mark.parametrize(
    ("take", "taken", "refused"),
    [
        pytest.param(take, taken, refused, id=f"{name} of {taken}, not of {refused}")
        for name, take, sizes in BOUNDS
        for taken, refused in sizes
    ],
)
def test_the_last_value_within_a_bound_is_taken_and_the_next_one_refused(
    take: Take, taken: int, refused: int
) -> None:
    take(taken)
    with pytest.raises((ApiError, ClickException, RefusedError, SettingsError, ValueError)):
        take(refused)
