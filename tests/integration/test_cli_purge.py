"""Celery's command `celery -A worker purge` with our queues."""

from pathlib import Path

import pytest
from celery import Celery

from config.celery import DELAYED_QUEUES, TRANSPORT_CLASSES
from tests.processes import hang_up, run_celery
from tests.unit.sample_keys import GROQ


def waiting(app: Celery, *queues: str) -> list[int]:
    with app.connection_for_read() as connection:
        return [connection.default_channel.queue_declare(name).message_count for name in queues]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ((), [0, 0, 0]),
        (("-X", "email"), [0, 0, 2]),
        (("-Q", "ai"), [0, 1, 2]),
    ],
)
def test_a_purge_of_all_queues_leaves_no_deferred_job(
    redis_url: str, tmp_path: Path, options: tuple[str, ...], left: list[int]
) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.broker_transport = TRANSPORT_CLASSES["redis"]
    app.conf.broker_transport_options = {"delayed_queues": DELAYED_QUEUES}
    for queue in ("ai", "ai.deferred", "email.deferred", "email.deferred"):
        late = {"countdown": 3600} if queue in DELAYED_QUEUES else {}
        app.send_task("tasks.ai.complete", queue=queue, **late)
    queues = ("ai", "ai.deferred", "email.deferred")
    assert waiting(app, *queues) == [1, 1, 2]
    purged = run_celery(
        tmp_path, {"REDIS_URL": redis_url, "GROQ_API_KEY": GROQ}, "purge", "-f", *options
    )
    assert f"Purged {4 - sum(left)} messages" in purged.stdout.replace("message ", "messages ")
    assert waiting(app, *queues) == left
    hang_up(app)
    app.close()
