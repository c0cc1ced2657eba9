"""Which dead letters `tasks.admin.replay` selects."""

from typing import Any

import pytest

from worker.arguments.admin import ReplayArguments
from worker.arguments.base import check
from worker.errors import InvalidArguments


@pytest.mark.parametrize("kwargs", [{"id": "a"}, {"id": "a", "before": 5}, {"before": 5}])
def test_one_job_may_be_named_with_the_instant_at_which_it_was_seen(kwargs: dict[str, Any]) -> None:
    arguments = check(ReplayArguments, (), kwargs)
    assert (arguments.id, arguments.before) == (kwargs.get("id"), kwargs.get("before"))


@pytest.mark.parametrize("kwargs", [{}, {"id": "a", "kind": "failed"}, {"id": "a", "before": 0}])
def test_a_replay_that_selects_nothing_or_in_two_ways_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        check(ReplayArguments, (), kwargs)
