"""A worker is killed in the middle of a streamed answer."""

from typing import Any

import redis

from tests.fleets import StartFleet
from tests.processes import Worker, eventually


def test_the_stream_of_a_killed_worker_begins_again_and_its_reader_sees_that(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(count=1, groq_keys=2)
    fleet.sandbox.control("fault", service="groq", kind="stream_hang", count=1)
    arguments = {"prompt": "Say hello", "stream": True}
    with redis.Redis.from_url(fleet.redis.url, decode_responses=True) as client:
        sent = fleet.producer.send("tasks.ai.complete", **arguments)
        name = f"kw:stream:{sent.id}"

        def records(after: str = "-") -> list[tuple[str, dict[str, str]]]:
            entries: Any = client.xrange(name, min=after)
            return entries

        eventually(
            lambda: any(fields["type"] == "delta" for _, fields in records()), what="a first piece"
        )
        fleet.workers[0].kill()
        left = records()
        assert left[0][1]["type"] == "start"
        assert "end" not in [fields["type"] for _, fields in left]
        assert 0 < client.ttl(name) <= 600  # the rest of the stream expires

        # After the visibility timeout, the broker gives the message to another worker; other tests
        # wait for that.
        fleet.producer.app.send_task(
            "tasks.ai.complete", kwargs=arguments, queue="ai", task_id=sent.id
        )
        second = Worker(fleet.folder, fleet.environ, name="w2")
        try:
            eventually(
                lambda: records() and records()[-1][1]["type"] == "end", within_s=60, what="the end"
            )
            resumed = [fields for _, fields in records(after=f"({left[-1][0]}")]
            assert resumed[0] == {"type": "restart", "attempt": "2"}
            text = "".join(fields.get("text", "") for fields in resumed)
            assert text == fleet.producer.outcome(sent)["text"]
        finally:
            second.stop()
