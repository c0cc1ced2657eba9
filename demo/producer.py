"""The web application of the demo: all it knows of Keywheel is the names of the tasks.

    REDIS_URL=redis://… python demo/producer.py 600 200

It enqueues 600 completions and 200 emails, and prints the queue and the id of each job.
"""

import os
import sys

from celery import Celery

_TOPICS = (
    "a sorting algorithm",
    "the tides",
    "a good espresso",
    "why the sky is blue",
    "binary search",
    "hedgehogs",
)


def main(jobs: int, emails: int) -> None:
    """Enqueue the jobs, completions and emails in turn, and print their ids."""
    app = Celery(broker=os.environ["REDIS_URL"])
    for number in range(max(jobs, emails)):
        if number < jobs:
            topic = _TOPICS[number % len(_TOPICS)]
            arguments = {
                "prompt": f"Explain {topic} in one sentence ({number}).",
                "max_completion_tokens": 64,
            }
            _say("ai", app.send_task("tasks.ai.complete", kwargs=arguments, queue="ai").id)
        if number < emails:
            email = {
                "to": f"reader{number}@example.com",
                "subject": f"Your report {number}",
                "text": f"Good morning! Report {number} is ready.",
            }
            _say("email", app.send_task("tasks.email.send", kwargs=email, queue="email").id)


def _say(queue: str, job: str) -> None:
    print(queue, job, flush=True)  # noqa: T201 - this is its output


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
