"""The lists of a broker that are read, by the changes reported since they were last read."""

from typing import Any

import pytest

from worker.aio.transport.hints import ListHints

STEPS = (0, 3)
PLACES = {f"{queue}{step or ''}".encode(): (queue, step) for queue in "abc" for step in STEPS}
SWEEP_S = 10.0
NOW_S = 100.0


def empty() -> ListHints:
    """Hints after a read in which all lists were empty."""
    hints = ListHints()
    hints.watch(PLACES)
    assert chosen(hints, *"abc") == (["a", "b", "c"], STEPS)
    hints.note_answer(all_taken=True)
    assert hints.all_empty
    return hints


def chosen(hints: ListHints, *queues: str, now_s: float = NOW_S) -> tuple[list[str], Any]:
    return hints.choose([*queues], every="abc", steps=STEPS, now_s=now_s, sweep_s=SWEEP_S)


def hint_of(*keys: bytes) -> list[Any]:
    return [b"invalidate", [*keys]]


@pytest.mark.parametrize(
    ("hint", "queues", "steps"),
    [
        (hint_of(b"a"), ["a"], [0]),
        (hint_of(b"b3"), ["b"], [3]),
        (hint_of(b"a", b"a3"), ["a"], [0, 3]),
        (hint_of(b"a", b"b3"), ["a", "b"], [0, 3]),  # as one request
        # all lists, because the changed ones are unknown
        (hint_of(b"a", b"another"), ["a", "b", "c"], [0, 3]),
        ([b"invalidate", None], ["a", "b", "c"], [0, 3]),  # the server was emptied
        ([b"invalidate"], ["a", "b", "c"], [0, 3]),
        (5, ["a", "b", "c"], [0, 3]),
    ],
)
def test_after_a_hint_only_the_lists_are_read_that_have_changed(
    hint: Any, queues: list[str], steps: list[int]
) -> None:
    hints = empty()
    hints.note_change(hint)
    assert not hints.all_empty
    assert hints.worth_asking([*"abc"], NOW_S) == queues
    queues_read, rows = chosen(hints, *"abc")
    assert (queues_read, [*rows]) == (queues, steps)
    hints.note_answer(all_taken=True)
    assert hints.all_empty


def test_a_list_of_which_not_all_was_taken_is_read_again_and_the_others_are_not() -> None:
    hints = empty()
    hints.note_change(hint_of(b"a"))
    chosen(hints, *"abc")
    hints.note_answer(all_taken=False)
    assert not hints.all_empty
    assert chosen(hints, *"abc") == (["a"], [0])
    hints.note_change(hint_of(b"b"))  # while the reply is awaited
    hints.note_answer(all_taken=True)
    assert not hints.all_empty
    assert chosen(hints, *"abc") == (["b"], [0])


def test_if_a_look_at_all_lists_did_not_take_all_every_list_is_read_again() -> None:
    hints = empty()
    hints.look_everywhere()
    assert not hints.all_empty
    chosen(hints, *"abc")
    hints.note_answer(all_taken=False)
    assert not hints.all_empty
    assert chosen(hints, *"abc") == (["a", "b", "c"], STEPS)


@pytest.mark.parametrize(("later_s", "looks"), [(9.9, False), (10.0, True), (10.1, True)])
def test_all_lists_are_read_now_and_then_since_a_hint_may_be_lost(
    later_s: float, *, looks: bool
) -> None:
    hints = empty()
    assert hints.look_at_s == NOW_S + SWEEP_S
    hints.note_change(hint_of(b"a"))
    queues = ["a", "b", "c"] if looks else ["a"]
    assert hints.worth_asking([*"abc"], NOW_S + later_s) == queues
    assert chosen(hints, *"abc", now_s=NOW_S + later_s)[0] == queues
    assert hints.look_at_s == (NOW_S + later_s if looks else NOW_S) + SWEEP_S


def test_queues_that_were_left_out_are_read_as_soon_as_they_may_be() -> None:
    hints = ListHints()
    hints.watch(PLACES)
    assert chosen(hints, "a") == (["a"], STEPS)
    hints.note_answer(all_taken=True)
    assert not hints.all_empty, "the other lists have not been read"
    assert hints.left_out == {"b", "c"}
    assert chosen(hints, "a") == ([], [])
    assert hints.worth_asking([*"ab"], NOW_S) == ["b"]
    assert chosen(hints, "a", "b") == (["a", "b"], STEPS)
    assert hints.left_out == {"c"}
    hints.note_answer(all_taken=True)
    assert chosen(hints, *"abc")[0] == ["a", "b", "c"]
    hints.note_answer(all_taken=True)
    assert hints.all_empty


def test_a_change_of_a_queue_that_may_not_be_taken_from_now_is_kept_for_later() -> None:
    hints = empty()
    hints.note_change(hint_of(b"b3"))
    assert hints.worth_asking(["a", "c"], NOW_S) == []
    assert chosen(hints, "a", "c") == ([], [3])
    assert chosen(hints, *"abc") == (["b"], [3])


def test_after_a_pause_all_lists_are_read() -> None:
    hints = empty()
    hints.pause(NOW_S + 5)
    assert (hints.all_empty, hints.look_at_s) == (True, NOW_S + 5)
    assert chosen(hints, *"abc", now_s=NOW_S + 5)[0] == ["a", "b", "c"]


def test_new_lists_are_all_read() -> None:
    hints = empty()
    hints.watch({b"d": ("d", 0)})
    assert not hints.all_empty
    assert hints.choose(["d"], every="d", steps=STEPS, now_s=NOW_S, sweep_s=SWEEP_S)[0] == ["d"]
    hints.note_answer(all_taken=True)
    hints.note_change(hint_of(b"a"))  # of a list that is no longer watched
    assert hints.worth_asking(["d"], NOW_S) == ["d"]
