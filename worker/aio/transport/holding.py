"""Who knows which messages' jobs run on although their connection is gone."""

from collections.abc import Callable, Iterable

_source: Callable[[set[str]], set[str]] | None = None


def set_source(source: Callable[[set[str]], set[str]] | None) -> None:
    """Remember who is asked, or that nobody is."""
    global _source  # noqa: PLW0603 - one pool a process
    _source = source


def tags_that_run_on(held: Iterable[str]) -> set[str]:
    """Name those of a channel's messages that the end of its connection does not take from this process.

    The channel is about to give all others back: their jobs that have not begun do not begin any
    more, and those that have ended are acknowledged before this returns. A message that is named
    takes up room until it is acknowledged: the channel's successor takes so many messages fewer.

    Args:
        held: The delivery tags of what the channel has delivered and not seen acknowledged. Jobs of
            other channels go on: a job may consume on a connection of its own, and close it.
    """
    return _source(set(held)) if _source is not None else set()
