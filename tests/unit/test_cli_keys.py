"""The calls that `keys …` makes to the key pools, and its output."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from click.testing import CliRunner, Result
from redis.exceptions import NoPermissionError

from tests.unit.cli_runner import KEYS
from tests.unit.sample_keys import GROQ
from worker.cli import chosen_key, key_changes, keys
from worker.keypool import Disabled, HeldBlock, ResetDone
from worker.keypool.by_hand import Earlier
from worker.startup.redis import eviction_of

ID, LABEL = KEYS["groq"].id, KEYS["groq"].label
BY = {"by": "cli ann"}
REST = HeldBlock("account_model", "acme × m", "", "cooling", "rate_limit", "")
HELD = HeldBlock("key", "gsk_b…", "b" * 12, "disabled", "leaked", "cli bob")

PoolCalls = list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]


class _Pool:
    """Notes its calls."""

    def __init__(self, service: str, answers: dict[str, Any], calls: PoolCalls) -> None:
        self.service = service
        self.keys = (KEYS[service],) if service in KEYS else ()
        self._answers, self._calls = answers, calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*args: Any, **options: Any) -> Any:
            self._calls.append((self.service, name, args, options))
            return self._answers[name]

        return ask


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, PoolCalls]]:
    """Run a command; return its output, and the calls to each pool."""

    def start(arguments: list[str], answers: dict[str, Any]) -> tuple[Result, PoolCalls]:
        calls: PoolCalls = []
        monkeypatch.setattr(
            chosen_key,
            "pools_for_tools",
            lambda _, services: {name: _Pool(name, answers, calls) for name in services},
        )
        monkeypatch.setattr(chosen_key, "run", lambda command, **_: asyncio.run(command(None)))
        for module in (keys, key_changes):
            monkeypatch.setattr(module, "current_user", lambda: "ann")
        return CliRunner().invoke(keys.keys, arguments), calls

    return start


# The command line, the pool's answer, the calls to the pool, and the output.
_COMMANDS: list[tuple[list[str], Any, PoolCalls, str]] = [
    (
        ["disable", "GROQ_API_KEY", "--reason", "leaked"],
        Disabled(newly=True, left_ms=None, before=None),
        [("groq", "disable", (ID,), BY | {"reason": "leaked", "for_ms": None})],
        f"{LABEL} is disabled; `keys enable {ID}` brings it back\n",
    ),
    (
        ["disable", LABEL],
        Disabled(newly=False, left_ms=None, before=Earlier(None, "ada", "leaked")),
        [("groq", "disable", (ID,), BY | {"reason": "by hand", "for_ms": None})],
        (
            f"{LABEL} was already disabled without an end, by ada (leaked); `keys enable {ID}` "
            "brings it back\n"
        ),
    ),
    (
        ["disable", ID, "--for", "90s", "--reason", f"was {GROQ}"],
        Disabled(newly=False, left_ms=90_000, before=Earlier(45_400, "ada", "leaked")),
        [("groq", "disable", (ID,), BY | {"reason": "was gsk_abc123...", "for_ms": 90_000})],
        (
            f"{LABEL} is disabled for 1 min 30 s; before this change, 45 s were left, "
            "set by ada (leaked)\n"
        ),
    ),
    (["enable", ID], True, [("groq", "enable", (ID,), BY)], f"{LABEL} is enabled\n"),
    (
        ["enable", ID],
        False,
        [("groq", "enable", (ID,), BY)],
        f"{LABEL}: no person had disabled it\n",
    ),
    (
        ["pause", "resend", "--reason", "bill"],
        Disabled(newly=True, left_ms=None, before=None),
        [("resend", "disable", (None,), BY | {"reason": "bill", "for_ms": None})],
        "resend is paused; `keys resume resend` ends it\n",
    ),
    (
        ["pause", "resend"],
        Disabled(newly=False, left_ms=None, before=None),
        [("resend", "disable", (None,), BY | {"reason": "by hand", "for_ms": None})],
        ("resend is paused; `keys resume resend` ends it; the provider had already refused it\n"),
    ),
    (
        ["pause", "resend", "--for", "2h", "--reason", f"was {GROQ}"],
        Disabled(newly=True, left_ms=7_200_999, before=None),
        [("resend", "disable", (None,), BY | {"reason": "was gsk_abc123...", "for_ms": 7_200_000})],
        "resend is paused for 2 h 0 min\n",
    ),
    (["resume", "groq"], True, [("groq", "enable", (None,), BY)], "groq is resumed\n"),
    (["resume", "groq"], False, [("groq", "enable", (None,), BY)], "groq was not paused\n"),
    (
        ["note", ID, f" two \n words {GROQ}"],
        None,
        [("groq", "note", (ID, "two words gsk_abc123..."), BY)],
        f"{LABEL}: two words gsk_abc123...\n",
    ),
    (["note", ID], None, [("groq", "note", (ID, ""), BY)], f"{LABEL}: the note is removed\n"),
    (
        ["reset", "--key", "RESEND_API_KEY"],
        ResetDone((REST,)),
        [
            (
                "resend",
                "reset",
                (),
                BY | {"key_id": KEYS["resend"].id, "include_disabled": False},
            )
        ],
        (
            "🔄 Resend failed keys reset (1 block cleared)\n"
            "   back: account × model acme × m, cooling: rate limit\n"
        ),
    ),
    (
        ["reset", "--include-disabled", "--service", "groq"],
        ResetDone((REST, HELD)),
        [("groq", "reset", (), BY | {"key_id": None, "include_disabled": True})],
        (
            "🔄 Groq failed keys reset (2 blocks cleared)\n"
            "   back: account × model acme × m, cooling: rate limit\n"
            "   back: key gsk_b…, disabled by cli bob: leaked\n"
        ),
    ),
    (
        ["reset", "--service", "groq"],
        ResetDone((), (HELD,)),
        [("groq", "reset", (), BY | {"key_id": None, "include_disabled": False})],
        (
            "🔄 Groq failed keys reset (0 blocks cleared)\n"
            "   still out: key gsk_b…, disabled by cli bob: leaked; `--include-disabled` or `--key "
            f"{HELD.key}` brings it back\n"
        ),
    ),
]


@pytest.mark.parametrize(("typed", "answer", "calls", "printed"), _COMMANDS)
def test_a_command_calls_the_pool_of_its_service_and_prints_the_outcome(
    run: Callable[..., tuple[Result, PoolCalls]],
    typed: list[str],
    answer: Any,
    calls: PoolCalls,
    printed: str,
) -> None:
    result, calls_made = run(typed, {calls[0][1]: answer})
    assert result.exception is None, result.output
    assert (calls_made, result.output) == (calls, printed)


@pytest.mark.parametrize("text", ["x" * 201, "red \x1b[31m"])
def test_a_note_that_is_long_or_has_control_characters_is_refused(
    run: Callable[..., tuple[Result, PoolCalls]], text: str
) -> None:
    result, calls = run(["note", ID, text], {"note": None})
    assert (result.exit_code, calls) == (1, [])
    assert "a note is plain text of at most 200 characters" in result.output


@pytest.mark.parametrize("command", [["disable", ID], ["pause", "groq"]])
@pytest.mark.parametrize("time", ["soon", "5", "0s", "31d", "1.5h", "-1h", "5M"])
def test_a_time_that_cannot_be_read_is_answered_with_an_example(
    run: Callable[..., tuple[Result, PoolCalls]], command: list[str], time: str
) -> None:
    result, calls = run([*command, "--for", time], {"disable": True})
    assert (result.exit_code, calls) == (2, [])
    assert "give a time such as 90s, 45m, 2h or 1d, up to 30d" in result.output


async def test_a_redis_that_does_not_say_whether_it_evicts_gives_no_warning() -> None:
    client: Any = SimpleNamespace(info=AsyncMock(side_effect=NoPermissionError("NOPERM info")))
    assert await eviction_of(client) is None


@pytest.mark.parametrize("drains", [True, False])
def test_a_key_is_drained_only_with_the_option_drain(
    run: Callable[..., tuple[Result, PoolCalls]], monkeypatch: pytest.MonkeyPatch, *, drains: bool
) -> None:
    waited: list[str] = []

    async def drained(pool: _Pool, key_id: str) -> None:
        waited.extend((pool.service, key_id))

    monkeypatch.setattr(key_changes, "_drained", drained)
    answers = {"disable": Disabled(newly=True, left_ms=None, before=None)}
    result, _ = run(["disable", ID, *["--drain"] * drains], answers)
    assert result.output.startswith(f"{LABEL} is disabled")
    assert waited == ["groq", ID] * drains


async def test_a_key_is_drained_once_no_call_with_it_is_in_flight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, slept = [2, 2, 1, 0], []

    class Pool:
        async def snapshot(self) -> Any:
            keys = (
                SimpleNamespace(id="other", label="other", in_flight=9),
                SimpleNamespace(id="a", label="gsk_a...", in_flight=counts.pop(0)),
            )
            return SimpleNamespace(keys=keys)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(key_changes.asyncio, "sleep", sleep)
    await key_changes._drained(Pool(), "a")  # type: ignore[arg-type]
    output = capsys.readouterr()
    assert output.err == "gsk_a...: 2 calls in flight\ngsk_a...: 1 call in flight\n"
    assert output.out == ""
    assert slept == [key_changes._LOOK_S] * 3
