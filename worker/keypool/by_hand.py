"""What people do to the keys of a pool: disable, enable, leave a note, have them loaded again."""

from collections.abc import Sequence

from config.api_key import ApiKey
from worker.keypool.scripts import HandAction, Scripts


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
        """Take a key out until a person brings it back, or for a time. Calls in flight go on.

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
        return await self._act("disabled", key_id, by=by, words=reason, for_ms=for_ms)

    async def enable(self, key_id: str | None, *, by: str) -> bool:
        """Bring back what a person had disabled: a key, or all keys (None).

        Returns:
            False where no person had disabled it.

        Raises:
            KeyError: This process has no key of that id.
        """
        return await self._act("enabled", key_id, by=by)

    async def note(self, key_id: str, text: str, *, by: str) -> None:
        """Keep a note on a key, in place of an earlier one; an empty text removes it.

        Raises:
            KeyError: This process has no key of that id.
        """
        await self._act("noted", key_id, by=by, words=text)

    async def _act(
        self,
        action: HandAction,
        key_id: str | None,
        *,
        by: str,
        words: str = "",
        for_ms: int | None = None,
    ) -> bool:
        self._check_known(key_id)
        return await self._scripts.by_hand(
            action, by=by, service=self.service, key_id=key_id, words=words, for_ms=for_ms
        )

    async def note_reload(self, outcome: str, *, by: str) -> None:
        """Write down that a person had the workers load their keys again, and what came of it."""
        await self._act("reloaded", None, by=by, words=outcome)

    def _check_known(self, key_id: str | None) -> None:
        if key_id is not None and all(key.id != key_id for key in self.keys):
            raise KeyError(key_id)
