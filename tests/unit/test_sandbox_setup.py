"""The sandbox's keys and accounts, its faults, its control calls and its scenarios."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from sandbox.accounts import GroqLimits, make_key, new_secret
from sandbox.config import Config, make_roster
from sandbox.control import ControlError
from sandbox.faults import Fault, Faults
from sandbox.scenario import play, read_scenario
from sandbox.server import Sandbox


def test_keys_have_the_form_that_the_providers_hand_out() -> None:
    roster = make_roster(
        Config(groq_keys=3, groq_keys_per_org=2, resend_keys=3, resend_keys_per_team=2)
    )
    environment, accounts = roster.environment, roster.accounts
    assert list(environment) == [
        "GROQ_API_KEY",
        "GROQ_API_KEY_2",
        "GROQ_API_KEY_3",
        "RESEND_API_KEY",
        "RESEND_FROM",
        "RESEND_API_KEY_2",
        "RESEND_FROM_2",
        "RESEND_API_KEY_3",
        "RESEND_FROM_3",
    ]
    assert len(environment["GROQ_API_KEY"]) == 56
    assert [len(part) for part in environment["RESEND_API_KEY"].split("_")] == [2, 8, 24]
    assert (
        environment["RESEND_FROM"] == environment["RESEND_FROM_2"] != environment["RESEND_FROM_3"]
    )
    assert (len(accounts.organisations), len(accounts.teams)) == (2, 2)


def test_an_unknown_key_gets_an_account_of_its_own_only_if_that_is_wanted() -> None:
    closed = make_roster(Config(groq_keys=0, resend_keys=0)).accounts
    assert closed.lookup("groq", "gsk_x") is None
    opened = make_roster(Config(groq_keys=0, resend_keys=0, accept_unknown_keys=True)).accounts
    key, mail = opened.lookup("groq", "gsk_x"), opened.lookup("resend", "re_x")
    assert key is opened.lookup("groq", "gsk_x") is not None
    assert mail is not None
    assert opened.lookup("groq", "") is None


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_accounts_can_be_read_from_a_file(tmp_path: Path) -> None:
    content = {
        "groq": [
            {
                "account": "org_a",
                "keys": ["gsk_one", "gsk_two"],
                "rpm": 5,
                "models": {"m": {"tpm": 9}},
            }
        ],
        "resend": [
            {"keys": 2, "domains": ["a.example.net"], "from": "me@a.example.net"},
            {"account": "open", "domains": None},
        ],
    }
    roster = make_roster(Config(keys_file=_write(tmp_path / "keys.json", content)))
    organisation = roster.accounts.organisations["org_a"]
    assert organisation.limits == GroqLimits(rpm=5)
    assert organisation.model_limits["m"] == GroqLimits(rpm=5, tpm=9)
    assert roster.environment["GROQ_API_KEY_2"] == "gsk_two"
    assert roster.environment["RESEND_FROM_2"] == "me@a.example.net"
    assert roster.accounts.teams["open"].domains is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "keys.json"),  # not JSON
        ([], "must be an object"),
        ({"living": ["a", 1]}, "living must be a list of models"),
        ({"openai": []}, "does not know openai"),
        ({"groq": [{"rps": 5}]}, "does not know rps"),
        ({"groq": [{"rpm": -1}]}, "must be a whole number"),
        ({"groq": [{"models": {"m": {"rps": 1}}}]}, "does not know rps"),
        ({"groq": [{"keys": [1]}]}, "keys must be a list of keys"),
        ({"groq": [{"keys": ["gsk_a"]}, {"keys": ["gsk_a"]}]}, "belongs to two accounts"),
    ],
)
def test_a_bad_keys_file_is_refused_with_the_reason(
    tmp_path: Path, content: Any, sentence: str
) -> None:
    with pytest.raises(ValueError) as refused:
        make_roster(Config(keys_file=_write(tmp_path / "keys.json", content)))
    assert sentence in str(refused.value)


def test_a_fault_hits_the_calls_it_is_aimed_at_and_ends() -> None:
    accounts = make_roster(Config(groq_keys=2)).accounts
    first, second = accounts.keys["groq"].values()
    faults = Faults(random.Random(1))  # noqa: S311 - dice in a simulation
    faults.add(
        Fault("groq", "internal_error", key=first.fingerprint, model="m", left=2, ends_at_s=10.0)
    )
    faults.add(Fault("groq", "reset_after"))
    assert faults.pick("resend", first, "m", 1.0) is None  # another service
    assert faults.pick("groq", second, "m", 1.0) is None  # another key
    assert faults.pick("groq", first, "n", 1.0) is None  # another model
    assert faults.pick("groq", first, "m", 1.0) is not None
    faults.clear()
    faults.add(Fault("groq", "internal_error", account=first.account.name, left=2, ends_at_s=10.0))
    assert [faults.pick("groq", first, "m", at) is not None for at in (1.0, 2.0, 3.0)] == [
        True,
        True,
        False,
    ]
    faults.add(Fault("groq", "internal_error", ends_at_s=10.0))
    assert faults.pick("groq", second, "m", 10.0) is None  # the fault has ended
    spoiling = Fault("groq", "reset_after", share=0.5)
    faults.add(spoiling)
    hits = sum(
        faults.pick("groq", first, "m", 1.0, breaking=True) is not None for _ in range(1_000)
    )
    assert 400 < hits < 600
    # It spoils answers and does not refuse calls.
    assert faults.pick("groq", first, "m", 1.0) is None
    assert faults.clear(service="resend") == 0
    assert faults.clear(number=spoiling.number) == 1


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(Config(groq_keys=2, resend_keys=2))


@pytest.mark.parametrize(
    ("verb", "body", "sentence"),
    [
        ("explode", {}, "no verb"),
        ("reset", [], "JSON object"),
        ("reset", {"all": True}, "does not know all"),
        ("revoke", {}, "names no key"),
        ("revoke", {"key": "groq:9"}, "names no key"),
        ("revoke", {"key": "groq:0"}, "names no key"),
        ("revoke", {"key": "groq:1", "standing": "tired"}, "standing"),
        ("revoke", {"key": "groq:1", "form": 500}, "form"),
        ("exhaust", {"service": "openai", "seconds": 1}, "service"),
        ("exhaust", {"service": "groq", "seconds": -1}, "seconds"),
        ("exhaust", {"service": "groq"}, "seconds"),
        ("exhaust", {"service": "groq", "seconds": 1, "account": "x"}, "has none of this name"),
        ("fault", {"service": "groq", "kind": "flood"}, "kind"),
        ("fault", {"service": "groq", "status": 418}, "kind"),
        ("fault", {"service": "groq", "status": "500"}, "status"),
        ("limits", {"service": "groq", "rps": 5}, "no limit rps"),
        ("standing", {"service": "resend", "standing": "live"}, "standing"),
        ("standing", {"service": "groq", "model": "m", "code": "odd"}, "code"),
    ],
)
def test_a_control_call_that_makes_no_sense_is_refused(
    sandbox: Sandbox, verb: str, body: Any, sentence: str
) -> None:
    with pytest.raises(ControlError) as refused:
        sandbox.control.apply(verb, body)
    assert sentence in str(refused.value)


def test_control_calls_change_the_state_and_reset_undoes_them(sandbox: Sandbox) -> None:
    control, key = sandbox.control, next(iter(sandbox.roster.accounts.keys["groq"].values()))
    fresh = {name: value for name, value in control.read("state", {}).items() if name != "now_s"}
    control.apply("revoke", {"key": key.secret})
    control.apply("exhaust", {"service": "resend", "seconds": 10, "account": "team-1"})
    control.apply("standing", {"service": "groq", "standing": "organization_restricted"})
    control.apply(
        "standing", {"service": "groq", "model": "m", "code": "model_permission_blocked_org"}
    )
    control.apply(
        "fault", {"service": "groq", "status": 503, "share": 0.5, "seconds": 5, "key": "groq:1"}
    )
    control.apply(
        "fault", {"service": "groq", "status": 500, "accept": True, "count": 1, "model": "m"}
    )
    state = control.read("state", {})
    assert [entry["standing"] for entry in state["keys"]] == ["revoked", "live", "live", "live"]
    assert [entry["exhausted_s"] > 9 for entry in state["resend"]] == [True, False]
    assert {entry["standing"] for entry in state["groq"]} == {"organization_restricted"}
    assert [entry["kind"] for entry in state["faults"]] == ["over_capacity", "error_after"]
    assert control.apply("clear", {"service": "groq", "number": state["faults"][0]["number"]}) == {
        "cleared": 1
    }
    control.apply("standing", {"service": "groq", "model": "m", "code": None})
    assert not any(entry["blocked_models"] for entry in control.read("state", {})["groq"])
    control.apply("restore", {"key": key.label})
    control.apply("reset", {})
    assert {
        name: value for name, value in control.read("state", {}).items() if name != "now_s"
    } == fresh


def test_limits_change_while_it_runs(sandbox: Sandbox) -> None:
    sandbox.control.apply("limits", {"service": "groq", "rpm": 7})
    sandbox.control.apply(
        "limits", {"service": "resend", "account": "team-2", "rps": 9, "daily": 5}
    )
    state = sandbox.control.read("state", {})
    assert {account["limits"]["rpm"] for account in state["groq"]} == {7}
    assert [account["limits"]["rps"] for account in state["resend"]] == [2, 9]
    with pytest.raises(ControlError):
        sandbox.control.read("nothing", {})


async def test_a_scenario_makes_its_calls_in_the_order_of_their_times(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    steps = [
        {"at_s": 0.02, "do": "revoke", "key": "groq:1"},
        {"at_s": 0, "do": "exhaust", "service": "groq", "seconds": 50},
    ]
    scenario = read_scenario(_write(tmp_path / "s.json", steps), sandbox.control.verbs)
    assert [step.do for step in scenario.steps] == ["exhaust", "revoke"]
    playing = asyncio.create_task(play(scenario, sandbox.control))
    await playing
    state = sandbox.control.read("state", {})
    assert state["keys"][0]["standing"] == "revoked"
    assert all(organisation["exhausted_s"] > 0 for organisation in state["groq"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "s.json"),  # not JSON
        ({"starts": "ready"}, "a list of steps"),
        ({"starts": "noon", "steps": []}, "starts"),
        (["wait"], "steps[0] must be an object"),
        ([{"do": "reset"}], "steps[0].at_s"),
        ([{"at_s": 1, "do": "explode"}], "steps[0].do"),
    ],
)
def test_a_bad_scenario_is_refused_with_the_reason(
    sandbox: Sandbox, tmp_path: Path, content: Any, sentence: str
) -> None:
    with pytest.raises(ValueError) as refused:
        read_scenario(_write(tmp_path / "s.json", content), sandbox.control.verbs)
    assert sentence in str(refused.value)


def test_a_key_is_masked_wherever_it_is_shown() -> None:
    secret = new_secret("groq")
    key = make_key(
        "groq", secret, next(iter(make_roster(Config()).accounts.organisations.values()))
    )
    assert secret not in repr(key)
    assert key.label == secret[:10] + "..."
