"""The arguments and the replies of the pool's scripts, and the types of the replies."""

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from config.api_key import make_key
from worker.keypool import Lease, LeaseRequest, Line, NoLease, NoLeaseReason, Settled, latest_calls
from worker.keypool.caller_clock import CallerClock
from worker.keypool.candidates import Candidates, KeyDirectory
from worker.keypool.latest_calls import LatestCall
from worker.keypool.scripts import Scripts, read_acquire, read_settle
from worker.verdicts import Dimension

ONE, TWO = (
    make_key("groq", secret=f"gsk_{n}123456789abcdefghijklmnopqrst", variable=f"KEY_{n}")
    for n in (1, 2)
)
REQUEST = LeaseRequest(
    "m", "m", fallbacks=(("n", "r"),), tokens=90, input_tokens=30, output_tokens=60, by="job-1",
    bulk=True, emails=4, flexible=True, waited_ms=7,
)  # fmt: skip


def candidates() -> Candidates:
    directory = KeyDirectory([ONE, TWO])
    directory.learn({TWO.id: "acme"})
    return directory.candidates(REQUEST)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (
            ["lease", 2, 5, -1, 60, "", 1],
            Lease("l", TWO, "acme", REQUEST.taking(0), 5, None, capped=False),
        ),
        (  # the other model, and fewer tokens for the answer
            ["lease", 1, 0, 0, 50, "1", 2],
            Lease(
                "l", ONE, ONE.id,
                LeaseRequest("n", "r", tokens=80, input_tokens=30, output_tokens=50, by="job-1",
                    bulk=True, emails=4, flexible=True, waited_ms=7),
                0, 0, capped=True,
            ),
        ),
        (["wait", 9, "rpm", 12], NoLease(NoLeaseReason.WAIT, 9, 12, "rpm")),
        (["busy", 9, "limits", 12], NoLease(NoLeaseReason.BUSY, 9, 12, "limits")),
        (["resting", 12, "tpd"], NoLease(NoLeaseReason.RESTING, 0, 12, "tpd")),
        (["disabled", "invalid_key"], NoLease(NoLeaseReason.DISABLED, reason="invalid_key")),
        (["unfit", "no_model"], NoLease(NoLeaseReason.UNFIT, reason="no_model")),
        (
            ["too_large", 500, "tpm"],
            NoLease(NoLeaseReason.TOO_LARGE, limit=500, dimension=Dimension.TPM),
        ),
    ],
)  # fmt: skip
def test_each_answer_to_an_acquire_is_read(reply: list[Any], answer: Lease | NoLease) -> None:
    assert read_acquire(reply, REQUEST, candidates(), "l") == answer


def test_an_answer_that_no_version_of_the_script_gives_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"acquire.lua answered \['later'\]"):
        read_acquire(["later"], REQUEST, candidates(), "l")


@pytest.mark.parametrize("at", range(5))
def test_each_part_of_a_reply_to_a_settle_is_read(at: int) -> None:
    reply: list[Any] = ["ok", 0, 0, 0, 0]
    reply[at] = "late" if at == 0 else 1
    late, blocked, newly, passing, alone = (number == at for number in range(5))
    expected = Settled(late, blocked, newly, passing, alone, ("rpm=30", "tpm=6000"))
    assert read_settle([*reply, "rpm=30", "tpm=6000"]) == expected
    assert read_settle(reply).learned == ()


class NotedScripts:
    """Scripts whose calls are noted and not sent."""

    def __init__(self) -> None:
        self.scripts = Scripts(
            Redis(), root="{kw:groq}", now_ms=lambda: 5, clock=CallerClock(lambda: 1)
        )
        self.calls: list[tuple[Any, ...]] = []
        for verb in ("acquire", "confirm", "extend", "settle", "reset", "by_hand", "snapshot"):
            setattr(self.scripts, f"_{verb}", self._note)

    async def _note(self, _keys: Any, *arguments: Any) -> list[Any]:
        self.calls.append(arguments)
        return [1, 2]


async def job_of(request: LeaseRequest, line: Line | None) -> dict[str, Any]:
    noted = NotedScripts()
    await noted.scripts.acquire(
        lease_id="l", request=request, line=line, horizon_ms=2_000, terms="{}",
        candidates=candidates(),
    )  # fmt: skip
    [(now_ms, job, terms, _)] = noted.calls
    assert (now_ms, terms) == (5, "{}")
    return dict(json.loads(job))


async def test_an_acquire_sends_all_that_the_script_uses_of_a_job() -> None:
    job = {
        "lease": "l",
        "by": "job-1",
        "models": [["m", "m"], ["n", "r"]],
        "cost": {
            "requests": 1,
            "tokens": 90,
            "input_tokens": 30,
            "output_tokens": 60,
            "emails": 4,
        },
        "flexible": True,
        "bulk": True,
        "horizon_ms": 2_000,
        "waited_ms": 7,
    }
    assert await job_of(REQUEST, None) == job
    in_line = {"list": "w", "line": "p", "listed": True}
    assert await job_of(REQUEST, Line("w", "p", None, entered=True)) == job | in_line
    before = in_line | {"next_waited_ms": 0}
    assert await job_of(REQUEST, Line("w", "p", 0, entered=True)) == job | before


@pytest.mark.parametrize(
    ("action", "key_id", "for_ms", "arguments"),
    [
        ("disabled", "k", None, ("ann", "k", "why", "", "disabled", "key", "k")),
        ("disabled", "k", 0, ("ann", "k", "why", 0, "disabled", "key", "k")),
        ("disabled", None, 9, ("ann", "", "why", 9, "paused", "service", "groq")),
        ("enabled", None, None, ("ann", "", "why", "", "resumed", "service", "groq")),
        ("reloaded", None, None, ("ann", "", "why", "", "reloaded", "service", "groq")),
        ("noted", "k", None, ("ann", "k", "why", "", "noted", "key", "k")),
    ],
)
async def test_a_persons_action_on_all_keys_has_a_word_of_its_own(
    action: Any, key_id: str | None, for_ms: int | None, arguments: tuple[Any, ...]
) -> None:
    noted = NotedScripts()
    reply = await noted.scripts.by_hand(
        action, by="ann", service="groq", key_id=key_id, words="why", for_ms=for_ms
    )
    assert (noted.calls, reply) == ([(5, *arguments)], [1, 2])


@pytest.mark.parametrize(("include", "flag"), [(True, "1"), (False, "")])
async def test_a_reset_says_whether_disabled_keys_come_back(*, include: bool, flag: str) -> None:
    noted = NotedScripts()
    await noted.scripts.reset(
        records=["r"], by="ann", scope="key", name="k", include_disabled=include, owners=["a", "b"]
    )
    assert noted.calls == [(5, "ann", "key", "k", flag, "a", "b")]


def test_the_latest_calls_of_a_key_are_read_in_their_order() -> None:
    text = '[9,"ok","job-2","m"]\n[7,"rate_limit","",""]\n'
    calls = [LatestCall(9, "ok", "job-2", "m"), LatestCall(7, "rate_limit", "", "")]
    assert latest_calls.read(text) == calls
    assert latest_calls.read(None) == []
    shown = {"at_ms": 9, "code": "ok", "job": "job-2", "model": "m"}
    assert calls[0].as_json() == shown
