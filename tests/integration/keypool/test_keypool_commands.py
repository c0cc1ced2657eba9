"""`celery -A worker keys …`: what it does to a key or a service, and what it prints."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from config.current import get_settings
from config.keys import load_keys
from worker.action_log import ActionLog
from worker.cli.keys import keys

Type = Callable[[str], tuple[int, str]]


@pytest.fixture
def type_(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    """Run a command; return its exit status and the last line that it printed."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    for number, name in ((1, "GROQ_API_KEY"), (2, "GROQ_API_KEY_2")):
        monkeypatch.setenv(name, f"gsk_{number:03d}canary{'0' * 40}")
    monkeypatch.setenv("LOGNAME", "ada")
    get_settings.cache_clear()

    def typed(line: str) -> tuple[int, str]:
        shown = CliRunner().invoke(keys, line.split())
        return shown.exit_code, shown.output.strip().splitlines()[-1]

    yield typed
    get_settings.cache_clear()


def test_each_change_by_hand_is_reported_in_a_sentence(type_: Type) -> None:
    key = load_keys("groq").keys[0]
    label, name = key.label, key.id
    endless = "without an end, by cli ada (by hand); `keys"
    key_stays = f"{label} was already disabled {endless} enable {name}` brings it back"
    groq_stays = f"groq was already paused {endless} resume groq` ends it"
    for line, sentence in (
        (f"disable {name}", f"{label} is disabled; `keys enable {name}` brings it back"),
        *(
            (
                f"disable {name}{time}",
                key_stays,
            )
            for time in ("", " --for 2h")
        ),
        (f"enable {name}", f"{label} is enabled"),
        (f"enable {name}", f"{label}: no person had disabled it"),
        (f"disable {name} --for 2h --drain", f"{label} is disabled for 2 h 0 min"),
        (f"enable {name}", f"{label} is enabled"),
        ("disable GROQ_API_KEY --for 1s", f"{label} is disabled for 1 s"),
        ("pause groq", "groq is paused; `keys resume groq` ends it"),
        *(
            (
                f"pause groq{time}",
                groq_stays,
            )
            for time in ("", " --for 90s")
        ),
        ("resume groq", "groq is resumed"),
        ("pause groq --for 90s", "groq is paused for 1 min 30 s"),
        ("resume groq", "groq is resumed"),
        ("resume groq", "groq was not paused"),
        ("pause resend --for 30d", "resend is paused for 30 d 0 h"),
        (f"note {name} ask", f"{label}: ask"),
        (f"note {name}", f"{label}: the note is removed"),
        (f"note {name} {'x' * 200}", f"{label}: {'x' * 200}"),
    ):
        assert type_(line) == (0, sentence), line


def test_a_change_of_the_time_says_what_it_replaces(type_: Type) -> None:
    assert type_("pause groq --for 2h --reason launch")[0] == 0
    code, output = type_("pause groq --for 90s")
    assert code == 0
    assert output.startswith("groq is paused for 1 min 30 s; before this change, ")
    assert output.endswith("min were left, set by cli ada (launch)")
    output = type_("pause groq")[1]
    assert output.startswith(
        "groq is paused; `keys resume groq` ends it; before this change, 1 min "
    )


@pytest.mark.parametrize("time", ["0s", "31d", "2592001s", "5x", "5", "1.5h", "-1s", "12345678s"])
def test_an_invalid_time_is_refused(type_: Type, time: str) -> None:
    code, output = type_(f"pause groq --for={time}")
    assert code == 2
    assert output.endswith("give a time such as 90s, 45m, 2h or 1d, up to 30d")
    assert type_("resume groq") == (0, "groq was not paused")


def test_a_note_that_is_not_plain_text_is_refused(type_: Type) -> None:
    name = load_keys("groq").keys[0].id
    for text in ("x" * 201, "red\x1b[31m"):
        code, output = type_(f"note {name} {text}")
        assert (code, "plain text" in output) == (1, True), output
    assert type_(f"note {name}")[0] == 0


def test_a_command_for_an_unknown_key_is_refused(type_: Type) -> None:
    code, output = type_("disable nobody")
    assert code == 1
    assert "no key here has the id, label or variable" in output


def test_the_audit_shows_what_people_did_to_keys_and_to_jobs(type_: Type, redis_url: str) -> None:
    async def cancel() -> None:
        async with Redis.from_url(redis_url, decode_responses=True) as redis:
            log = ActionLog(redis, namespace=get_settings().namespace)
            await log.add("cancelled", scope="job", name="job-1", by="cli ada")

    asyncio.run(cancel())
    assert type_("disable GROQ_API_KEY")[0] == 0

    def audit(*options: str) -> str:
        shown = CliRunner().invoke(keys, ["audit", *options], env={"COLUMNS": "220"})
        assert shown.exit_code == 0, shown.output
        return shown.output

    for words in ("cancelled", "job-1", "disabled"):
        assert words in audit()
    assert "job-1" not in audit("--service", "groq")
    assert "disabled" in audit("--service", "groq")
    assert "disabled" not in audit("--service", "resend")
