"""What our commands ask of Redis, the broker and the workers, and what they print of it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner, Result
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from config.api_key import make_key
from config.current import get_settings
from tests.unit.sample_keys import GROQ, RESEND
from worker.cli import cancel, chosen_key, job, keys, quote, session, usage
from worker.keypool.margins import Margins
from worker.providers.key_check import KeyCheck
from worker.quotes.quote import Quote
from worker.rotation.key_checks import CheckedKey
from worker.usage import MEASURES, Row, UsageQuery, UsageReport
from worker.verdicts import Dimension, ObservedLimit

KEYS = {
    "groq": make_key("groq", secret=GROQ, variable="GROQ_API_KEY"),
    "resend": make_key("resend", secret=RESEND, variable="RESEND_API_KEY"),
}


def as_a_session(command: Callable[[Any], Any], *, missing: str) -> Any:
    """As `session.run`, without a Redis."""
    try:
        return asyncio.run(command(Redis()))
    except KeyError as exc:
        raise click.ClickException(missing.format(exc)) from exc


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cancel, chosen_key, job, keys, quote, usage):
        monkeypatch.setattr(module, "run", as_a_session)
    for named in (cancel, keys):
        monkeypatch.setattr(named, "current_user", lambda: "ann")


def ran(command: click.Command, *arguments: str, **obj: Any) -> Result:
    shown = CliRunner().invoke(command, arguments, obj=SimpleNamespace(**obj))
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    return shown


# --- job

KEY_WAIT = {"kind": "key", "code": "rpm", "next_try": "T1", "expected_end": "T2", "more": "x"}
# What the result store has of a job, what is said of it, and its JSON.
JOBS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"status": "PENDING"},
        "PENDING: it waits in its queue, or no job has this id",
        {"state": "PENDING"},
    ),
    ({"status": "SUCCESS", "result": {"text": "secret"}}, "SUCCESS", {"state": "SUCCESS"}),
    ({"status": "SUCCESS", "result": ValueError("x")}, "SUCCESS", {"state": "SUCCESS"}),
    ({"status": "STARTED", "result": {"pid": 7}}, "STARTED", {"state": "STARTED"}),
    (
        {"status": "FAILURE", "result": ValueError("not \x1b[31mso")},
        "FAILURE, ValueError: not \N{REPLACEMENT CHARACTER}[31mso",
        {"state": "FAILURE", "error": "ValueError", "reason": "not \x1b[31mso"},
    ),
    (
        {"status": "RETRY", "waits": KEY_WAIT, "result": "text"},
        "RETRY, waits for a key (rpm); next try at T1; expected to end at T2",
        {"state": "RETRY", "waits": {k: v for k, v in KEY_WAIT.items() if k != "more"}},
    ),
    (
        {"status": "RETRY", "waits": {"kind": "failure", "code": "e", "next_try": 5}},
        "RETRY, waits for another try (e); next try at 5",
        {
            "state": "RETRY",
            "waits": {"kind": "failure", "code": "e", "next_try": "5", "expected_end": None},
        },
    ),
    ({"status": "RETRY", "waits": "odd"}, "RETRY", {"state": "RETRY"}),
    ({"status": "SUCCESS", "waits": KEY_WAIT}, "SUCCESS", {"state": "SUCCESS"}),
]


@pytest.mark.parametrize(("meta", "said", "as_json"), JOBS)
def test_the_state_of_a_job_is_said_without_its_result(
    meta: dict[str, Any], said: str, as_json: dict[str, Any]
) -> None:
    stored = {"j1": meta}
    backend = SimpleNamespace(get_task_meta=lambda job_id, **_: stored[job_id])
    app = SimpleNamespace(backend=backend)
    assert ran(job.job, "j1", app=app).output == f"j1: {said}\n"
    shown = ran(job.job, "j1", "--json", app=app)
    assert shown.output == json.dumps({"j1": as_json}, indent=2) + "\n"


# --- cancel


def test_each_job_is_cancelled_once_and_what_became_of_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    outcomes = {"a": "cancelled", "b": "running", "c": "perhaps_running", "d": "SUCCESS"}

    async def cancel_jobs(app: Any, store: Any, ids: list[str], *, by: str) -> dict[str, str]:
        asked.append((app, store.channel, ids, by))
        return outcomes

    monkeypatch.setattr(cancel, "cancel_jobs", cancel_jobs)
    shown = ran(cancel.cancel, *outcomes, "a", app="the app")
    assert asked == [
        ("the app", f"{get_settings().namespace}:cancelled", list(outcomes), "cli ann")
    ]
    assert shown.output.splitlines() == [
        "a: cancelled",
        (
            "b: cancelled while it runs: a call in flight is not interrupted, and no other one "
            "follows"
        ),
        (
            "c: cancelled; the broker does not answer, so it is not known whether a worker runs it "
            "now: a call in flight is not interrupted, and no other one follows"
        ),
        "d: had ended as SUCCESS",
    ]


# --- quote


class _Pool:
    """A pool that may have to be told its keys."""

    def __init__(self, *keys: Any) -> None:
        self.keys, self.names, self.told = keys, "the names", list[Any]()

    def replace_keys(self, keys: Any) -> None:
        self.told.append(keys)

    async def snapshot(self) -> str:
        return "the view"


QUOTE = Quote("groq", "m", 2, 800, 1, None, None, None, "", 0)


@pytest.fixture
def quoted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each quote was made of."""
    made: list[Any] = []

    async def margins(*_: Any) -> Margins:
        return Margins()

    async def others(_: Any, names: str) -> list[str]:
        return [f"keys of {names}"]

    def quote_of(request: Any, view: Any, **options: Any) -> Quote:
        made.append((request.jobs, request.model, request.tokens, view, options))
        return QUOTE

    class Watch:
        def __init__(self, app: Any, queues: tuple[str, ...]) -> None:
            assert (app, queues) == ("the app", ("ai",))

        def poll(self) -> Any:
            return {"ai": SimpleNamespace(waiting=1, workers=0)}

    monkeypatch.setattr("worker.dashboard.queues.QueueWatch", Watch)
    monkeypatch.setattr("worker.quotes.quote.quote_of", quote_of)
    monkeypatch.setattr(quote, "published_margins", margins)
    monkeypatch.setattr(quote, "published_keys", others)
    monkeypatch.setattr(quote, "get_settings", lambda: SimpleNamespace(models={"groq": ("m", "n")}))
    return made


@pytest.mark.parametrize(("own", "told"), [((), [["keys of the names"]]), (("k",), [])])
def test_a_quote_counts_the_keys_of_the_workers_where_there_are_none_here(
    monkeypatch: pytest.MonkeyPatch, quoted: list[Any], own: tuple[str, ...], told: list[Any]
) -> None:
    pool = _Pool(*own)
    monkeypatch.setattr(quote, "pools_for_tools", lambda _, services: {services[0]: pool})
    shown = ran(quote.quote, "groq", "--jobs", "2", "--model", "", app="the app")
    assert shown.output == quote.sentences_of(QUOTE, workers=0) + "\n"
    options = {"waiting": 1, "models": ("m", "n"), "margins": Margins()}
    assert quoted == [(2, None, None, "the view", options)]
    assert pool.told == told
    shown = ran(quote.quote, "groq", "--tokens", "7", "--json", app="the app")
    assert json.loads(shown.output) == QUOTE.as_json()
    assert quoted[1][:3] == (1, None, 7)


def test_a_broker_that_does_not_answer_a_quote_is_not_taken_for_the_pools_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: Any) -> Any:
        raise LostError("gone")

    monkeypatch.setattr("worker.dashboard.queues.QueueWatch", gone)
    shown = CliRunner().invoke(quote.quote, ["groq"], obj=SimpleNamespace(app="the app"))
    assert isinstance(shown.exception, OperationalError)
    assert str(shown.exception) == "gone"


# --- usage


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers each report of the usage; `asked` has the queries."""
    pools = {
        service: SimpleNamespace(keys=(key,), service=service) for service, key in KEYS.items()
    }
    found = SimpleNamespace(asked=[], totals=(), unpriced=())

    async def make(store: Any, query: UsageQuery, prices: Any) -> UsageReport:
        found.asked.append((query.range, query.step, query.by, query.only, prices))
        return UsageReport(query, 0, 1, (), found.totals, found.unpriced)

    monkeypatch.setattr(usage, "pools_for_tools", lambda _: pools)
    monkeypatch.setattr(usage, "read_prices", lambda: "the prices")
    monkeypatch.setattr(usage.UsageReport, "make", make)
    return found


def used(**counts: int) -> Row:
    row = Row(("groq", KEYS["groq"].id), None)
    row.add([(dict.fromkeys(MEASURES, 0) | counts)[name] for name in MEASURES], 0.25)
    return row


def test_usage_is_printed_as_a_table_as_csv_and_as_json(reported: Any) -> None:
    assert ran(usage.usage).output == "nothing was used in this time\n"
    reported.totals, reported.unpriced = (used(calls=1_500, accepted=3),), ("model-x", "y")
    head, line, unpriced = ran(usage.usage).output.splitlines()
    assert head.split() == ["service", "key", "calls", "wait", "USD"]
    label = KEYS["groq"].label.rstrip(".")
    assert line.split() == ["groq", label, "1,500", "0.0", "s", "0.2500"]
    assert unpriced == "without a price: model-x, y"
    report = UsageReport(
        UsageQuery(by=("service", "key")), 0, 1, (), reported.totals, ("model-x", "y")
    )
    labels = {key.id: key.label for key in KEYS.values()}
    assert ran(usage.usage, "--json").output == json.dumps(report.as_json(labels), indent=2) + "\n"
    as_csv = ran(usage.usage, "--csv")
    assert as_csv.stdout_bytes.decode() == report.as_csv(labels)
    assert {asked[0] for asked in reported.asked} == {"day"}


def test_usage_is_asked_for_by_the_options(reported: Any) -> None:
    ran(
        usage.usage, "--range", "week", "--by", "model", "--service", "groq", "--step", "hour",
        "--key", "GROQ_API_KEY",
    )  # fmt: skip
    only = (("service", "groq"), ("key", KEYS["groq"].id))
    [(span, step, by, asked, prices)] = reported.asked
    assert (span, step, by, prices) == ("week", "hour", ("service", "model"), "the prices")
    assert sorted(asked) == sorted(only)


def test_the_usage_of_a_key_that_is_gone_is_asked_for_by_its_id(reported: Any) -> None:
    ran(usage.usage, "--key", "0123456789ab")
    ran(usage.usage, "--key", "(others)")
    assert [dict(asked[3])["key"] for asked in reported.asked] == ["0123456789ab", "(others)"]
    for typed in ("0123456789abc", "0123456789a"):
        shown = CliRunner().invoke(usage.usage, ["--key", typed])
        assert f"no key here has the id, label or variable '{typed}'" in shown.output


def test_prices_or_a_step_that_cannot_be_used_end_the_command(
    reported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ran(usage.usage, "--by", "colour")
    assert (shown.exit_code, shown.output[:7]) == (1, "Error: ")

    def broken() -> None:
        raise ValueError("keywheel-prices.toml, line 3: no number")

    monkeypatch.setattr(usage, "read_prices", broken)
    shown = ran(usage.usage)
    assert shown.output == "Error: keywheel-prices.toml, line 3: no number\n"
    assert reported.asked == []


# --- keys check, keys reload


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Checks keys: `problems` are found, `asked` has what was checked."""
    found = SimpleNamespace(problems=[], asked=[], closed=0, seen=[])
    settings = SimpleNamespace(models={"groq": ("m",)})

    async def gone() -> None:
        found.seen.append("a pool")
        raise RedisError("the accounts are not essential")

    pools = {
        name: SimpleNamespace(service=name, keys=(key,), snapshot=gone)
        for name, key in KEYS.items()
    }

    @asynccontextmanager
    async def opened(given: Any) -> Any:
        assert given is settings
        yield "the checkers"
        found.closed += 1

    async def check_keys(concerned: Any, checkers: Any, *, models: Any, key_id: Any) -> Any:
        found.asked.append((list(concerned), checkers, models, key_id))
        check = KeyCheck("alive", limits=(ObservedLimit(Dimension.RPM, 30),))
        return [CheckedKey("groq", KEYS["groq"], "acme", check, {"m": True})]

    def problems_in(_: Any, *, models: Any) -> list[str]:
        found.asked.append(models)
        return found.problems

    monkeypatch.setattr(chosen_key, "pools_for_tools", lambda _, services: {
        name: pools[name] for name in services
    })  # fmt: skip
    monkeypatch.setattr(keys, "get_settings", lambda: settings)
    monkeypatch.setattr(keys, "opened_checkers", opened)
    monkeypatch.setattr(keys, "check_keys", check_keys)
    monkeypatch.setattr(keys, "problems_in", problems_in)
    yield found
    assert found.closed > 0


def test_every_key_is_checked_and_what_keeps_one_from_serving_is_the_exit_status(
    checking: Any,
) -> None:
    shown = ran(keys.keys, "check")
    models = {"groq": ("m",)}
    assert checking.asked == [(["groq", "resend"], "the checkers", models, None), models]
    assert checking.seen == ["a pool"] * 2
    assert shown.exit_code == 0
    assert KEYS["groq"].id in shown.output
    assert shown.output.splitlines()[-1] == (
        "the providers accept every key that is configured here"
    )
    checking.problems = ["the first", "the second"]
    shown = ran(keys.keys, "check")
    assert shown.exit_code == 1
    assert shown.output.splitlines()[-2:] == checking.problems


def test_one_key_alone_says_nothing_of_what_no_key_may_use(checking: Any) -> None:
    shown = ran(keys.keys, "check", "--key", "RESEND_API_KEY", "--json")
    assert checking.asked == [
        (["resend"], "the checkers", {"groq": ("m",)}, KEYS["resend"].id), {}
    ]  # fmt: skip
    told = json.loads(shown.output)
    assert (told["problems"], [key["key"] for key in told["keys"]]) == ([], [KEYS["groq"].label])
    assert ran(keys.keys, "check", "--key", "RESEND_API_KEY").output.splitlines()[-1] == (
        "the provider accepts it"
    )


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {"w1@a": {"ok": "2 groq keys"}, "w2@a": {"error": "none"}},
            ["w1@a: 2 groq keys", "w2@a: none"],
        ),
        ({}, ["Error: no worker answered; is one running?"]),
    ],
)
def test_a_reload_is_asked_of_the_workers_and_written_down(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], said: list[str]
) -> None:
    noted: list[Any] = []

    async def note(pools: Any, given: Any, *, by: str) -> None:
        noted.append((list(pools), given, by))

    def ask(app: str, *, timeout_s: float) -> Any:
        assert (app, timeout_s) == ("the app", 3.0)
        return answers

    monkeypatch.setattr(keys, "ask_workers", ask)
    monkeypatch.setattr(keys, "note_reload", note)
    monkeypatch.setattr(chosen_key, "pools_for_tools", lambda _, services: dict.fromkeys(services))
    shown = ran(keys.keys, "reload", app="the app")
    assert shown.output.splitlines() == said
    assert shown.exit_code == (0 if answers else 1)
    assert noted == [([None, None], answers, "cli ann")]


# --- how a session ends


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LostError("Connect call failed"), "Redis at redis://"),
        (OperationalError("gone"), "the broker at redis://"),
        (KeyError("x"), "no 'x' here"),
    ],
)
def test_a_session_ends_with_a_sentence_and_closes_its_client(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    closed = Mock()

    async def close() -> None:
        closed()

    async def fail(_: Any) -> None:
        raise error

    async def answer(redis: Any) -> Any:
        return redis

    client = SimpleNamespace(aclose=close)
    monkeypatch.setattr(session, "connect", lambda _: client)
    monkeypatch.setattr(session, "refusal_at", lambda *_: None)
    assert session.run(answer, missing="{}") is client
    with pytest.raises(click.ClickException) as ended:
        session.run(fail, missing="no {} here")
    assert ended.value.message.startswith(said)
    assert closed.call_count == 2
