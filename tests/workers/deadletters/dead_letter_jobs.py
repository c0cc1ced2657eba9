"""Jobs that may become dead letters, and the dead letters that an operator lists."""

from typing import Any

from celery.result import AsyncResult

from tests.fleets import Stack
from tests.processes import eventually

ANN = "ann@example.com"
SECRET = "canary-4711 of a prompt"
EMAIL = {"from": "News <news@team1.example.net>", "to": [ANN], "subject": SECRET, "text": SECRET}


def send(stack: Stack, name: str, *, kwargs: dict[str, Any], **options: Any) -> AsyncResult:
    return stack.producer.app.send_task(
        name, kwargs=kwargs, **{"queue": name.split(".")[1]} | options
    )


def complete(stack: Stack, **options: Any) -> AsyncResult:
    return send(stack, "tasks.ai.complete", kwargs={"prompt": SECRET}, **options)


def dead_letters(stack: Stack, **which: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = stack.producer.ask("tasks.admin.dead_letters", **which)[
        "dead_letters"
    ]
    return listed


def await_dead_letter(stack: Stack, job: str) -> dict[str, Any]:
    [dead_letter] = eventually(
        lambda: [dead_letter for dead_letter in dead_letters(stack) if dead_letter["id"] == job],
        what=f"the letter of {job}",
    )
    return dict(dead_letter)


def publish(
    stack: Stack,
    body: Any,
    *,
    queue: str = "ai",
    content_type: str = "application/json",
    **headers: Any,
) -> None:
    with stack.producer.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            body,
            routing_key=queue,
            content_type=content_type,
            content_encoding="utf-8",
            headers=headers,
            retry=True,
        )
