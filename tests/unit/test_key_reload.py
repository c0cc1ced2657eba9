"""The report of a reload of the keys, and the effect of the checks of keys."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from config.api_key import make_key
from config.services import SERVICES
from config.settings import Settings
from worker.key_reload import ask_workers, note_reload, sentence_of
from worker.providers.key_check import KeyCheck
from worker.rotation import key_checks
from worker.rotation.key_checks import CheckedKey, opened_checkers, problems_in
from worker.verdicts import Dimension, ObservedLimit

OK, KEPT = {"ok": "groq: 2 keys"}, {"error": "GROQ_ACCOUNT is not an account name"}


class Control:
    """Workers with scripted replies."""

    def __init__(self, replies: list[dict[str, Any]] | None) -> None:
        self.replies, self.control, self.broadcasts = replies, self, list[Any]()

    def broadcast(self, command: str, **options: Any) -> list[dict[str, Any]] | None:
        self.broadcasts.append((command, options))
        return self.replies


def test_every_worker_is_asked_and_the_answers_of_all_are_returned() -> None:
    app = Control([{"w1@a": OK}, {"w2@a": KEPT, "w3@a": OK}])
    answers = ask_workers(cast("Any", app), timeout_s=2.5)
    assert answers == {"w1@a": OK, "w2@a": KEPT, "w3@a": OK}
    assert app.broadcasts == [("keys_reload", {"reply": True, "timeout": 2.5})]
    assert ask_workers(cast("Any", Control(None)), timeout_s=1) == {}
    assert [sentence_of(answer) for answer in (OK, KEPT)] == [OK["ok"], KEPT["error"]]


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({}, "no worker answered"),
        ({"a": OK}, "1 worker answered"),
        ({"a": OK, "b": OK}, "2 workers answered"),
        ({"a": KEPT}, "1 worker answered, 1 of them kept the former keys"),
        ({"a": OK, "b": KEPT, "c": KEPT}, "3 workers answered, 2 of them kept the former keys"),
    ],
)
async def test_a_reload_is_noted_in_the_audit_trail_of_each_service(
    answers: Mapping[str, Mapping[str, Any]], outcome: str
) -> None:
    noted = []

    class Pool:
        async def note_reload(self, outcome: str, *, by: str) -> None:
            noted.append((outcome, by))

    await note_reload(cast("Any", [Pool(), Pool()]), answers, by="ann")
    assert noted == [(outcome, "ann")] * 2


async def test_checkers_are_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    class Checker:
        def __init__(self, service: str, _: Settings, *, timeout_s: float) -> None:
            self.service = service
            events.append((service, timeout_s))

        async def close(self) -> None:
            events.append((self.service, "closed"))

    async def fail() -> None:
        async with opened_checkers(Settings(), timeout_s=3.0) as checkers:
            assert list(checkers) == list(SERVICES)
            raise ValueError

    monkeypatch.setattr(key_checks, "client_of", Checker)
    with pytest.raises(ValueError, match=r"^$"):
        await fail()
    opened, closed = [(name, 3.0) for name in SERVICES], [(name, "closed") for name in SERVICES]
    assert events == [*opened, *closed]


def checked(number: int, state: Any = "alive", detail: str = "", **models: bool) -> CheckedKey:
    secret = f"gsk_{number}123456789abcdefghijklmnopqrst"
    key = make_key("groq", secret=secret, variable=f"GROQ_API_KEY_{number}")
    listed = frozenset({*(name for name, has in models.items() if has), "other"})
    limits = (ObservedLimit(Dimension.RPD, 9),)
    return CheckedKey("groq", key, "acme", KeyCheck(state, detail, listed, limits), models)


@pytest.mark.parametrize(
    ("checks", "sentences"),
    [
        ([checked(1, m=True)], []),
        ([checked(1, "dead", "revoked")], ["groq key gsk_112345... is not accepted: revoked"]),
        ([checked(1, "unknown", "no")], ["groq key gsk_112345... could not be checked: no"]),
        ([checked(1, m=True), checked(2, m=False), checked(3, m=False)],
            ["groq key gsk_212345..., gsk_312345... may not use the model m"]),
        ([checked(1, m=False), checked(2)],
            ["no groq key may use m: set GROQ_MODEL to one of other"]),
        ([checked(1, m=False, n=True)], ["no groq key may use m: take it out of GROQ_MODEL"]),
    ],
)  # fmt: skip
def test_each_problem_of_keys_is_one_sentence(
    checks: list[CheckedKey], sentences: list[str]
) -> None:
    models = {"groq": ("m", "n"), "resend": ("m",)}
    assert list(problems_in(checks, models=models)) == sentences


@pytest.mark.parametrize(
    ("count", "listed"),
    [(0, "(none is listed)"), (2, "m00, m01"), (10, ", ".join(f"m{n:02}" for n in range(10)))],
)
def test_at_most_ten_models_are_suggested(count: int, listed: str) -> None:
    def sentence(count: int) -> str:
        names = frozenset(f"m{number:02}" for number in range(count))
        checked_key = CheckedKey(
            "groq", checked(1).key, "a", KeyCheck("alive", "", names), {"x": False}
        )
        [problem] = problems_in([checked_key], models={"groq": ("x",)})
        return problem.removeprefix("no groq key may use x: set GROQ_MODEL to one of ")

    assert sentence(count) == listed
    if count == 10:
        assert sentence(11) == listed + " …"


def test_a_key_that_was_checked_is_shown_without_its_secret() -> None:
    checked_key = checked(1, "dead", "no such key", m=True)
    assert checked_key.as_json() == {
        "service": "groq",
        "key": "gsk_112345...",
        "id": checked_key.key.id,
        "account": "acme",
        "state": "dead",
        "detail": "no such key",
        "models": {"m": True},
        "limits": {"rpd": 9},
    }
