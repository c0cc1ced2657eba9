"""Serves the JSON endpoints by which people change one key, or pause a service.

`docs/openapi.yaml` describes them.
"""

from worker.dashboard.handlers import ChangeHandler
from worker.dashboard.poller import Pools
from worker.keypool import Disabled
from worker.logs.redaction import redactor

_MS = 1000


class _Change(ChangeHandler):
    async def disable(self, *, service: str, key: str | None) -> Disabled:
        """Disable a key, or pause the service if `key` is None, as the body requests."""
        body = self.body()
        reason = redactor.redact(body.reason or "by hand")
        for_ms = None if body.for_s is None else body.for_s * _MS

        async def work(pools: Pools) -> Disabled:
            return await pools[service].disable(
                key, by=f"flower {self.admin}", reason=reason, for_ms=for_ms
            )

        done = await self.with_pools(work)
        await self.poll_change()
        return done

    async def enable(self, *, service: str, key: str | None) -> bool:
        """Enable a key, or end the service's pause if `key` is None.

        Returns:
            False if no person had disabled the key, or paused the service.
        """

        async def work(pools: Pools) -> bool:
            return await pools[service].enable(key, by=f"flower {self.admin}")

        newly = await self.with_pools(work)
        await self.poll_change()
        return newly


class Disable(_Change):
    """`POST /api/admin/api-keys/disable`: disable a key, for a time or until it is enabled."""

    fields = ("service", "key", "reason", "for_s")

    async def post(self) -> None:
        """Disable one key."""
        service, key = self.body().one_key()
        done = await self.disable(service=service, key=key)
        self.send_json({"disabled": key, **done.as_json(), "by": self.admin})


class Enable(_Change):
    """`POST /api/admin/api-keys/enable`: enable a key that a person had disabled."""

    fields = ("service", "key")

    async def post(self) -> None:
        """Enable one key."""
        service, key = self.body().one_key()
        newly = await self.enable(service=service, key=key)
        self.send_json({"enabled": key, "newly": newly, "by": self.admin})


class Pause(_Change):
    """`POST /api/admin/api-keys/pause`: let no call of a service begin, with any key."""

    fields = ("service", "reason", "for_s")

    async def post(self) -> None:
        """Pause one service."""
        service = self.body().one_service()
        done = await self.disable(service=service, key=None)
        self.send_json({"paused": service, **done.as_json(), "by": self.admin})


class Resume(_Change):
    """`POST /api/admin/api-keys/resume`: end the pause of a service."""

    fields = ("service",)

    async def post(self) -> None:
        """Resume one service."""
        service = self.body().one_service()
        newly = await self.enable(service=service, key=None)
        self.send_json({"resumed": service, "newly": newly, "by": self.admin})


class Note(ChangeHandler):
    """`POST /api/admin/api-keys/note`: keep a note on a key."""

    fields = ("service", "key", "note")

    async def post(self) -> None:
        """Store the note; an empty note removes the stored one."""
        body = self.body()
        service, key = body.one_key()
        text = redactor.redact(body.note.strip())

        async def note(pools: Pools) -> None:
            await pools[service].note(key, text, by=f"flower {self.admin}")

        await self.with_pools(note)
        await self.poll_change()
        self.send_json({"key": key, "note": text, "by": self.admin})
