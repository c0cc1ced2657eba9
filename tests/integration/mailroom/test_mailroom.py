"""Emails through mailroom, outbox, key pool and SDK to the sandbox, whose ledger is the judge."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from rooms import ANN, CANARY, House, hold, in_line, letter, send, send_one

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from worker.errors import Deferred, Fault, InvalidArguments, OutcomeUnknown, RequestRejected
from worker.keypool import Lease, Want
from worker.rotation import Served
from worker.verdicts import Dimension, Fate, ObservedLimit, Reply, Verdict


def ids(outcomes: list[Any]) -> list[str]:
    assert [one for one in outcomes if not isinstance(one, Served)] == []
    return [one.value["id"] for one in outcomes]


def accepted(house: House) -> tuple[int, int, int]:
    """How many emails were accepted, and how many of them twice by key and by content."""
    found = house.judgement()
    return found["emails_accepted"], found["emails_accepted_twice"], found["content_accepted_twice"]


async def test_an_email_that_finds_nobody_waiting_goes_alone_at_once(house: House) -> None:
    served = await send_one(house.room(), letter(1))
    [call] = house.calls()
    assert call["idempotency_key"] == "job-1"
    assert served.value == {"id": call["emails"][0]}
    assert (served.attempts, served.key[:3]) == (1, "re_")


async def test_emails_that_wait_go_out_in_few_calls_each_with_its_own_id(house: House) -> None:
    outcomes = await send(house.room(), *(letter(n) for n in range(250)))
    assert len(set(ids(outcomes))) == 250
    assert accepted(house) == (250, 0, 0)
    assert len(house.calls()) <= 8
    assert max(len(call["emails"]) for call in house.calls()) == 100
    assert all(served.attempts == 1 for served in outcomes)


async def test_without_batches_each_email_goes_alone(house: House) -> None:
    ids(await send(house.room(batches=False), *(letter(n) for n in range(12))))
    assert {len(call["emails"]) for call in house.calls()} == {1}
    assert accepted(house) == (12, 0, 0)


async def test_what_a_batch_cannot_carry_goes_alone(house: House) -> None:
    attached = [{"filename": "a.txt", "content": "aGVsbG8="}]
    outcomes = await send(house.room(), *(letter(n, attachments=attached) for n in range(5)))
    assert len(set(ids(outcomes))) == 5
    assert {len(call["emails"]) for call in house.calls()} == {1}


async def test_large_emails_do_not_make_a_batch_too_large(house: House) -> None:
    outcomes = await send(house.room(), *(letter(n, html="x" * 1_000_000) for n in range(9)))
    assert len(set(ids(outcomes))) == 9
    assert max(len(call["emails"]) for call in house.calls()) <= 4


async def test_one_bad_address_fails_one_email(house: House) -> None:
    letters = [letter(n) for n in range(20)]
    letters[7] = letter(7, to=["nobody at all"])
    letters[0] = letter(0, to=["nor I"])
    outcomes = await send(house.room(), letter("first"), *letters)
    wrong = [place for place, one in enumerate(outcomes) if isinstance(one, RequestRejected)]
    assert wrong == [1, 8]
    assert "Invalid `to` field" in str(outcomes[8])
    assert accepted(house) == (19, 0, 0)
    by_key = {call["idempotency_key"]: call for call in house.calls()}
    in_batches = {number for key, call in by_key.items() if key.startswith("batch-") for number in call["emails"]}
    assert {one.value["id"] for one in outcomes if isinstance(one, Served)} >= in_batches != set()
    # It may be put right and sent with the same key.
    assert (await send_one(house.room(), letter(7, key="job-7"))).attempts == 1


async def test_a_batch_that_is_refused_as_a_whole_is_sent_one_by_one(house: House) -> None:
    room = house.room()
    await send_one(room, letter("before"))
    house.sandbox.control("fault", service="resend", kind="missing_required_field", count=1)
    outcomes = await send(room, *(letter(n) for n in range(6)))
    refused = [one for one in outcomes if isinstance(one, RequestRejected)]
    assert len(refused) <= 1  # the fault may hit the one that went first
    assert accepted(house)[0] == 7 - len(refused)


@pytest.mark.parametrize("kind", ["reset_after", "truncated", "broken_json", "error_after"])
async def test_a_batch_whose_answer_was_lost_is_asked_for_again_by_one_of_its_emails(house: House, kind: str) -> None:
    first, second = house.room(), house.room()
    house.sandbox.control("fault", service="resend", kind=kind, count=1)
    outcomes = await send(first, *(letter(n) for n in range(30)))
    doubtful = [n for n, one in enumerate(outcomes) if isinstance(one, Fault)]
    assert [one for n, one in enumerate(outcomes) if n in doubtful and not one.in_doubt] == []
    assert len(doubtful) == 30
    assert accepted(house)[0] == 30
    # Another process does the rest; both keys are free.
    again = await send(second, *(letter(n, known=True) for n in doubtful))
    assert len(set(ids(again))) == 30
    assert accepted(house) == (30, 0, 0)
    assert [call["replayed"] for call in house.calls()].count(True) == 1


async def test_a_second_copy_gets_the_first_ones_result_without_a_call(house: House) -> None:
    first = await send_one(house.room(), letter(1, key="order-1"))
    second = await send_one(house.room(), letter(1, key="order-1"))
    assert second.value == first.value
    assert (second.key, second.attempts) == (first.key, 0)
    assert len(house.calls()) == 1
    # A copy of a job that nobody expects to be one: the message was delivered twice.
    third = await send_one(house.room(), letter(1, key="order-1", known=False))
    assert third.value == first.value
    assert len(house.calls()) == 1


async def test_an_idempotency_key_with_another_content_is_refused(house: House) -> None:
    room = house.room()
    await send_one(room, letter(1, key="order-1"))
    for known in (True, False):
        with pytest.raises(InvalidArguments, match="idempotency_key: was used for an email with another content"):
            await send_one(room, letter(2, key="order-1", known=known))
    assert accepted(house) == (1, 0, 0)


@pytest.mark.parametrize("known", [True, False])
async def test_copies_that_race_in_one_process_or_in_two_send_one_email(house: House, known: bool) -> None:  # noqa: FBT001
    rooms = house.room(), house.room()
    copies = [letter(1, key="order-1", known=known) for _ in range(8)]
    wants = Want(emails=1, max_wait_ms=20_000)
    outcomes: list[Any] = await asyncio.gather(
        *(rooms[n % 2].serve(wants, one) for n, one in enumerate(copies)), return_exceptions=True
    )
    late = [n for n, one in enumerate(outcomes) if isinstance(one, Deferred)]  # the other process was at it
    for n in late:
        assert outcomes[n].in_doubt
        outcomes[n] = await rooms[n % 2].serve(wants, copies[n])
    assert len(set(ids(outcomes))) == 1
    assert accepted(house) == (1, 0, 0)


async def test_copies_among_a_crowd_do_not_go_with_the_batch(house: House) -> None:
    room = house.room()
    sent = await send_one(room, letter(3))
    outcomes = await send(room, *(letter(n, known=False) for n in range(10)), letter(5))
    assert outcomes[3].value == sent.value
    assert outcomes[5].value == outcomes[10].value
    assert len(set(ids(outcomes))) == 10
    assert accepted(house) == (10, 0, 0)


async def test_exactly_the_same_bytes_go_out_again_although_the_from_address_changed(house: House) -> None:
    house.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    with pytest.raises(Fault) as caught:
        await send_one(house.room(), letter(1))
    assert caught.value.in_doubt
    changed = house.room(senders=("new@team1.example.net", "new@team2.example.net"))
    served = await send_one(changed, letter(1, known=True))
    assert served.value["id"]
    first, second = house.calls()
    assert (first["key"], first["emails"]) == (second["key"], [served.value["id"]])
    assert second["replayed"]
    assert accepted(house) == (1, 0, 0)


async def test_after_a_definite_refusal_another_account_sends_it_from_its_own_address(house: House) -> None:
    house.sandbox.control("revoke", key="resend:1")
    outcomes = [await send_one(house.room(), letter(n)) for n in range(3)]
    assert sorted(served.attempts for served in outcomes) == [1, 1, 2]
    assert accepted(house) == (3, 0, 0)


async def test_a_batch_moves_on_when_its_key_is_refused(house: House) -> None:
    house.sandbox.control("revoke", key="resend:1")
    outcomes = await send(house.room(), *(letter(n) for n in range(40)))
    assert len(set(ids(outcomes))) == 40
    assert accepted(house) == (40, 0, 0)


async def in_doubt(house: House, *numbers: int) -> None:
    """Let emails be accepted by the first account, and the answers get lost."""
    house.sandbox.control("fault", service="resend", kind="reset_after", count=2)
    for outcome in await send(house.room(keys=(0,)), *(letter(n) for n in numbers)):
        assert isinstance(outcome, Fault)
    house.sandbox.control("clear", service="resend")


async def test_an_email_in_doubt_whose_account_is_gone_ends_as_unknown(house: House) -> None:
    await in_doubt(house, 1)
    with pytest.raises(OutcomeUnknown, match="no key of its account is configured"):
        await send_one(house.room(keys=(1,)), letter(1, known=True))
    assert accepted(house) == (1, 0, 0)


async def test_an_email_in_doubt_whose_account_is_out_waits_for_a_person(house: House) -> None:
    await in_doubt(house, 1)
    house.sandbox.control("revoke", key="resend:1")
    with pytest.raises(Deferred, match="every resend key of its account is disabled") as caught:
        await send_one(house.room(), letter(1, known=True))
    assert caught.value.in_doubt
    assert accepted(house) == (1, 0, 0)


@pytest.mark.parametrize("how", ["gone", "revoked", "refused"])
async def test_at_least_once_moves_on_to_another_account(house: House, how: str) -> None:
    await in_doubt(house, 1, 2, 3)
    if how == "revoked":
        house.sandbox.control("revoke", key="resend:1")
    if how == "refused":
        house.sandbox.control("fault", service="resend", kind="domain_not_verified", count=1)
    room = house.room(keys=(1,) if how == "gone" else (0, 1), at_least_once=True)
    again = await send(room, *(letter(n, known=True) for n in (1, 2, 3)))
    assert len(set(ids(again))) == 3
    assert accepted(house)[0] >= 4


async def test_a_refusal_of_a_later_attempt_says_that_an_earlier_one_may_have_been_accepted(house: House) -> None:
    await in_doubt(house, 1)
    house.sandbox.control("fault", service="resend", kind="domain_not_verified", count=1)
    words = r"^an earlier attempt may have been accepted, and its account refuses a later one: domain_not_verified: "
    with pytest.raises(OutcomeUnknown, match=words):
        await send_one(house.room(), letter(1, known=True))


async def test_a_limit_on_a_later_attempt_does_not_free_the_email(house: House) -> None:
    await in_doubt(house, 1)
    house.sandbox.control("fault", service="resend", kind="rate_limit_exceeded", count=1, retry_after_s=30)
    with pytest.raises(Deferred) as caught:
        await send_one(house.room(), letter(1, known=True))
    assert caught.value.in_doubt
    assert accepted(house) == (1, 0, 0)


async def test_an_attempt_that_never_reached_resend_leaves_nothing_behind(house: House) -> None:
    room, unreachable = house.room(), house.room()
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        unreachable.rotation.provider._http.base_url = f"http://127.0.0.1:{free.getsockname()[1]}"  # type: ignore[attr-defined]
        with pytest.raises(Fault) as caught:
            await send_one(unreachable, letter(1))
    assert not caught.value.in_doubt
    assert ":mail:" not in await house.everything_in_redis()
    assert (await send_one(room, letter(1))).attempts == 1


async def test_a_mail_body_is_in_redis_only_while_its_outcome_is_open_and_an_address_in_no_name(
    house: House,
) -> None:
    room = house.room()
    key = f"welcome/{ANN}"
    house.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    with pytest.raises(Fault):
        await send_one(room, letter(1, key=key))
    found = await house.everything_in_redis()
    assert found.count(CANARY) == 1
    assert [line for line in found.splitlines() if ANN in line.split()[0]] == []
    await send_one(room, letter(1, key=key))
    ids(await send(room, *(letter(n) for n in range(2, 9))))
    with pytest.raises(RequestRejected):
        await send_one(room, letter(9, to=["nobody at all"]))
    found = await house.everything_in_redis()
    assert CANARY not in found
    assert found.count(":mail:") == 8


async def test_a_job_that_is_stopped_before_its_call_leaves_the_line_to_the_next(house: House) -> None:
    room = house.room(keys=(0,))
    free = hold(room)
    wants = Want(emails=1, max_wait_ms=20_000)
    jobs = [asyncio.create_task(room.serve(wants, letter(n))) for n in range(5)]
    await in_line(room, 4)
    jobs[0].cancel()
    jobs[2].cancel()
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == [
        "CancelledError", "Served", "CancelledError", "Served", "Served",
    ]  # fmt: skip
    assert accepted(house) == (3, 0, 0)
    assert room._lanes == {}


async def test_when_the_job_that_makes_the_call_is_stopped_the_others_are_in_doubt(house: House) -> None:
    room = house.room()
    house.sandbox.control("fault", service="resend", kind="hang", hang_s=600, count=3)
    wants = Want(emails=1, max_wait_ms=20_000)
    jobs = [asyncio.create_task(room.serve(wants, letter(n))) for n in range(6)]
    await until(lambda: accepted(house)[0] == 6)
    house.sandbox.control("clear", service="resend")
    for job in jobs[:2]:  # who went alone, and who took the others along
        job.cancel()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(one) for one in outcomes[2:]} == {Fault}
    again = await send(house.room(), *(letter(n, known=True) for n in range(6)))
    assert len(set(ids(again))) == 6
    assert accepted(house) == (6, 0, 0)


async def test_who_waits_too_long_in_line_is_deferred_with_the_leader(house: House) -> None:
    room = house.room(keys=(0,))
    house.sandbox.control("fault", service="resend", kind="rate_limit_exceeded", count=1, retry_after_s=40)
    outcomes = await send(room, *(letter(n) for n in range(9)), max_wait_ms=500)
    assert {type(one) for one in outcomes} == {Deferred}
    assert min(one.countdown_ms for one in outcomes) > 30_000
    assert not any(one.in_doubt for one in outcomes)
    assert accepted(house) == (0, 0, 0)


async def test_who_waits_in_line_for_too_long_is_deferred_by_himself(house: House) -> None:
    room = house.room(keys=(0,))
    free = hold(room)
    leader = asyncio.create_task(send_one(room, letter(1)))
    await until(lambda: any(lane.led for lane in room._lanes.values()))
    with pytest.raises(Deferred, match="many emails wait for the rate limit") as caught:
        await send_one(room, letter(2), max_wait_ms=0)
    assert not caught.value.in_doubt
    free.set()
    assert (await leader).value["id"]


async def test_copies_in_one_process_share_the_doubt(house: House) -> None:
    room = house.room()
    house.sandbox.control("fault", service="resend", kind="hang", hang_s=600, count=1)
    wants = Want(emails=1, max_wait_ms=20_000)
    jobs = [asyncio.create_task(room.serve(wants, letter(1, key="order-1")))]
    await until(lambda: accepted(house)[0] == 1)
    jobs += [asyncio.create_task(room.serve(wants, letter(1, key="order-1"))) for _ in range(3)]
    await until(lambda: len(joined(room)) == 3)
    impatient = await send(room, letter(1, key="order-1"), max_wait_ms=0)
    assert isinstance(impatient[0], Deferred)
    jobs[0].cancel()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(one) for one in outcomes[1:]} == {Fault}
    assert all(one.in_doubt for one in outcomes if isinstance(one, Fault))
    house.sandbox.control("clear", service="resend")
    again = await send(room, *(letter(1, key="order-1") for _ in range(4)))
    assert len(set(ids(again))) == 1
    assert accepted(house) == (1, 0, 0)


def joined(room: Any) -> list[Any]:
    """What waits for the end of a call that is under way."""
    ends = room._under_way._ends.values()
    return [callback for end in ends for callback in end._callbacks or ()]


@pytest.mark.parametrize("at_least_once", [False, True])
async def test_an_email_in_doubt_is_not_asked_for_again_when_resend_may_have_forgotten_it(
    house: House,
    at_least_once: bool,  # noqa: FBT001 - a row
) -> None:
    await in_doubt(house, 1)
    future_ms = round(time.time() * 1000) + 24 * 3_600_000
    room = house.room(now_ms=lambda: future_ms, at_least_once=at_least_once)
    [outcome] = await send(room, letter(1, known=True))
    if at_least_once:
        assert isinstance(outcome, Served)
    else:
        assert isinstance(outcome, OutcomeUnknown)
        assert str(outcome).endswith("it is too long ago to be asked for safely")
    assert accepted(house)[0] == 1 + at_least_once - at_least_once * house.calls()[-1]["replayed"]


async def test_passengers_of_a_refused_batch_for_whom_there_is_no_room_stand_in_line_again(house: House) -> None:
    room = house.room()
    pool = room.rotation.pool
    second = await pool.acquire(Want(emails=1, account="team1"))
    assert isinstance(second, Lease)
    await pool.settle(second, quota(100, remaining=3))
    house.sandbox.control("revoke", key="resend:1")
    outcomes = await send(room, *(letter(n) for n in range(8)), max_wait_ms=500)
    sent = [one for one in outcomes if isinstance(one, Served)]
    assert 1 <= len(sent) <= 3
    assert {type(one) for one in outcomes} == {Served, Deferred}
    assert accepted(house) == (len(sent), 0, 0)


async def test_an_email_is_served_although_redis_is_gone_when_its_answer_comes(
    house: House, running: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedRedis(data_dir=tmp_path, options={"appendfsync": "always"}) as server:
        connections = BlockingConnectionPool.from_url(server.url, decode_responses=True, retry=Retry(NoBackoff(), 0))
        async with Redis.from_pool(connections) as redis, House(running, redis) as own:
            room = own.room(call_ms=1)
            call = room.rotation.provider.call

            async def last_call(*args: Any, **options: Any) -> Any:
                reply = await call(*args, **options)
                await asyncio.to_thread(server.stop)
                return reply

            room.rotation.provider.call = last_call  # type: ignore[method-assign]
            served = await send_one(room, letter(1))
            assert "an email's outcome could not be written down" in caplog.text
            await asyncio.to_thread(server.start)
            room.rotation.provider.call = call  # type: ignore[method-assign]
            again = await send_one(own.room(), letter(1, known=True))
    assert again.value == served.value
    assert accepted(house) == (1, 0, 0)


def quota(limit: int, remaining: int) -> Verdict:
    limits = (ObservedLimit(Dimension.EMAILS_DAY, limit, remaining=remaining),)
    return Verdict(Fate.DONE, "ok", limits=limits, status=200)


async def test_a_batch_asks_for_no_more_than_the_quota_that_is_left_and_is_charged_for_all(house: House) -> None:
    room = house.room(keys=(0,))
    pool = room.rotation.pool
    lease = await pool.acquire(Want(emails=1))
    assert isinstance(lease, Lease)
    assert lease.spare_emails is None
    await pool.settle(lease, quota(100, remaining=12))
    outcomes = await send(room, *(letter(n) for n in range(9)), letter("two", to=[ANN, "bob@example.com"]))
    assert len(set(ids(outcomes))) == 10
    lease = await pool.acquire(Want(emails=1))
    assert isinstance(lease, Lease)
    assert lease.spare_emails == 0  # 12 less 9, 2, and this one
    await pool.settle(lease, Verdict(Fate.RETRY, "abandoned"))
    outcomes = await send(room, *(letter(n) for n in range(20, 25)), max_wait_ms=500)
    assert [type(one) for one in outcomes].count(Served) == 1  # the others wait for tomorrow
    assert max(len(call["emails"]) for call in house.calls()) <= 10


@pytest.mark.parametrize("kind", ["missing_required_field", "reset_after", "rate_limit_exceeded"])
async def test_who_goes_along_with_a_leader_whose_email_is_sent_already_learns_its_own_end(
    house: House, kind: str
) -> None:
    sent = await send_one(house.room(), letter("copy"))
    room = house.room(keys=(0,))
    free = hold(room)
    house.sandbox.control("fault", service="resend", kind=kind, count=2, retry_after_s=60)
    leader = asyncio.create_task(send_one(room, letter("copy")))
    passenger = asyncio.create_task(send_one(room, letter(1), max_wait_ms=19_000))
    await in_line(room, 1)
    free.set()
    async with asyncio.timeout(30):
        outcomes: list[Any] = await asyncio.gather(leader, passenger, return_exceptions=True)
    expected = {"missing_required_field": RequestRejected, "reset_after": Fault, "rate_limit_exceeded": Deferred}
    assert isinstance(outcomes[0], Served)
    assert outcomes[0].value == sent.value
    assert type(outcomes[1]) is expected[kind]
    assert room._lanes == {}


async def test_who_is_stopped_while_a_refused_call_moves_on_is_not_sent(house: House) -> None:
    room = house.room()
    free = hold(room)
    jobs = [asyncio.create_task(send_one(room, letter(n))) for n in range(3)]
    await in_line(room, 2)
    call = room.rotation.provider.call

    async def refused(*_: Any, **__: Any) -> Reply:
        jobs[1].cancel()
        await asyncio.wait({jobs[1]})
        room.rotation.provider.call = call  # type: ignore[method-assign]
        return Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "too fast"))

    room.rotation.provider.call = refused  # type: ignore[method-assign]
    free.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == ["Served", "CancelledError", "Served"]
    assert accepted(house) == (2, 0, 0)


@pytest.mark.parametrize("key", ["b\u00fcro", "x" * 257, "line\nbreak"])
def test_an_idempotency_key_that_no_header_can_carry_fails_its_own_job_alone(key: str) -> None:
    with pytest.raises(InvalidArguments, match=r"^idempotency_key: is required, since the job's id"):
        letter(1, key=key)


async def until(check: Any, *, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(check):  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.01)
