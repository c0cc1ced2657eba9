"""A double of Redis, whose answers a test scripts."""

from typing import Any

from redis.exceptions import (
    NoPermissionError,
)

DENIED = NoPermissionError("this user has no permissions")
NOPERM = "this user has no permissions"


class AnsweringRedis:
    """Answers commands, pipelines and subscriptions as a test scripts it."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.sent = answers, list[Any]()
        self.connection_pool = self
        self.released = self.disconnected = 0
        self._queued: list[Any] = []

    # methods of a pipeline
    def pipeline(self, *, transaction: bool) -> Any:
        assert not transaction
        return self

    def execute_command(self, *command: Any) -> None:
        self.sent.append(command)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return [self.answers.get(command[0]) for command in self.sent]

    # methods of a connection
    def get_connection(self) -> Any:
        return self

    def release(self, _: Any) -> None:
        self.released += 1

    def disconnect(self) -> None:
        self.disconnected += 1

    def send_command(self, *command: Any) -> None:
        self._queued = [command]

    def pack_commands(self, commands: list[Any]) -> list[Any]:
        return commands

    def send_packed_command(self, commands: list[Any]) -> None:
        self._queued = list(commands)

    def read_response(self) -> str:
        name = self._queued.pop(0)[0]
        if (error := self.answers.get(f"queue {name}")) is not None:
            raise error
        return "QUEUED"

    # methods of a subscription
    def pubsub(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def subscribe(self, channel: str) -> None:
        self.sent.append(("SUBSCRIBE", channel))

    def psubscribe(self, channel: str) -> None:
        self.sent.append(("PSUBSCRIBE", channel))

    def parse_response(self, *, block: bool, timeout: float) -> None:
        assert (block, timeout) == (True, 5.0)
        if (error := self.answers.get(f"hear {self.sent[-1][1]}")) is not None:
            raise error
