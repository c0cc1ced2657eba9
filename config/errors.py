"""Defines the only error of this package."""

from collections.abc import Iterable


class SettingsError(Exception):
    """The settings do not allow a start.

    Its message consists of whole sentences. Each names the variable to change; none quotes a
    secret.

    Args:
        sentences: One sentence for each problem.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("\n".join(self.sentences))

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[tuple[str, ...]]]:
        return (SettingsError, (self.sentences,))
