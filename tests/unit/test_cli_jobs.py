"""The requests of the commands `job`, `cancel` and `quote`, and their output."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as LostError

from config.current import get_settings
from tests.unit.cli_runner import run_command, use_no_redis
from worker.cli import cancel, job, quote
from worker.keypool.margins import Margins
from worker.quotes.quote import Quote


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_no_redis(monkeypatch, cancel, job, quote)
    monkeypatch.setattr(cancel, "current_user", lambda: "ann")


KEY_WAIT = {"kind": "key", "code": "rpm", "next_try": "T1", "expected_end": "T2", "more": "x"}
# A job's record in the result store, the printed sentence, and its JSON.
JOBS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"status": "PENDING"},
        "PENDING: the job waits in its queue, or no job has this id",
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


@pytest.mark.parametrize(("meta", "sentence", "as_json"), JOBS)
def test_the_state_of_a_job_is_printed_without_its_result(
    meta: dict[str, Any], sentence: str, as_json: dict[str, Any]
) -> None:
    stored = {"j1": meta}
    backend = SimpleNamespace(get_task_meta=lambda job_id, **_: stored[job_id])
    app = SimpleNamespace(backend=backend)
    assert run_command(job.job, "j1", app=app).output == f"j1: {sentence}\n"
    result = run_command(job.job, "j1", "--json", app=app)
    assert result.output == json.dumps({"j1": as_json}, indent=2) + "\n"


def test_each_job_is_cancelled_once_and_its_outcome_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancels: list[Any] = []
    outcomes = {"a": "cancelled", "b": "running", "c": "perhaps_running", "d": "SUCCESS"}

    async def cancel_jobs(app: Any, store: Any, ids: list[str], *, by: str) -> dict[str, str]:
        cancels.append((app, store.channel, ids, by))
        return outcomes

    monkeypatch.setattr(cancel, "cancel_jobs", cancel_jobs)
    result = run_command(cancel.cancel, *outcomes, "a", app="the app")
    assert cancels == [
        ("the app", f"{get_settings().namespace}:cancelled", list(outcomes), "cli ann")
    ]
    assert result.output.splitlines() == [
        "a: cancelled",
        (
            "b: cancelled while it runs: a call in flight is not interrupted, and no further call "
            "is made"
        ),
        (
            "c: cancelled; the broker does not answer, so it is not known whether a worker runs it "
            "now: a call in flight is not interrupted, and no further call is made"
        ),
        "d: had ended as SUCCESS",
    ]


class _Pool:
    """A pool whose keys may be replaced; `replaced` has the new keys."""

    def __init__(self, *keys: Any) -> None:
        self.keys, self.names, self.replaced = keys, "the names", list[Any]()

    def replace_keys(self, keys: Any) -> None:
        self.replaced.append(keys)

    async def snapshot(self) -> str:
        return "the view"


QUOTE = Quote("groq", "m", 2, 800, 1, None, None, None, "", 0)


@pytest.fixture
def quoted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each quote."""
    quotes: list[Any] = []

    async def margins(*_: Any) -> Margins:
        return Margins()

    async def keys_of_workers(_: Any, names: str) -> list[str]:
        return [f"keys of {names}"]

    def quote_of(request: Any, view: Any, **options: Any) -> Quote:
        quotes.append((request.jobs, request.model, request.tokens, view, options))
        return QUOTE

    class Watch:
        def __init__(self, app: Any, queues: tuple[str, ...]) -> None:
            assert (app, queues) == ("the app", ("ai",))

        def poll(self) -> Any:
            return {"ai": SimpleNamespace(waiting=1, workers=0)}

    monkeypatch.setattr("worker.dashboard.queues.QueueWatch", Watch)
    monkeypatch.setattr("worker.quotes.quote.quote_of", quote_of)
    monkeypatch.setattr(quote, "published_margins", margins)
    monkeypatch.setattr(quote, "published_keys", keys_of_workers)
    monkeypatch.setattr(quote, "get_settings", lambda: SimpleNamespace(models={"groq": ("m", "n")}))
    return quotes


@pytest.mark.parametrize(("own", "replaced"), [((), [["keys of the names"]]), (("k",), [])])
def test_a_quote_counts_the_keys_of_the_workers_if_there_are_none_here(
    monkeypatch: pytest.MonkeyPatch, quoted: list[Any], own: tuple[str, ...], replaced: list[Any]
) -> None:
    pool = _Pool(*own)
    monkeypatch.setattr(quote, "pools_for_tools", lambda _, services: {services[0]: pool})
    result = run_command(quote.quote, "groq", "--jobs", "2", "--model", "", app="the app")
    assert result.output == quote.sentences_of(QUOTE, workers=0) + "\n"
    options = {"waiting": 1, "models": ("m", "n"), "margins": Margins()}
    assert quoted == [(2, None, None, "the view", options)]
    assert pool.replaced == replaced
    result = run_command(quote.quote, "groq", "--tokens", "7", "--json", app="the app")
    assert json.loads(result.output) == QUOTE.as_json()
    assert quoted[1][:3] == (1, None, 7)


def test_a_quote_without_an_answer_of_the_broker_raises_an_error_of_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: Any) -> Any:
        raise LostError("gone")

    monkeypatch.setattr("worker.dashboard.queues.QueueWatch", gone)
    result = CliRunner().invoke(quote.quote, ["groq"], obj=SimpleNamespace(app="the app"))
    assert isinstance(result.exception, OperationalError)
    assert str(result.exception) == "gone"
