"""The one error of this package."""

from collections.abc import Iterable


class SettingsError(Exception):
    """The environment does not allow a start.

    The message is made of whole sentences, each naming the variable to change; none holds the value
    of a secret.

    Args:
        sentences: What is wrong, one sentence each.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("\n".join(self.sentences))

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[tuple[str, ...]]]:
        return (SettingsError, (self.sentences,))
