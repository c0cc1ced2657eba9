"""The JSON endpoints that change one key by hand; `docs/openapi.yaml` describes them."""

from worker.dashboard.handlers import ChangeHandler
from worker.dashboard.poller import Pools
from worker.logs.redaction import redactor

_MS = 1000


class Disable(ChangeHandler):
    """`POST /api/admin/api-keys/disable`: take a key out, for a time or until it is enabled."""

    fields = ("service", "key", "reason", "for_s")

    async def post(self) -> None:
        """Disable one key."""
        body = self.body()
        service, key = body.one_key()
        reason = redactor.redact(body.reason or "by hand")
        for_ms = None if body.for_s is None else body.for_s * _MS

        async def disable(pools: Pools) -> bool:
            return await pools[service].disable(
                key, by=f"flower {self.admin}", reason=reason, for_ms=for_ms
            )

        newly = await self.with_pools(disable)
        await self.poll_change()
        self.send_json({"disabled": key, "newly": newly, "by": self.admin})


class Enable(ChangeHandler):
    """`POST /api/admin/api-keys/enable`: bring a key back that a person had disabled."""

    fields = ("service", "key")

    async def post(self) -> None:
        """Enable one key."""
        service, key = self.body().one_key()

        async def enable(pools: Pools) -> bool:
            return await pools[service].enable(key, by=f"flower {self.admin}")

        newly = await self.with_pools(enable)
        await self.poll_change()
        self.send_json({"enabled": key, "newly": newly, "by": self.admin})


class Note(ChangeHandler):
    """`POST /api/admin/api-keys/note`: keep a note on a key."""

    fields = ("service", "key", "note")

    async def post(self) -> None:
        """Keep the note, or remove it where the new one is empty."""
        body = self.body()
        service, key = body.one_key()
        text = redactor.redact(body.note.strip())

        async def note(pools: Pools) -> None:
            await pools[service].note(key, text, by=f"flower {self.admin}")

        await self.with_pools(note)
        await self.poll_change()
        self.send_json({"key": key, "note": text, "by": self.admin})
