"""Encodes commands in RESP, the protocol of Redis."""

from dataclasses import dataclass

Argument = str | int | float


@dataclass(frozen=True, slots=True)
class Encoded:
    """Arguments that many commands have in common, encoded once.

    Attributes:
        count: The number of arguments.
        text: The arguments as RESP writes them.
    """

    count: int
    text: str


def encode(*arguments: Argument) -> Encoded:
    """Encode arguments once, to send them many times."""
    return Encoded(len(arguments), "".join(map(_encode_argument, arguments)))


def _encode_argument(argument: Argument) -> str:
    text = str(argument)
    size = len(text) if text.isascii() else len(text.encode())
    return f"${size}\r\n{text}\r\n"


def encode_command(command: tuple[Argument | Encoded, ...]) -> bytes:
    """Encode a whole command. The client's own encoder takes a fifth of a call's time."""
    count, texts = 0, []
    for part in command:
        if isinstance(part, Encoded):
            count += part.count
            texts.append(part.text)
        else:
            # This repeats `_encode_argument`, because calling it would take half of the time.
            text = part if isinstance(part, str) else str(part)
            count += 1
            size = len(text) if text.isascii() else len(text.encode())
            texts.append(f"${size}\r\n{text}\r\n")
    return f"*{count}\r\n{''.join(texts)}".encode()
