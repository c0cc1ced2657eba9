"""How the run of an email goes on after a step that does not end it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from worker.emails.batching import NextStep, Outcome
from worker.emails.outgoing import OutgoingEmail
from worker.emails.run import EmailRun, SharedState
from worker.errors import Deferred
from worker.keypool import LeaseRequest
from worker.rotation.served import Served

SERVED = Served({"id": "1"}, "k", 0, 0)


class Run(EmailRun):
    """A run whose steps have scripted ends; the last one is repeated."""

    def __init__(self, *steps: Served | NextStep, known: bool = False) -> None:
        email = OutgoingEmail("1", "hash", lambda _: {}, known=known)
        shared = SimpleNamespace(at_least_once=False)
        super().__init__(cast("SharedState", shared), LeaseRequest(), email)
        self.steps, self.did = list(steps), list[str]()

    def _next(self, step: str) -> Served | NextStep:
        self.did.append(step)
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    async def _send(self) -> Served | NextStep:
        return self._next("send")

    async def _look_up(self) -> Served | NextStep:
        return self._next("look")


@pytest.mark.parametrize(
    ("run", "did"),
    [
        (Run(SERVED), ["send"]),
        (Run(SERVED, known=True), ["look"]),
        (Run(NextStep.SEND, SERVED, known=True), ["look", "send"]),
        (Run(NextStep.LOOK_AGAIN, NextStep.SEND, SERVED), ["send", "look", "send"]),
        (Run(NextStep.WAIT, SERVED), ["send", "send"]),
    ],
)
async def test_a_run_goes_on_until_its_email_is_served(run: Run, did: list[str]) -> None:
    assert await run.serve() == SERVED
    assert run.did == did


@pytest.mark.parametrize(
    ("step", "deferral", "code", "did"),
    [
        # many copies: another job is first each time
        (NextStep.LOOK_AGAIN, None, "same_email", ["send"] + ["look"] * 7),
        (NextStep.WAIT, None, "waiting", ["send"] * 8),
        (NextStep.WAIT, Deferred(5, "rpm"), "rpm", ["send"] * 8),
    ],
)
async def test_a_run_ends_after_eight_fresh_starts(
    step: NextStep, deferral: Deferred | None, code: str, did: list[str]
) -> None:
    run = Run(step)
    run._deferral = deferral
    with pytest.raises(Deferred) as caught:
        await run.serve()
    assert (caught.value.code, run.did) == (code, did)
    assert deferral is None or caught.value is deferral


@pytest.mark.parametrize("result", [SERVED, NextStep.LOOK_AGAIN, NextStep.WAIT])
def test_a_follower_takes_over_the_outcome_of_its_email(result: Any) -> None:
    run = Run(SERVED)
    run._deferral = Deferred(5, "rpm")
    assert run._follow(Outcome(result)) is result
    assert (run._deferral is None) is (result is NextStep.WAIT)
    with pytest.raises(Deferred):
        run._follow(Outcome(Deferred(5, "rpm")))
