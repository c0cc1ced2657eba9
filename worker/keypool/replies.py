"""What the replies of the pool's scripts mean."""

from dataclasses import dataclass
from typing import Any

from worker.keypool.candidates import Candidates
from worker.keypool.leases import Lease, LeaseRequest, NoLease, NoLeaseReason
from worker.verdicts import Dimension


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle did.

    Attributes:
        late: The lease had expired; its reservation was given back before.
        blocked: The verdict's scope serves no more for now.
        newly: It served until this settle.
        passing: Another call of this model was accepted after this one began: what failed here is
            this request's own.
        learned: Limits learned, as `rpm=30`.
    """

    late: bool
    blocked: bool
    newly: bool
    passing: bool = False
    learned: tuple[str, ...] = ()


def read_acquire(
    reply: list[Any], request: LeaseRequest, candidates: Candidates, lease_id: str
) -> Lease | NoLease:
    """Read what an acquire gave.

    Args:
        reply: The reply of acquire.lua, in the order of the patterns below. `index` is the
            candidate's and `which` the model's, from 1; `spare` is -1 where no quota of emails is
            known.
        request: What was asked for.
        candidates: The keys to choose from.
        lease_id: The id of the lease, if there is one.
    """
    match reply:
        case ["lease", index, wait_ms, spare, output_tokens, capped, which]:
            place, more = int(index) - 1, None if int(spare) < 0 else int(spare)
            key, account = candidates.keys[place], candidates.accounts[place]
            return Lease(
                lease_id,
                key,
                account,
                request.reserving(int(output_tokens)).taking(int(which) - 1),
                int(wait_ms),
                more,
                capped=bool(capped),
            )
        case [("wait" | "busy") as why, ask_in_ms, reason, first_in_ms]:
            return NoLease(
                NoLeaseReason(why),
                ask_in_ms=int(ask_in_ms),
                first_in_ms=int(first_in_ms),
                reason=str(reason),
            )
        case ["resting", first_in_ms, reason]:
            return NoLease(NoLeaseReason.RESTING, first_in_ms=int(first_in_ms), reason=str(reason))
        case [("disabled" | "unfit") as why, reason]:
            return NoLease(NoLeaseReason(why), reason=str(reason))
        case ["too_large", limit, dimension]:
            return NoLease(
                NoLeaseReason.TOO_LARGE, limit=int(limit), dimension=Dimension(dimension)
            )
    raise AssertionError(f"acquire.lua answered {reply!r}")


def read_settle(reply: list[Any]) -> Settled:
    """Read what a settle did.

    Args:
        reply: The reply of settle.lua.
    """
    return Settled(
        late=reply[0] == "late",
        blocked=bool(reply[1]),
        newly=bool(reply[2]),
        passing=bool(reply[3]),
        learned=tuple(reply[4:]),
    )
