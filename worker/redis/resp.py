"""The words of a command, as Redis reads them."""

from dataclasses import dataclass

Word = str | int | float


@dataclass(frozen=True, slots=True)
class Words:
    """Some words of a command that many commands have in common.

    How many they are, and as Redis reads them.
    """

    count: int
    text: str


def words(*parts: Word) -> Words:
    """Write words once that are sent many times."""
    return Words(len(parts), "".join(map(_written, parts)))


def _written(word: Word) -> str:
    text = str(word)
    size = len(text) if text.isascii() else len(text.encode())
    return f"${size}\r\n{text}\r\n"


def packed(command: tuple[Word | Words, ...]) -> bytes:
    """Write a whole command. The client's own way takes a fifth of a call's time."""
    count, texts = 0, []
    for part in command:
        if isinstance(part, Words):
            count += part.count
            texts.append(part.text)
        else:
            count += 1
            texts.append(_written(part))
    return f"*{count}\r\n{''.join(texts)}".encode()
