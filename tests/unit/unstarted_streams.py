"""The stream of an answer, and a writer of streams without Redis."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, call

import pytest
from redis.exceptions import ResponseError

from worker.streams.answer import AnswerStream
from worker.streams.writer import StreamWriter

NAME = "ns:stream:job"
LOADING = ResponseError("LOADING Redis is loading the dataset in memory")


def stream_of(
    *, attempts: int = 0, notify: Any = lambda *_: None, claims: bool = True
) -> AnswerStream:
    stream = AnswerStream(NAME, attempts=attempts, notify=notify)
    if claims:
        stream.claim(7, "", None)
    return stream


def fields(**of: Any) -> dict[str, bytes]:
    return {name: str(value).encode() for name, value in of.items()}


class Pipe:
    """Notes the commands of a round trip, and returns planned replies."""

    def __init__(self, answers: list[Any]) -> None:
        self.commands: list[Any] = []
        self._answers = answers

    def __len__(self) -> int:
        return len(self.commands)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: self.commands.append(getattr(call, name)(*args, **options))

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return self._answers


class Server:
    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.pipes: list[Pipe] = []

    def pipeline(self, *, transaction: bool) -> Pipe:
        assert not transaction
        self.pipes.append(Pipe(self.plan.pop(0)))
        return self.pipes[-1]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def writer(server: Server) -> StreamWriter:
    made = StreamWriter(server, namespace="ns", expires_s=60.5)  # type: ignore[arg-type]
    made._task = Mock(done=lambda: False)  # it writes only when the test lets it
    return made
