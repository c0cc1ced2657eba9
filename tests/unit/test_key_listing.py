"""The keys, their audit trail and dead letters in a terminal of 80 columns."""

import io
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console, Group

from config.api_key import make_key
from worker.cli import audit_listing, dead_listing, job, keys, usage
from worker.cli.key_listing import duration, listing
from worker.deadletters import DeadLetter
from worker.keypool import BlockView, BucketView, HeldBlock, KeyView, PoolView, audit_trail
from worker.providers.key_check import KeyCheck
from worker.rotation.key_checks import CheckedKey
from worker.usage import MEASURES, Row, UsageQuery, UsageReport
from worker.verdicts import Dimension, ObservedLimit

COUNTS = {
    "in_flight": 1,
    "calls": 1234567,
    "accepted": 1,
    "refused": 98765,
    "faults": 0,
    "rejected": 0,
    "used_ms": 0,
}


def key(number: int, state: str, *blocks: BlockView, account: str = "") -> KeyView:
    buckets = (BucketView("m", "rpm", 30, 30, 60_000), BucketView("m", "epmo", 3_000, 3_000, 1))
    return KeyView(
        f"{number:012x}", f"gsk_{number:06d}...", "GROQ_API_KEY_10", account or f"{number:012x}",
            state, blocks,
        tokens=12345678, buckets=buckets[:number], **COUNTS,
    )  # fmt: skip


def shown(listed: Group) -> list[str]:
    console = Console(width=80, file=io.StringIO(), highlight=False, markup=False)
    console.print(listed)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_what_another_command_needs_is_whole_in_80_columns() -> None:
    rests = BlockView(
        "account_model", "openai/gpt-oss-120b", "cooling", "rate_limit", 1, 3_999_001, 7_500
    )
    by_hand = BlockView("key", "", "disabled", "leaked", 1, None, disabled_by="cli ann")
    no_domain = BlockView("key_resource", "example.com", "disabled", "domain_not_verified", 1, None)
    keys = (
        key(1, "cooling", rests, account="org_01jxvdgr7sfb1xf0q8tdg0yv5m"),
        key(2, "disabled", by_hand),
        key(0, "cooling", no_domain),
        key(4, "ready", no_domain),
    )
    lines = shown(listing([PoolView("groq", 0, keys), PoolView("resend", 0, ())]))
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "groq: 1 of 4 keys ready, 4 calls in flight"
    assert lines[2].startswith("gsk_000001... 000000000001 cooling  1 h 6 min   100% rpm ")
    rest = "\n".join(lines)
    assert "rate_limit openai/gpt-oss-120b for 7,500 tokens or more" in rest
    assert "org_01jxvdgr7sfb1xf0q8tdg0yv5m" in rest
    assert "on enable   100% epmo" in rest, "a reset of all keys does not enable it"
    assert "leaked (by cli ann)" in rest
    assert rest.count("until reset") == 1, (
        "the block of a resource is shown only for a key that is not ready"
    )
    assert lines[-1] == "resend: no key is configured here"


def test_a_key_that_rests_shows_when_it_is_back_although_a_domain_is_disabled() -> None:
    quota = BlockView("account", "", "cooling", "daily_quota", 1, 3_999_001)
    no_domain = BlockView("key_resource", "example.com", "disabled", "domain_not_verified", 1, None)
    rests = key(1, "cooling", quota, no_domain)
    assert (rests.left_ms, rests.reason) == (3_999_001, "daily_quota")
    (line,) = shown(listing([PoolView("resend", 0, (rests,))]))[2:3]
    assert line[36:47].strip() == "1 h 6 min"


def test_a_key_that_was_disabled_by_hand_is_back_on_enable_although_it_rests_as_well() -> None:
    rests = BlockView("account", "", "cooling", "daily_quota", 1, 3_999_001)
    by_hand = BlockView("key", "", "disabled", "leaked", 1, None, disabled_by="cli ann")
    (line,) = shown(listing([PoolView("groq", 0, (key(1, "disabled", rests, by_hand),))]))[2:3]
    assert line[36:47].strip() == "on enable"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, ""),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 0 min"),
        (3_660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_a_pause_is_shown_apart_from_a_rest_and_with_what_ends_it() -> None:
    endless = BlockView("host", "", "disabled", "a launch", 1, None, disabled_by="cli ann")
    for_a_time = BlockView("host", "", "cooling", "a launch", 1, 61_000, disabled_by="cli ann")
    outage = BlockView("host", "", "cooling", "connect_error", 1, 61_000)
    lines = [
        shown(listing([PoolView("groq", 0, (key(1, block.state, block),))]))
        for block in (endless, for_a_time, outage)
    ]
    assert [table[0].split(" of")[0] for table in lines] == [
        "groq: paused, none", "groq: paused, none", "groq: none"
    ]  # fmt: skip
    assert [table[2][36:47].strip() for table in lines] == ["on resume", "1 min 1 s", "1 min 1 s"]
    assert lines[0][3].strip() == "paused: a launch (by cli ann)"


def test_control_characters_in_the_audit_trail_are_replaced() -> None:
    entry = {"event": "paused", "scope": "service", "name": "groq", "reason": "a\nb \x1b[31m",
             "until_ms": "0", "at_ms": "1000", "by": "task 1 for \x9b2J"}  # fmt: skip
    assert shown(audit_listing.listing({"groq": [entry]}))[1].strip() == (
        "a\ufffdb \ufffd[31m, by task 1 for \ufffd2J"
    )


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [("org_1:llama:free", "org_1 × llama:free"), ("org_1:", "org_1")],
)
def test_an_entry_about_a_model_of_an_account_names_both(name: str, shown_as: str) -> None:
    entry = {"scope": "account_model", "name": name}
    assert audit_trail._with_labels(entry, ())["name"] == shown_as


@pytest.fixture
def job_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"state": "FAILURE", "error": "ValueError", "reason": "no\x1b[2J\nSUCCESS"}
    monkeypatch.setattr(job, "run", lambda *_, **__: {"1": failed})


@pytest.mark.usefixtures("job_that_failed")
def test_control_characters_from_a_job_are_replaced() -> None:
    model = "m\x1b[2J"
    unfit = BlockView("key_resource", model, "disabled", "not_permitted", 1, None)
    row = Row((model,), None)
    row.add([1] * len(MEASURES), None)
    report = UsageReport(UsageQuery(by=("model",)), 0, 1, (), (row,))
    for text in (
        "\n".join(shown(listing([PoolView("groq", 0, (key(1, "ready", unfit),))]))),
        "\n".join(shown(Group(usage.listing(report, {})))),
        keys._held(HeldBlock("model", model, "", "disabled", "not_permitted", "")),
        CliRunner().invoke(job.job, ["1"]).output,
    ):
        assert "\ufffd[2J" in text
        assert "\x1b" not in text


def test_the_audit_trail_is_whole_in_80_columns_the_latest_first() -> None:
    job = "6bbec290-0a3b-4f4e-9d0c-5a5a5a5a5a5a"
    name = "org_01jxvdgr7sfb1xf0q8tdg0yv5m × openai/gpt-oss-120b"
    entry = {"event": "account_learned", "scope": "account_model", "name": name,
             "reason": "rate_limit", "until_ms": "0", "by": job}  # fmt: skip
    early, late = entry | {"at_ms": "1000"}, entry | {"at_ms": "61000", "event": "reset"}
    lines = shown(audit_listing.listing({"groq": [early], "resend": [late]}))
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("1970-01-01 00:01:01 UTC  resend reset")
    text = "".join(lines)
    assert text.index("reset") < text.index("account_learned")
    assert text.replace(" ", "").count(job) == 2
    assert "org_01jxvdgr7sfb1xf0q8tdg0yv5m" in text
    bare = shown(audit_listing.listing({"groq": [late | {"reason": ""}]}))
    assert bare[-1].strip() == f"by {job}"


def test_a_check_takes_two_lines_a_key_and_cuts_no_name_that_another_command_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groq_key, resend_key = (
        make_key(service, secret=f"{prefix}0123456789abcdefghijklmnopqrst", variable="X")
        for service, prefix in (("groq", "gsk_"), ("resend", "re_"))
    )
    dead = KeyCheck("dead", "Invalid API Key (HTTP 401)")
    alive = KeyCheck(
        "alive",
        limits=(ObservedLimit(Dimension.RPS, 5), ObservedLimit(Dimension.EMAILS_MONTH, 3_000)),
    )
    account, model = "org_01e5mfk0y8z47elu5ebjoeg62j", "openai/gpt-oss-120b"
    checked = [
        CheckedKey("groq", groq_key, account, dead, {model: False}),
        CheckedKey("groq", groq_key, groq_key.id, KeyCheck("alive"), {}),
        CheckedKey("resend", resend_key, resend_key.id, alive, {}),
    ]
    monkeypatch.setattr(keys, "run_with_pools", lambda *_: checked)
    output = CliRunner().invoke(keys.keys, ["check"], env={"COLUMNS": "80"}).output
    lines = output.splitlines()[: output.splitlines().index("") + 4]
    assert max(map(len, lines)) <= 80
    assert [line.rstrip() for line in lines] == [
        "groq: 1 of 2 keys accepted",
        "key           id           state    limits",
        f"{groq_key.label} {groq_key.id} dead",
        f"    Invalid API Key (HTTP 401); {model}: no; account",
        account,
        f"{groq_key.label} {groq_key.id} alive",
        "",
        "resend: 1 of 1 keys accepted",
        "key           id           state    limits",
        f"{resend_key.label:<13} {resend_key.id} alive    rps=5, epmo=3000",
    ]


def test_a_dead_letter_has_the_whole_width_for_its_reason() -> None:
    job = "6bbec290-0a3b-4f4e-9d0c-5a5a5a5a5a5a"
    reason = "RequestRejected: model_not_found: Groq rejects the request: there is no \x1b[2J of it"
    dead_letter = DeadLetter(job, "tasks.ai.complete", "ai", "groq", "failed", reason, calls=3)
    lines = shown(dead_listing.listing([dead_letter]))
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) == 4, "time and job, task, and reason"
    assert lines[0].endswith(f" UTC  {job}")
    assert lines[1].strip() == "tasks.ai.complete  failed (3 calls)"
    assert "\x1b" not in "".join(lines)


def test_a_key_shows_its_note_and_its_account_if_that_is_another() -> None:
    plain, noted = key(1, "ready"), replace(key(1, "ready", account="org"), note="of \x1b the team")
    lines = shown(listing([PoolView("groq", 0, (plain, noted))]))
    assert [line for line in lines if line.startswith("    ")] == [
        "    account org; note: of \ufffd the team"
    ]
