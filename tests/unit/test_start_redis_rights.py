"""The rights that Redis denies a worker; without a Redis."""

from typing import Any

import pytest
from redis.exceptions import (
    MovedError,
    ResponseError,
)

from tests.unit.answering_redis import DENIED, NOPERM, AnsweringRedis
from worker.startup import redis_rights
from worker.startup.redis_rights import CLUSTER, Rights


def rights() -> Rights:
    return Rights(
        [("GET", "name"), ("EVAL", "return 1", 1, "of the script")],
        [("SET", "name", 0), ("TIME",)],
        ["plain", "all.*"],
    )


@pytest.mark.parametrize(
    ("answers", "denials"),
    [
        ({}, []),
        ({"GET": DENIED}, [f"{NOPERM}: GET name"]),
        ({"EVAL": DENIED}, [f"{NOPERM}: EVAL of the script"]),
        ({"GET": ResponseError("WRONGTYPE")}, []),
        ({"GET": MovedError("7 127.0.0.1:7001")}, [f"7 127.0.0.1:7001: it {CLUSTER}"]),
        ({"queue SET": DENIED}, [f"{NOPERM}: SET name"]),
        ({"queue TIME": DENIED}, [f"{NOPERM}: TIME"]),
        ({"queue SET": ResponseError("READONLY"), "queue TIME": DENIED}, [f"{NOPERM}: TIME"]),
        ({"queue MULTI": DENIED}, [f"{NOPERM}: MULTI"]),
        ({"queue MULTI": ResponseError("odd"), "queue SET": DENIED}, []),
        ({"hear plain": DENIED}, [f"{NOPERM}: SUBSCRIBE plain"]),
        ({"hear all.*": DENIED}, [f"{NOPERM}: SUBSCRIBE all.*"]),
    ],
)
def test_a_denied_right_is_named_with_its_command_and_key(
    answers: dict[str, Any], denials: list[str]
) -> None:
    client: Any = AnsweringRedis(**answers)
    assert list(rights().denied(client, patience_s=5.0)) == denials
    assert client.released == 1
    assert client.disconnected == 0, "each answer was read"
    if not denials:
        assert client.sent[-2:] == [("SUBSCRIBE", "plain"), ("PSUBSCRIBE", "all.*")]


def test_a_connection_whose_answers_are_not_read_is_closed() -> None:
    client: Any = AnsweringRedis(**{"queue SET": DENIED})
    denials = redis_rights._denied_in_a_transaction(client, [("SET", "name", 0), ("TIME",)])
    assert next(denials) == f"{NOPERM}: SET name"
    denials.close()  # type: ignore[attr-defined]
    assert (client.disconnected, client.released) == (1, 1)


def test_the_rights_of_two_uses_add_up() -> None:
    both = rights()
    both.add(Rights([("PING", "a")], [("DEL", "b")], ["c"]))
    assert both.commands[-1] == ("PING", "a")
    assert both.writing[-1] == ("DEL", "b")
    assert both.channels == ["plain", "all.*", "c"]
