"""The promises that a pool does not keep, and why."""

_NO_LIMITS = "a thread cannot be interrupted; Celery has no time limits for it"
_NO_LOSS = (
    "the thread's job never ends: its message stays held and its slot taken until the worker stops"
)
DIFFERENCES: dict[tuple[str, str], str] = {
    ("test_a_soft_limit_can_be_caught", "threads"): _NO_LIMITS,
    ("test_a_soft_limit_that_is_not_caught_fails_the_job", "threads"): _NO_LIMITS,
    ("test_a_hard_limit_ends_the_job_and_nothing_else", "threads"): _NO_LIMITS,
    ("test_a_running_job_can_be_ended_from_outside", "threads"): "a thread cannot be interrupted",
    ("test_a_pool_grows_and_shrinks", "threads"): "the executor's size is fixed",
    (
        "test_the_end_of_one_job_does_not_keep_another_from_waiting",
        "threads",
    ): "Celery keeps in one variable of the process whether jobs may wait",
    (
        "test_worker_process_init_was_sent_once_in_a_jobs_process",
        "threads",
    ): "it has no processes, and does not send that signal for its own one",
    (
        "test_a_soft_limit_can_be_caught",
        "ours, plain",
    ): "a thread cannot be interrupted; the limit is only reported",
    (
        "test_a_soft_limit_that_is_not_caught_fails_the_job",
        "ours, plain",
    ): "as above; the hard limit holds",
}
"""The reasons, by promise and pool, why a pool does not keep a promise.

Each pair is tested: if the pool keeps the promise, the test fails.
"""

NOT_TRIED: dict[tuple[str, str], str] = {
    (
        "test_a_job_that_is_always_lost_fails_in_the_end",
        "prefork",
    ): "Celery sends it back for ever, as fast as it forks",
    ("test_a_base_exception_fails_the_job_too", "threads"): _NO_LOSS,
    ("test_a_job_that_ends_its_process_is_lost_and_the_worker_goes_on", "threads"): _NO_LOSS,
    ("test_a_lost_job_runs_again_if_the_task_asks_for_it", "threads"): _NO_LOSS,
    ("test_a_job_that_is_always_lost_fails_in_the_end", "threads"): _NO_LOSS,
}
"""Promises whose test would not end, or would stop the worker for all later tests."""
