"""How a turn continues after each verdict, and where it ends."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.turn_bench import OK, REQUEST, SERVER_ERROR, Bench, bench, lease
from worker.errors import RequestRejected, TransientError
from worker.keypool import LeaseRequest
from worker.verdicts import Dimension, Effect, Fate, Reply, Scope, Verdict

__all__ = ["bench"]


TWO = replace(REQUEST, fallbacks=(("n", ""),))
LONG = Verdict(
    Fate.OTHER_ACCOUNT, "too_large", too_large_limit=9, too_large_in=Dimension.OTPM, status=413
)
NO_MODEL = Verdict(Fate.OTHER_ACCOUNT, "model_not_found", "none such", status=404)
OVERLOADED = Verdict(Fate.RETRY, "overloaded", scope=Scope.MODEL, definite=False, status=503)


# The request, the verdicts of its first calls, and the next lease request.
@pytest.mark.parametrize(
    ("request_", "verdicts", "changes"),
    [
        (TWO, [OVERLOADED], {"model": "n", "fallbacks": ()}),
        (REQUEST, [NO_MODEL], {"exclude_accounts": {"account-0"}}),
        (
            REQUEST,
            [replace(NO_MODEL, account="org_1"), NO_MODEL],
            {"exclude_accounts": {"account-0", "org_1", "account-1"}},
        ),
        (REQUEST, [replace(NO_MODEL, effect=Effect.UNFIT)], {}),  # the pool knows it
        (replace(REQUEST, flexible=True), [LONG], {"flexible": True}),
        (REQUEST, [LONG], {"exclude_accounts": {"account-0"}}),
        (
            replace(REQUEST, flexible=True),
            [replace(LONG, too_large_in=Dimension.TPM)],
            {"flexible": True, "exclude_accounts": {"account-0"}},
        ),
        (
            replace(REQUEST, flexible=True),
            [replace(LONG, too_large_limit=None)],
            {"flexible": True, "exclude_accounts": {"account-0"}},
        ),
    ],
)
async def test_a_verdict_decides_what_the_next_lease_is_requested_for(
    bench: Bench, request_: LeaseRequest, verdicts: list[Verdict], changes: dict[str, Any]
) -> None:
    calls = len(verdicts) + 1
    bench.leases.extend((lease(number), 0.0) for number in range(calls))
    bench.replies.extend([*map(Reply, verdicts), OK])
    assert (await bench.turn(request_).run()).attempts == calls
    assert bench.requests[-1][0] == replace(REQUEST, **changes)


async def test_less_is_reserved_once_for_each_key(bench: Bench) -> None:
    bench.leases.extend([(lease(0), 0.0), (lease(0), 0.0), (lease(1), 0.0)])
    bench.replies.extend([Reply(LONG), Reply(LONG), OK])
    await bench.turn(replace(REQUEST, flexible=True)).run()
    assert [request.exclude_accounts for request, _, _ in bench.requests] == [
        frozenset(), frozenset(), {"account-0"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "verdict", "error"),
    [
        (REQUEST, OVERLOADED, TransientError),  # there is no other model
        (REQUEST, SERVER_ERROR.verdict, TransientError),
        (TWO, SERVER_ERROR.verdict, TransientError),
        (REQUEST, Verdict(Fate.SAME_ACCOUNT, "timeout", definite=False), TransientError),
        (REQUEST, Verdict(Fate.FAIL, "rejected", status=400), RequestRejected),
        (replace(REQUEST, account="a"), NO_MODEL, RequestRejected),
    ],
)
async def test_a_verdict_on_the_request_ends_the_turn(
    bench: Bench, request_: LeaseRequest, verdict: Verdict, error: type[Exception]
) -> None:
    bench.leases.append((lease(), 0.0))
    bench.replies.append(Reply(verdict))
    with pytest.raises(error):
        await bench.turn(request_).run()
    assert bench.called() == [0]
