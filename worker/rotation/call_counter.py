"""Counts the calls of the rotation, and the runs that were deferred for lack of a key."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from worker.keypool import Lease, LeaseRequest, outcome_of
from worker.rotation.tenant_charges import NO_CHARGES, TenantCharges
from worker.usage import Series, UsageCounter
from worker.verdicts import Verdict

_MEASURES: Final = {"refused": "refused", "fault": "faults", "rejected": "rejected"}
_LONGEST_NAME: Final = 200
"""How many characters of a model's name are kept; jobs may choose any name."""


class CallCounter:
    """Counts the use of the keys of one service, also for each tenant of its jobs.

    Args:
        service: The service's name.
        usage: The counter of this process.
        charges: Reports the use of each tenant to the broker.
    """

    def __init__(
        self, service: str, usage: UsageCounter, charges: TenantCharges = NO_CHARGES
    ) -> None:
        self._service: Final = service
        self._usage: Final = usage
        self._charges: Final = charges

    def call(
        self,
        lease: Lease,
        verdict: Verdict,
        *,
        waited_ms: int,
        recipients: Mapping[str, int],
    ) -> None:
        """Count a call that has ended.

        A call with emails of several tenants counts once for each of them.

        Args:
            lease: The lease of the call.
            verdict: The verdict on the provider's answer.
            waited_ms: How long the job had waited when the call began, in milliseconds.
            recipients: How many recipients were accepted, by tenant.
        """
        counts, emails = {"calls": 1}, recipients
        if (outcome := outcome_of(verdict)) == "ok":
            prompted, cached, answered = (
                count or 0
                for count in (verdict.input_tokens, verdict.cached_tokens, verdict.output_tokens)
            )
            counts |= {
                "prompt_tokens": prompted + cached,
                "cached_tokens": cached,
                "output_tokens": answered,
                "waited_ms": waited_ms,
            }
            if lease.request.tenant:
                self._charges.note(lease.request, prompted + answered)
        else:
            counts[_MEASURES[outcome]] = 1
            emails = dict.fromkeys(recipients, 0)
        series = Series(
            self._service,
            lease.key.id,
            verdict.account or lease.account,
            lease.request.model[:_LONGEST_NAME],
        )
        self._usage.count(series, **counts, emails=sum(emails.values()))
        for tenant in emails or {lease.request.tenant: 0}:
            if tenant:
                of_tenant = replace(series, key="", account="", tenant=tenant)
                self._usage.count(of_tenant, **counts, emails=emails.get(tenant, 0))

    def deferral(self, lease_request: LeaseRequest) -> None:
        """Count a job's run that was deferred because no key could serve soon."""
        if not lease_request.by:  # a program that waits without leaving the process
            return
        series = Series(self._service, model=lease_request.model[:_LONGEST_NAME])
        self._usage.count(series, deferrals=1)
        if lease_request.tenant:
            self._usage.count(replace(series, tenant=lease_request.tenant), deferrals=1)
