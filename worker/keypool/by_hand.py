"""What people do to the keys of a pool: disable, enable, leave a note, have them loaded again."""

from collections.abc import Sequence

from config.api_key import ApiKey
from worker.keypool.scripts import Scripts


class ByHand:
    """The part of a key pool that acts for people."""

    service: str
    _scripts: Scripts

    @property
    def keys(self) -> Sequence[ApiKey]:
        """The keys that the pool serves from."""
        raise NotImplementedError

    async def disable(
        self,
        key_id: str | None,
        *,
        by: str,
        reason: str = "by hand",
        for_ms: int | None = None,
    ) -> bool:
        """Take a key out until a person brings it back, or for a time. Calls in progress go on.

        Args:
            key_id: The key; None: all keys, those of other processes and later ones too.
            by: Who asked, for the audit stream.
            reason: Why.
            for_ms: For how long, in milliseconds; None: without end.

        Returns:
            False where it was out already.

        Raises:
            KeyError: This process has no key of that id.
        """
        self._check_known(key_id)
        return await self._scripts.disable(
            by=by, service=self.service, key_id=key_id, reason=reason, for_ms=for_ms
        )

    async def enable(self, key_id: str | None, *, by: str) -> bool:
        """Bring back what a person had disabled: a key, or all keys (None).

        Returns:
            False where no person had disabled it.

        Raises:
            KeyError: This process has no key of that id.
        """
        self._check_known(key_id)
        return await self._scripts.enable(by=by, service=self.service, key_id=key_id)

    async def note(self, key_id: str, text: str, *, by: str) -> None:
        """Keep a note on a key, in place of an earlier one; an empty text removes it.

        Raises:
            KeyError: This process has no key of that id.
        """
        self._check_known(key_id)
        await self._scripts.note(by=by, key_id=key_id, text=text)

    async def note_reload(self, outcome: str, *, by: str) -> None:
        """Write down that a person had the workers load their keys again, and what came of it."""
        await self._scripts.reloaded(by=by, service=self.service, outcome=outcome)

    def _check_known(self, key_id: str | None) -> None:
        if key_id is not None and all(key.id != key_id for key in self.keys):
            raise KeyError(key_id)
