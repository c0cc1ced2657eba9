"""The tasks for operators: their arguments, their targets, and the name that is recorded."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tasks import admin
from worker import deadletters
from worker.arguments.admin import ListArguments, ReplayArguments
from worker.arguments.base import check
from worker.deadletters import Filter
from worker.deadletters.replay import Replayed
from worker.errors import InvalidArguments
from worker.keypool import HeldBlock, ResetDone
from worker.quotes.quote import Quote
from worker.runtime import Runtime

BLOCK = HeldBlock("key", "gsk_abc123...", "a" * 12, "cooling", "rate_limit", "")
QUOTE = Quote("groq", "m", 1, 800, 3, None, None, None, "", 0)


class _AsJson:
    """An object that the tasks turn into JSON."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def as_json(self) -> Any:
        return self._value


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pool(service: str) -> Any:
        return SimpleNamespace(
            names=f"names of {service}",
            reset=AsyncMock(return_value=ResetDone((BLOCK,))),
            snapshot=AsyncMock(return_value=f"the view of {service}"),
        )

    worker_runtime = SimpleNamespace(
        pools={name: pool(name) for name in ("groq", "resend")},
        view=AsyncMock(return_value={"groq": _AsJson({"keys": []})}),
        redis="redis",
        settings=SimpleNamespace(models={"groq": ("m", "n")}),
        count_waiting=AsyncMock(return_value=3),
        cancellations="the cancellations",
        dead_letters=SimpleNamespace(
            find=AsyncMock(return_value=[_AsJson({"id": "a"}), _AsJson({"id": "b"})]),
            counts=AsyncMock(return_value=_AsJson({"total": 9})),
            get=AsyncMock(return_value=("the letter", "the message")),
        ),
    )
    monkeypatch.setattr(Runtime, "current", lambda: worker_runtime)
    return worker_runtime


async def ask(task: Any, /, *args: Any, job: str = "job-1", **kwargs: Any) -> Any:
    """Run a task; its arguments may also be positional."""
    task.push_request(id=job, retries=0, headers=None, delivery_info={})
    try:
        return await task.run(*args, **kwargs)
    finally:
        task.pop_request()


async def test_the_status_takes_no_arguments(runtime: Any) -> None:
    assert await ask(admin.key_status) == {"groq": {"keys": []}}
    with pytest.raises(InvalidArguments, match=r"^this task takes no arguments$"):
        await ask(admin.key_status, "groq")
    with pytest.raises(InvalidArguments, match=r"^service: "):
        await ask(admin.key_status, service="groq")
    runtime.view.assert_awaited_once_with()


# The arguments of a reset, the services that are reset, and the arguments for them.
@pytest.mark.parametrize(
    ("args", "kwargs", "services", "options"),
    [
        ((), {}, ["groq", "resend"], {}),
        (("resend",), {}, ["resend"], {}),
        (("groq",), {"by": "ann"}, ["groq"], {"by": "task job-1 for ann"}),
        (
            (),
            {"service": "groq", "key": "a" * 12, "include_disabled": True},
            ["groq"],
            {"key_id": "a" * 12, "include_disabled": True},
        ),
    ],
)
async def test_a_reset_reaches_the_pools_of_the_services_that_are_named(
    runtime: Any,
    caplog: pytest.LogCaptureFixture,
    *,
    args: tuple[str, ...],
    kwargs: dict[str, Any],
    services: list[str],
    options: dict[str, Any],
) -> None:
    caplog.set_level("INFO", "worker.keys")
    done = await ask(admin.reset_keys, *args, **kwargs)
    assert done["reset"] == dict.fromkeys(services, 1)
    reset_options = {"by": "task job-1", "key_id": None, "include_disabled": False} | options
    for service, pool in runtime.pools.items():
        if service in services:
            pool.reset.assert_awaited_once_with(**reset_options)
        else:
            pool.reset.assert_not_awaited()
    assert caplog.messages == [f"🔄 {name.capitalize()} failed keys reset" for name in services]


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        ((), {"key": "a" * 12}, "service: is required with key"),
        (("groq", "resend"), {}, "argument"),
        (("groq",), {"service": "resend"}, "argument"),
        (("grok",), {}, "service: must be 'groq'.* 'resend'"),
    ],
)
async def test_a_reset_whose_arguments_are_not_clear_resets_nothing(
    runtime: Any, args: tuple[str, ...], kwargs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidArguments, match=sentence):
        await ask(admin.reset_keys, *args, **kwargs)
    assert not any(pool.reset.await_count for pool in runtime.pools.values())


async def test_a_reset_of_a_key_that_a_service_does_not_have_names_the_service(
    runtime: Any,
) -> None:
    runtime.pools["groq"].reset.side_effect = KeyError("b" * 12)
    with pytest.raises(InvalidArguments, match=r"^key: no groq key has this id$"):
        await ask(admin.reset_keys, service="groq", key="b" * 12)


@pytest.mark.parametrize(
    ("args", "kwargs", "ids"),
    [
        (("a",), {}, ["a"]),
        ((), {"id": "a"}, ["a"]),
        ((), {"id": ["b", "a", "b"]}, ["b", "a"]),
    ],
)
async def test_jobs_are_cancelled_once_each(
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    kwargs: dict[str, Any],
    ids: list[str],
) -> None:
    cancel_jobs = AsyncMock(return_value={"a": "cancelled"})
    monkeypatch.setattr(admin, "cancel_jobs", cancel_jobs)
    assert await ask(admin.cancel, *args, **kwargs, by="bob") == {"jobs": {"a": "cancelled"}}
    cancel_jobs.assert_awaited_once_with(
        admin.app, runtime.cancellations, ids, by="task job-1 for bob"
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        (("a", "b"), {}, "pass arguments by name"),
        (("a",), {"id": "b"}, "pass arguments by name"),
        (("a", "b"), {"id": "c"}, "pass arguments by name"),
        ((), {}, "^id: "),
        ((), {"id": []}, "^id: "),
        ((), {"id": "two words"}, "^id: "),
    ],
)
async def test_nothing_is_cancelled_if_the_ids_are_not_clear(
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    kwargs: dict[str, Any],
    sentence: str,
) -> None:
    assert runtime
    cancel_jobs = AsyncMock()
    monkeypatch.setattr(admin, "cancel_jobs", cancel_jobs)
    with pytest.raises(InvalidArguments, match=sentence):
        await ask(admin.cancel, *args, **kwargs)
    cancel_jobs.assert_not_awaited()


async def test_the_place_of_a_job_is_asked_for_by_its_id(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime
    place_of = AsyncMock(return_value={"place": 7})
    monkeypatch.setattr(admin, "place_of", place_of)
    assert await ask(admin.place, id="job-9") == {"place": 7}
    place_of.assert_awaited_once_with(admin.app, "job-9")


async def test_a_quote_is_made_of_what_the_pool_and_the_broker_have_now(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotes: list[Any] = []

    def quote_of(request: Any, view: str, **options: Any) -> Quote:
        quotes.append((request, view, options))
        return QUOTE

    monkeypatch.setattr(admin, "quote_of", quote_of)
    monkeypatch.setattr(admin, "published_margins", AsyncMock(return_value="the margins"))
    arguments = {"service": "groq", "model": "n", "jobs": 5, "tokens": 9}
    assert await ask(admin.quote, **arguments) == QUOTE.as_json()
    [(request, view, options)] = quotes
    assert (request.service, request.model, request.jobs, request.tokens) == ("groq", "n", 5, 9)
    assert view == "the view of groq"
    assert options == {"waiting": 3, "models": ("m", "n"), "margins": "the margins"}
    runtime.count_waiting.assert_awaited_once_with("groq")
    await ask(admin.quote, service="resend")
    assert quotes[1][2]["models"] == ()


WHICH = {"service": "other", "task": "shop.do", "kind": "failed", "before": 5}
MEANT = Filter("other", "shop.do", "failed", 5)


async def test_dead_letters_are_listed_with_how_many_there_are_in_all(runtime: Any) -> None:
    listed = {"total": 9, "dead_letters": [{"id": "a"}, {"id": "b"}]}
    assert await ask(admin.dead_letters, **WHICH, limit=7) == listed
    assert await ask(admin.dead_letters) == listed
    first, again = runtime.dead_letters.find.await_args_list
    assert (first.args, first.kwargs) == ((MEANT,), {"limit": 7})
    assert (again.args, again.kwargs) == ((Filter(),), {"limit": 50})


@pytest.mark.parametrize(
    ("kwargs", "letters", "limit"),
    [
        (WHICH, "many", 1_000),
        ({"kind": "failed", "limit": 3}, "many", 3),
        ({"id": "a", "force": True, "by": "ann"}, ["the letter"], None),
    ],
)
async def test_a_replay_is_of_one_letter_or_of_all_that_the_filter_selects(
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
    kwargs: dict[str, Any],
    letters: Any,
    limit: int | None,
) -> None:
    replay = AsyncMock(return_value=Replayed(("a",), (("b", "no"),)))
    monkeypatch.setattr(deadletters, "replay", replay)
    monkeypatch.setattr(admin.time, "time", lambda: 12.3456)
    outcome = {"replayed": ["a"], "refused": [{"id": "b", "reason": "no"}]}
    assert await ask(admin.replay, **kwargs) == outcome
    store = runtime.dead_letters
    by = "task job-1" + (" for ann" if "by" in kwargs else "")
    replay.assert_awaited_once_with(
        store,
        store.find.return_value if letters == "many" else letters,
        app=admin.app,
        by=by,
        now_ms=12_346,
        force=kwargs.get("force", False),
    )
    if limit is None:
        store.get.assert_awaited_once_with("a")
        store.find.assert_not_awaited()
    else:
        [search] = store.find.await_args_list
        assert search.kwargs == {"limit": limit}


async def test_a_replay_of_a_letter_that_is_not_there_is_a_wrong_argument(runtime: Any) -> None:
    runtime.dead_letters.get.side_effect = KeyError("a")
    with pytest.raises(InvalidArguments, match=r"^id: there is no dead letter of this job$"):
        await ask(admin.replay, id="a")


@pytest.mark.parametrize("name", WHICH)
def test_a_replay_selects_letters_either_by_id_or_by_a_filter(name: str) -> None:
    selection = {name: WHICH[name]}
    assert check(ReplayArguments, (), selection).filter() == Filter(
        **{"before_ms" if name == "before" else name: WHICH[name]}  # type: ignore[arg-type]
    )
    arguments = check(ReplayArguments, (), {"id": "a", "before": 5})
    assert (arguments.id, arguments.before) == ("a", 5)
    if name != "before":
        with pytest.raises(InvalidArguments, match="give either id"):
            check(ReplayArguments, (), selection | {"id": "a"})
    with pytest.raises(InvalidArguments, match="give id, or at least one of service, task"):
        check(ReplayArguments, (), {})


# The longest and the shortest accepted value; one more, or one less, is refused.
@pytest.mark.parametrize(
    ("model", "given", "refused"),
    [
        (ListArguments, {"limit": 1_000}, {"limit": 1_001}),
        (ListArguments, {"limit": 1}, {"limit": 0}),
        (ListArguments, {"before": 10**15 - 1}, {"before": 10**15}),
        (ListArguments, {"before": 1}, {"before": 0}),
        (ListArguments, {"task": "x" * 200}, {"task": "x" * 201}),
        (ReplayArguments, {"limit": 10_000, "kind": "failed"}, {"limit": 10_001, "kind": "failed"}),
        (ReplayArguments, {"id": "x" * 200}, {"id": "x" * 201}),
        (ReplayArguments, {"id": "x", "by": "x" * 100}, {"id": "x", "by": "x" * 101}),
    ],
)
def test_an_argument_has_its_bounds(
    model: Any, given: dict[str, Any], refused: dict[str, Any]
) -> None:
    check(model, (), given)
    with pytest.raises(InvalidArguments):
        check(model, (), refused)


@pytest.mark.parametrize("model", [ListArguments, ReplayArguments])
def test_no_task_of_an_operator_takes_the_result_of_the_job_before_it_in_a_chain(
    model: Any,
) -> None:
    with pytest.raises(InvalidArguments, match=r"pass arguments by name") as caught:
        check(model, ({"text": "x"},), {"kind": "failed"})
    assert "chain" not in str(caught.value)
