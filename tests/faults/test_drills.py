"""The short drills of `benchmarks/drills`, one after the other with the same workers."""

from collections.abc import Callable, Iterator

import pytest

from benchmarks.drills.__main__ import DRILLS, main, open_stack, rehearse
from benchmarks.drills.drill import Drill, Scale, Site
from benchmarks.drills.stack import Stack

pytestmark = pytest.mark.drill

SHORT = [drill for drill in DRILLS.values() if drill.short]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    assert {(str(drill.settings), drill.accounts) for drill in SHORT} == {("{}", None)}
    with open_stack(tmp_path_factory.mktemp("drills"), SHORT[0]) as stack:
        yield stack


@pytest.mark.parametrize("drill", SHORT, ids=lambda drill: drill.name)
def test_every_promise_holds_in_the_drill(opened: Stack, drill: Drill) -> None:
    assert drill.short is not None
    outcome = rehearse(opened, drill, drill.short)
    assert outcome.broken == [], outcome.line


def test_a_drill_that_is_not_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "clocks-apart", "--short"]) == 2
    assert capsys.readouterr().out.split("\n")[:2] == [
        "soak             not run: it has no short form",
        "clocks-apart     not run: it has no short form",
    ]


def send_an_email_twice(site: Site) -> None:
    site.send()
    [job] = site.jobs
    mail = {"to": "bob@example.com", "subject": job.id, "text": "Again"}
    again = site.results().send_task("tasks.email.send", kwargs=mail, queue="email")
    site.until(again.ready, within_s=20, what="the other email")


def keep_a_job_back(site: Site) -> None:
    site.jobs += site.unsent  # it was never sent


# A deliberate fault, and the sentence of the drill about it.
@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (send_an_email_twice, "emails accepted twice: 1"),
        (keep_a_job_back, "lost: 1"),
    ],
)
def test_a_drill_says_which_promise_was_broken(
    opened: Stack, act: Callable[[Site], None], sentence: str
) -> None:
    drill = Drill("broken", act, full=Scale(0, 1, trouble_s=0, limit_s=2))
    outcome = rehearse(opened, drill, drill.full)
    assert any(sentence in broken for broken in outcome.broken), outcome
