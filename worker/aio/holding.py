"""Who knows which messages' jobs run on although their connection is gone."""

from collections.abc import Callable

_source: Callable[[], set[str]] | None = None


def set_source(source: Callable[[], set[str]] | None) -> None:
    """Remember who is asked, or that nobody is."""
    global _source  # noqa: PLW0603 - one pool a process
    _source = source


def tags_that_run_on() -> set[str]:
    """Name the messages, by their delivery tags, that a lost connection does not take from this process.

    Whoever asks is about to give all others back, so jobs that have not begun must not begin any more, and those that
    have ended are acknowledged before this returns. What is named takes up room until it is acknowledged: he takes so
    many messages fewer.
    """
    return _source() if _source is not None else set()
