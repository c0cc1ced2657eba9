"""Decides whether refusals within one turn are the fault of the keys or of the request."""

from typing import NamedTuple

from worker.keypool import Lease, Settled
from worker.verdicts import Effect, Scope, Verdict


class DoubtfulRefusal(NamedTuple):
    """A refusal of a key that may be the request's fault.

    Attributes:
        lease: The lease of the call.
        code: The code of the verdict.
        alone: Only this job's call disabled the key, which had served other jobs shortly before.
    """

    lease: Lease
    code: str
    alone: bool


class DoubtfulRefusals:
    """The refusals of one turn that may be the fault of the key or of the request."""

    def __init__(self) -> None:
        self._refusals: list[DoubtfulRefusal] = []

    def note(self, lease: Lease, verdict: Verdict, settled: Settled | None) -> list[Lease]:
        """Note a verdict, if it refuses a key and may be the request's fault.

        Returns:
            The leases whose keys are not at fault: those of all refusals noted in this turn, if
            they concern two accounts or more, have the same code, and are all `alone`. Else none.
        """
        if verdict.certain or (verdict.effect, verdict.scope) != (Effect.DISABLE, Scope.KEY):
            return []
        alone = settled is not None and settled.alone
        self._refusals.append(DoubtfulRefusal(lease, verdict.code, alone))
        alike = [refusal.alone and refusal.code == verdict.code for refusal in self._refusals]
        leases = [refusal.lease for refusal in self._refusals]
        several = len({lease.account for lease in leases}) > 1
        return leases if several and all(alike) else []
